"""The improved ranking loss of the paper on the embedded scenes, sized for two CPU cores.

    reldepth train --config ranking

ResNet-18 from scratch at 96x128, decoder of width 32: an eighth of the paper's, because the decoder
is most of the arithmetic. Loss and pairs are the paper's; AdamW, and one learning rate for all
layers, because the encoder is not pre-trained.

Cost: 3.3 minutes on 2 idle CPU cores (AMD EPYC), start and compilation included.
Score: WHDR 13.0 % on held-out scenes (three seeds, ± 0.1); "lower is nearer" has 38.6 %.
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


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        data=DataConfig(source=Choice("synthetic"), crop=(96, 128), batch_size=8),
        model=ModelConfig(encoder=Choice("resnet18"), decoder_width=32, init="he"),
        loss=Choice("ranking"),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, encoder_lr_scale=1.0, warmup_steps=50),
        train=TrainConfig(steps=1000, eval_every=500),
        eval=EvalConfig(num_images=200),
    )
