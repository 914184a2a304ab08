"""What the kill harness trains: every part of a run, as small as it can be."""

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.registry import ENCODERS, SOURCES, Entry

# Not files of the plug-in packages: nobody should find them there.
ENCODERS.entries["strides"] = Entry("tests.kills.plugins", {})
SOURCES.entries["noise"] = Entry("tests.kills.plugins", {})


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        data=DataConfig(source=Choice("noise"), crop=(32, 64), batch_size=2, threads=1, prefetch=1),
        model=ModelConfig(encoder=Choice("strides"), decoder_width=2, init="he"),
        pairs=Choice("uniform", num_pairs=50),
        optim=OptimConfig(name="adamw", learning_rate=1e-2, encoder_lr_scale=1.0),
        train=TrainConfig(
            steps=24, log_every=4, eval_every=6, eval_images=1, checkpoint_every=3, keep=2
        ),
        eval=EvalConfig(num_images=1, pairs_per_image=50),
    )
