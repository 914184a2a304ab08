"""A small network learns what another one says of your photographs, as sure as that one is.

    pip install "reldepth-jax[pretrained]"
    reldepth predict PATH/rgb --npy --output PATH/teacher
    reldepth train --config distil:PATH

No ground truth is needed. The teacher is the network of the package; `--model` or `--workdir` of
`reldepth predict` name another one. Its temperature, in the unit of its output, is then
`--config.data.source.temperature`: `reldepth evaluate` fits it on photographs with ground truth
(docs/evaluation.md). Where there is none, `--config.loss.name=ranking` learns the order alone. The
student is EfficientNet-Lite0 from ImageNet with a decoder of width 32. The first 80 % of the sorted
names are for training, the next 10 % for validation, whose errors are against the teacher.

Cost: not measured in this form.
Score: not measured in this form. docs/training.md has that of the same student and loss in 200
steps with crops of 96x128, beside photographs with ground truth.
"""

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config(variant: str = "photographs") -> Config:
    """Return the configuration; `variant` is the folder that holds rgb/ and teacher/."""
    return Config(
        data=DataConfig(
            source=Choice(
                "folder",
                root=variant,
                maps="teacher/*.npy",
                polarity="ordinal",
                # Of the network of the package (docs/model_card.md).
                temperature=0.451,
            ),
            crop=(128, 160),
            zoom=(1.0, 1.6),
            batch_size=8,
            color_jitter=0.4,
            gamma_jitter=0.5,
        ),
        model=ModelConfig(
            encoder=Choice("efficientnet_lite0"), decoder_width=32, normalisation="tf", init="he"
        ),
        loss=Choice("distillation"),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            encoder_lr_scale=0.2,
            warmup_steps=50,
            weight_decay=0.02,
            max_grad_norm=1.0,
        ),
        train=TrainConfig(steps=1000, eval_every=500),
        eval=EvalConfig(num_images=80),
        init_from="pretrained:efficientnet_lite0",
        init_part="encoder",
    )
