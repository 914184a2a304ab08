"""The improved ranking loss on the embedded scenes."""

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
        train=TrainConfig(steps=1000, eval_every=250),
        eval=EvalConfig(num_images=200),
    )
