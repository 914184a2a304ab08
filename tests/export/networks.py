"""Small networks with random weights, and how outputs are compared."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.weights import arrays
from reldepth_jax.weights.presets import Preset
from tests.fixtures import tiny_transformers

BAR = 2e-5
"""Of the output's deviation: float32 in both, over a hundred layers."""


@pytest.fixture
def tiny_encoders(strides_encoder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let configurations name the smallest encoders."""
    tiny_transformers.named(monkeypatch)


def images(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(2, 3, *size)).astype(np.float32)


def error(got: np.ndarray, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    assert expected.std() > 0.01
    return float(np.abs(got - expected).max() / expected.std())


def expected(module: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    kind = next(module.parameters()).dtype
    with torch.no_grad():
        return module(torch.tensor(x, dtype=kind)).numpy()


def random_weights(config: ModelConfig, **options: Any) -> networks.Model:
    """Return a network whose activations stay of order one."""
    rng = np.random.default_rng(1)
    held = {}
    for key, shape in arrays.shapes(config, "network").items():
        if key.endswith(("running_var", ".gamma")) or (len(shape) == 1 and "weight" in key):
            held[key] = rng.uniform(0.5, 1.5, shape)
        else:
            fan = np.prod(shape[1:]) if len(shape) > 1 else 100
            held[key] = rng.normal(size=shape) * (1.5 / fan) ** 0.5
    held = {key: value.astype(np.float32) for key, value in held.items()}
    last = max(key for key in held if key.startswith("head.conv") and key.endswith("bias"))
    held[last] += 1
    size = 2 * config.multiple
    return networks.Model(
        config,
        arrays.variables(held),
        Preprocessing(size=size, multiple=config.multiple),
        {},
        **options,
    )


SMALL = ("strides", "tiny_dinov2")
"""The smallest encoders that give maps, and tokens."""


def small(preset: Preset) -> ModelConfig:
    """Return the network with the smallest encoder of its kind and a narrow decoder."""
    encoder = Choice(SMALL[bool(preset.model.patch)])
    return dataclasses.replace(preset.model, decoder_width=8, encoder=encoder)
