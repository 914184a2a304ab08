"""Winograd's convolution against a direct one in float64, and whole networks that use it."""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from reldepth_jax import api, presets, runs
from reldepth_jax.config import Choice, Config, ModelConfig
from reldepth_jax.data.preprocessing import Preprocessing
from reldepth_jax.models.fast import fast_params
from reldepth_jax.models.reldepth_net import RelDepthNet
from reldepth_jax.ops import winograd
from reldepth_jax.weights import arrays
from tests.references.torch_midas import MidasV21Small
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.torch_sgrl import Sgrl
from tests.references.transfer import as_torch, randomise

# Relative to the largest output. Three times what was measured.
LAYER = {16: 8e-6, 512: 2e-5}
NETWORK = 1.5e-5


def direct(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i in range(3):
        for j in range(3):
            total += padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return total


def example(*shape: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and a kernel, float64 that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=shape), rng.normal(size=(3, 3, shape[3], outputs))
    return x.astype(np.float32).astype(float), kernel.astype(np.float32).astype(float)


def error(x: np.ndarray, kernel: np.ndarray, compiled: bool = True) -> float:
    """Return the largest difference relative to the largest output."""
    convolve = jax.jit(winograd.conv3x3) if compiled else winograd.conv3x3
    expected = direct(x, kernel)
    transformed = jnp.asarray(winograd.transform_kernel(kernel))
    got = np.asarray(convolve(jnp.asarray(x, jnp.float32), transformed))
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 3)], ids=str)
def test_convolution_of_any_size_agrees(size: tuple[int, int]):
    assert error(*example(2, *size, 3, outputs=5)) < LAYER[16]


@pytest.mark.parametrize("height", [3, 17])
def test_strips_make_no_difference(height: int, monkeypatch: pytest.MonkeyPatch):
    x, kernel = example(2, height, 9, 3, outputs=5)
    monkeypatch.setattr(winograd, "_STRIP_BYTES", 40_000)
    assert error(x, kernel) < LAYER[16]


@pytest.mark.parametrize("channels", LAYER)
def test_error_is_the_stated_one(channels: int):
    errors = [error(*example(1, 12, 12, channels, outputs=16, seed=seed)) for seed in range(3)]
    assert LAYER[channels] / 100 < max(errors) < LAYER[channels]


def test_a_wrong_entry_of_any_matrix_is_noticed(monkeypatch: pytest.MonkeyPatch):
    # Two tiles: one alone would have zeros around it, and so hide the outer entries.
    x, kernel = example(1, 8, 8, 1, outputs=1)
    for name in ("_INPUT", "_KERNEL", "_OUTPUT"):
        right = np.array(getattr(winograd, name))
        for index in np.ndindex(right.shape):
            wrong = right.copy()
            wrong[index] += 1
            # What is not compiled is read anew; the factors of tiles are Python's.
            monkeypatch.setattr(winograd, name, wrong if name == "_KERNEL" else wrong.tolist())
            assert error(x, kernel, compiled=False) > 1e-3, (name, index)
        monkeypatch.undo()
    assert error(x, kernel, compiled=False) < LAYER[16]


REFERENCES: dict[str, Callable[[], nn.Module]] = {
    "redweb": lambda: TorchRelDepthNet(Options()),
    "sgrl": Sgrl,
    "midas_v21_small": MidasV21Small,
}


def torch_network(make: Callable[[], nn.Module]) -> nn.Module:
    module = make()
    randomise(module, seed=1)
    return module.eval()


def ours(
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], rename: Callable[[str], str] = str
) -> api.Model:
    """Return our network with torch's weights, fast."""
    held = {key: tensors[rename(key)].numpy() for key in arrays.shapes(config, "network")}
    states = arrays.to_states(config, "network", held)
    return api.Model(config, *states, Preprocessing(), {}, fast=True)


@pytest.mark.parametrize("name", REFERENCES)
def test_error_of_networks_is_the_stated_one(name: str):
    preset, module = presets.get(name), torch_network(REFERENCES[name])
    rename = preset.key_maps[0] if preset.key_maps else str
    model = ours(preset.model, module.state_dict(), rename)
    x = np.random.default_rng(1).uniform(size=(1, 64, 96, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.tensor(x.transpose(0, 3, 1, 2).copy(), dtype=torch.float64)
        expected = module.double()(images).numpy()
    got = np.asarray(model(x))
    assert np.ptp(expected) > 0.1 * np.abs(expected).max() > 0.001
    assert np.abs(got - expected).max() < NETWORK * np.abs(expected).max()


def test_only_suitable_convolutions_are_replaced():
    options = Options(encoder="resnet18", decoder_width=64)
    module = torch_network(functools.partial(TorchRelDepthNet, options))
    expected = {
        f"{name}.weight"
        for name, part in module.named_modules()
        if isinstance(part, nn.Conv2d)
        and part.kernel_size == (3, 3)
        and part.stride == (1, 1)
        and min(part.in_channels, part.out_channels) >= 32
    }
    config = ModelConfig(encoder=Choice("resnet18"), decoder_width=64)
    model = ours(config, module.state_dict())
    network = arrays.abstract(config, "network")
    assert isinstance(network, RelDepthNet)
    before = as_torch(model.params)
    after = as_torch(fast_params(network, model.params))
    assert {key for key, value in after.items() if value.shape[2:] == (6, 6)} == expected
    assert "encoder.layer1.0.conv1.weight" in expected
    assert "head.conv1.weight" in expected
    for key in before.keys() - expected:
        np.testing.assert_array_equal(after[key], before[key])
    # The model keeps its own.
    assert {value.shape[2:] for value in as_torch(model.params).values() if value.ndim == 4} == {
        (size, size) for size in (1, 3, 7)
    }


class Asked(Exception):
    """Raised where a script asks for the network's predictor."""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("predict", ["photo.jpg"]), ("evaluate", ["--dataset", "diw", "--data-dir", "nowhere"])],
)
@pytest.mark.parametrize("origin", ["--weights", "--workdir"])
@pytest.mark.parametrize("fast", [True, False])
def test_scripts_take_the_option(
    name: str,
    arguments: list[str],
    origin: str,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
):
    model = api.Model(ModelConfig(), nnx.State({}), nnx.State({}), Preprocessing(), {})
    monkeypatch.setattr(api, "load_model", lambda *_, **told: dataclasses.replace(model, **told))
    monkeypatch.setattr(api, "from_run", lambda *_, **told: dataclasses.replace(model, **told))
    monkeypatch.setattr(runs, "load_config", lambda _: Config())
    asked: list[bool] = []

    def predictor(self: api.Model, *_: object):
        asked.append(self.fast)
        raise Asked

    monkeypatch.setattr(api.Model, "predictor", predictor)
    told = [origin, str(tmp_path / "it"), *arguments, *["--fast"] * fast]
    monkeypatch.setattr("sys.argv", [name, *told])
    spec = importlib.util.spec_from_file_location(name, f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(Asked):
        module.main()
    assert asked == [fast]
