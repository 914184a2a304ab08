"""A few steps of everything, to see that it works. The tests run it.

    reldepth train --config smoke

Cost: about a minute on 2 busy CPU cores, most of it compilation.
Score: none; the network stays untrained.
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
        data=DataConfig(crop=(32, 64), batch_size=2),
        model=ModelConfig(encoder=Choice("resnet18"), decoder_width=8, init="he"),
        pairs=Choice("uniform", num_pairs=100),
        # Constant: one compiled step for runs of any length.
        optim=OptimConfig(name="adamw", learning_rate=1e-3, schedule="constant"),
        train=TrainConfig(steps=8, log_every=2, eval_every=8, eval_images=4, checkpoint_every=4),
        eval=EvalConfig(num_images=4, pairs_per_image=100),
    )
