"""Winograd's convolution against a direct one in float64, and whole networks that use it."""

import dataclasses
import functools
import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from reldepth_jax.config import Choice, Config, DataConfig, ModelConfig, TrainConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.models.cpu import winograd, winograd_network
from reldepth_jax.models.cpu.winograd_network import exact_network, fast_params, fast_training
from reldepth_jax.models.layers import conv
from reldepth_jax.models.network import RelDepthNet
from reldepth_jax.run_dir import saved_config
from reldepth_jax.training.state import new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.weights import arrays, presets
from reldepth_jax.weights.presets import KeyMap
from tests.fixtures.training import with_devices
from tests.references.torch_midas import MidasV21Small
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.torch_sgrl import Sgrl
from tests.references.transfer import as_torch, randomise

# By the side of tiles and the channels, relative to the largest entry. Two to three times what was
# measured, on processors whose products of matrices add up in fewer or more parts.
LAYER = {(2, 16): 1e-6, (2, 512): 2e-6, (4, 16): 8e-6, (4, 512): 5e-5}
GRADIENT = {(2, 16): 1.5e-6, (2, 512): 1.5e-6, (4, 16): 1.5e-5, (4, 512): 3e-5}
SIDES = [2, 4]
NETWORK = 1.5e-5
# Times the error of torch in float32. Measured: 1.2 to 1.4.
EXACT = 2.0

Gradients = tuple[np.ndarray, np.ndarray]


def direct(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros((*x.shape[:3], kernel.shape[3]))
    for i in range(3):
        for j in range(3):
            total += padded[:, i : i + height, j : j + width] @ kernel[i, j]
    return total


def direct_gradients(x: np.ndarray, kernel: np.ndarray, direction: np.ndarray) -> Gradients:
    """Return those of <direct(x, kernel), direction>."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    of_padded, of_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i in range(3):
        for j in range(3):
            rows, columns = slice(i, i + height), slice(j, j + width)
            of_padded[:, rows, columns] += direction @ kernel[i, j].T
            of_kernel[i, j] = np.einsum("bhwi,bhwo->io", padded[:, rows, columns], direction)
    return of_padded[:, 1:-1, 1:-1], of_kernel


def example(*shape: int, outputs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and a kernel, float64 that float32 holds exactly."""
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=shape), rng.normal(size=(3, 3, shape[3], outputs))
    return x.astype(np.float32).astype(float), kernel.astype(np.float32).astype(float)


def relative(got: jax.Array, expected: np.ndarray) -> float:
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    return float(np.abs(np.asarray(got) - expected).max() / np.abs(expected).max())


def errors(
    side: int, x: np.ndarray, kernel: np.ndarray, compiled: bool = True
) -> tuple[float, float]:
    """Return the largest relative errors of the output and of the gradients."""
    function = functools.partial(winograd.trained3x3, side=side)
    function = jax.jit(function) if compiled else function
    got, pull = jax.vjp(function, jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    direction = np.random.default_rng(9).normal(size=got.shape).astype(np.float32)
    of_inputs = pull(jnp.asarray(direction))
    expected = direct_gradients(x, kernel, direction.astype(float))
    return (
        relative(got, direct(x, kernel)),
        max(relative(*each) for each in zip(of_inputs, expected, strict=True)),
    )


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 3), (4, 12)], ids=str)
def test_convolution_of_any_size_agrees_with_its_gradients(size: tuple[int, int], side: int):
    output, gradient = errors(side, *example(2, *size, 3, outputs=5))
    assert output < LAYER[side, 16]
    assert gradient < GRADIENT[side, 16]


@pytest.mark.parametrize(("side", "channels"), LAYER)
def test_errors_are_the_stated_ones(side: int, channels: int):
    examples = [example(2, 12, 12, channels, outputs=16, seed=seed) for seed in range(3)]
    found = [errors(side, *each) for each in examples]
    for worst, stated in zip(map(max, *found), (LAYER, GRADIENT), strict=True):
        assert stated[side, channels] / 100 < worst < stated[side, channels]


@pytest.mark.parametrize("side", SIDES)
def test_a_wrong_entry_of_any_matrix_is_noticed(side: int, monkeypatch: pytest.MonkeyPatch):
    # Two tiles: one alone would have zeros around it, and so hide the outer entries.
    x, kernel = example(1, 2 * side, 2 * side, 1, outputs=1)
    form = winograd._FORMS[side]
    for name in form._fields:
        right = np.array(getattr(form, name))
        for index in np.ndindex(right.shape):
            wrong = right.copy()
            wrong[index] += 2
            # What is not compiled is read anew; the factors of tiles are Python's.
            changed = form._replace(**{name: tuple(map(tuple, wrong.tolist()))})
            monkeypatch.setitem(winograd._FORMS, side, changed)
            assert min(errors(side, x, kernel, compiled=False)) > 1e-3, (name, index)
        monkeypatch.undo()
    assert errors(side, x, kernel, compiled=False)[0] < LAYER[side, 16]


@pytest.mark.parametrize(
    ("size", "channels", "taken"),
    [
        ((2, 64, 64), (128, 128), True),
        # Each too small in one respect: channels, tiles, multiplications.
        ((2, 64, 64), (256, 32), False),
        ((1, 20, 24), (1024, 1024), False),
        ((2, 32, 64), (64, 64), False),
    ],
)
def test_training_takes_it_where_it_gains(
    size: tuple[int, int, int], channels: tuple[int, int], taken: bool
):
    module = conv(*channels, 3, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    graph, state = nnx.split(fast_training(module))
    x = jnp.zeros((*size, channels[0]))
    text = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).as_text()
    assert ("stablehlo.convolution" in text) is not taken
    assert ("stablehlo.dot_general" in text) is taken


def lowered_step(on: bool) -> str:
    config = Config(
        model=ModelConfig(encoder=Choice("resnet18"), decoder_width=64),
        data=DataConfig(crop=(256, 256), batch_size=4),
        train=TrainConfig(steps=1, winograd=on),
    )
    _, state = new_state(config, abstract=True)
    shape = (4, 256, 256)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8),
        "depth": jax.ShapeDtypeStruct(shape, jnp.float32),
        "mask": jax.ShapeDtypeStruct(shape, jnp.bool_),
    }
    step = step_function(config, compiled=False)
    return jax.jit(step).lower(state, batch).as_text()


def test_the_configuration_switches_it_off():
    on, off = (lowered_step(each).count("stablehlo.convolution") for each in (True, False))
    assert 0 < on < off


SPLIT = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from reldepth_jax.models.cpu import winograd

rng = np.random.default_rng(0)
x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((8, 16, 20, 8), (3, 3, 8, 6)))

def function(x, kernel):
    return jnp.sum(jnp.sin(winograd.trained3x3(x, kernel, 4)))

gradients = jax.value_and_grad(function, (0, 1))
mesh = Mesh(np.array(jax.devices()), ("batch",))
split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
whole = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
compiled = jax.jit(gradients).lower(split, whole).compile()
moved = ("all-gather", "all-to-all", "collective-permute")
assert not any(each in compiled.as_text() for each in moved)
assert "all-reduce" in compiled.as_text()
of_parts, expected = compiled(split, whole), jax.jit(gradients)(x, kernel)
for one, other in zip(jax.tree.leaves(of_parts), jax.tree.leaves(expected), strict=True):
    # Roundings of the convolution, which the sine's slope enlarges; a sum left out is of order one.
    np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())
print(len(jax.devices()))
"""


def test_the_parts_of_a_batch_stay_on_their_devices():
    environment = os.environ | with_devices(4)
    run = [sys.executable, "-c", SPLIT]
    result = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["4"]


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
    config: ModelConfig, tensors: Mapping[str, torch.Tensor], rename: KeyMap = str
) -> networks.Model:
    """Return our network with torch's weights, fast."""
    held = {key: tensors[str(rename(key))].numpy() for key in arrays.shapes(config, "network")}
    return networks.Model(config, arrays.variables(held), Preprocessing(), {}, fast=True)


@pytest.fixture
def take_exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let exact prediction take F(2,3) for all 3x3 convolutions at stride 1, however small."""
    for name in ("CHANNELS", "MULTIPLICATIONS"):
        monkeypatch.setattr(winograd_network, f"_LEAST_{name}_EXACT", 2)
    networks._compiled.cache_clear()
    yield
    networks._compiled.cache_clear()


@pytest.mark.parametrize("name", REFERENCES)
def test_error_of_networks_is_the_stated_one(name: str, take_exact: None):
    preset, module = presets.get(name), torch_network(REFERENCES[name])
    rename = preset.key_maps[0] if preset.key_maps else str
    fast = ours(preset.model, module.state_dict(), rename)
    x = np.random.default_rng(1).uniform(size=(1, 64, 96, 3)).astype(np.float32)
    images = torch.tensor(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        direct = module(images).numpy()
        expected = module.double()(images.double()).numpy()
    scale = np.abs(expected).max()
    assert np.ptp(expected) > 0.1 * scale > 0.001
    assert np.abs(np.asarray(fast(x)) - expected).max() < NETWORK * scale
    exact = np.asarray(dataclasses.replace(fast, fast=False)(x))
    errors = [float(np.sqrt(np.mean((found - expected) ** 2))) for found in (exact, direct)]
    assert errors[0] < EXACT * errors[1]


@pytest.mark.parametrize(("side", "taken"), [(96, True), (48, False)])
def test_exact_prediction_takes_it_where_it_gains(side: int, taken: bool):
    module = conv(256, 256, 3, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    graph, state = nnx.split(exact_network(module))
    # However many images there are.
    for batch in (1, 64):
        x = jax.ShapeDtypeStruct((batch, side, side, 256), jnp.float32)
        text = jax.jit(lambda state, x: nnx.merge(graph, state)(x)).lower(state, x).as_text()
        assert ("stablehlo.convolution" in text) is not taken
        assert ("stablehlo.dot_general" in text) is taken


def test_a_network_without_large_convolutions_is_left_alone():
    module = conv(128, 64, 3, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    assert exact_network(module) is module


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
    before = as_torch(model.states()[0])
    after = as_torch(fast_params(network, model.states()[0]))
    assert {key for key, value in after.items() if value.shape[2:] == (6, 6)} == expected
    assert "encoder.layer1.0.conv1.weight" in expected
    assert "head.conv1.weight" in expected
    for key in before.keys() - expected:
        np.testing.assert_array_equal(after[key], before[key])
    # The model keeps its own.
    own = as_torch(model.states()[0]).values()
    assert {value.shape[2:] for value in own if value.ndim == 4} == {(n, n) for n in (1, 3, 7)}


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
    model = networks.Model(ModelConfig(), {}, Preprocessing(), {})
    monkeypatch.setattr(
        networks, "load_model", lambda *_, **told: dataclasses.replace(model, **told)
    )
    monkeypatch.setattr(networks, "from_run", lambda *_, **told: dataclasses.replace(model, **told))
    monkeypatch.setattr(saved_config, "load_config", lambda _: Config())
    asked: list[bool] = []

    def predictor(self: networks.Model, *_: object, **__: object):
        asked.append(self.fast)
        raise Asked

    monkeypatch.setattr(networks.Model, "predictor", predictor)
    told = [origin, str(tmp_path / "it"), *arguments, *["--fast"] * fast]
    with pytest.raises(Asked):
        importlib.import_module(f"reldepth_jax.cli.{name}").main(told)
    assert asked == [fast]
