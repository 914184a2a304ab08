"""What is computed: configuration and data, without importing JAX or torch."""

from typing import Any

import numpy as np

from reldepth_jax.config import Choice, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

KEYS = ("image", "depth", "mask")
"""What of a batch the step needs."""


def settings(
    encoder: str, *, size: int = 384, batch: int = 1, dtype: Any = "float32", pairs: int = 3000
) -> Config:
    """Return the paper's network and step, at a small rate: the same batch comes every time."""
    return Config(
        data=DataConfig(crop=(size, size), batch_size=batch),
        model=ModelConfig(encoder=Choice(encoder), init="he", dtype=dtype),
        loss=Choice("ranking"),
        pairs=Choice("uniform", num_pairs=pairs),
        optim=OptimConfig(name="sgd", learning_rate=1e-4, schedule="constant"),
        train=TrainConfig(steps=10_000),
    )


def make_batch(config: Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Return noise as image and depth, a tenth of it without ground truth."""
    rng = np.random.default_rng(seed)
    shape = (config.data.batch_size, *config.data.crop)
    return {
        "image": rng.integers(0, 256, (*shape, 3), np.uint8),
        "depth": rng.uniform(1, 10, shape).astype(np.float32),
        "mask": rng.uniform(size=shape) > 0.1,
    }


def make_scores(config: Config) -> np.ndarray:
    """Return scores for a batch, where the loss is measured alone."""
    shape = (config.data.batch_size, *config.data.crop)
    return np.random.default_rng(1).standard_normal(shape, np.float32)
