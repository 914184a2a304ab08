"""Published networks against torch modules of their layout, through files and the converter.

Random weights and running statistics -> state dict -> file -> converter -> our network: the same
output for a small image, and of one network at 384x384. Both in float32.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from torch import nn

from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.network import NORMALISATIONS
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights import arrays, convert, file, presets
from reldepth_jax.weights.tensors import WeightsError
from tests.parity.test_network_parity import IN_PRESETS, DecoderAndHead, fixed_taps
from tests.references.torch_midas import MidasV1, MidasV21, MidasV21Small
from tests.references.torch_resnet import TorchResNet
from tests.references.torch_sgrl import Sgrl
from tests.references.transfer import randomise

# Relative to the output's scale; both sides round to float32 (6e-8) in more than a hundred layers.
TOLERANCE = 1e-4
# What a forgotten quirk changes at least.
DISTINCT = 1e-3

REFERENCES: dict[str, Callable[..., nn.Module]] = {
    "sgrl": Sgrl,
    "midas_v1": MidasV1,
    "midas_v21": MidasV21,
    "midas_v21_small": MidasV21Small,
}
SMALL = (64, 96)
LARGE = ("midas_v21_small", (384, 384))


def images(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(1, *size, 3)).astype(np.float32)


def torch_output(module: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        # A copy: the originals work in place.
        return module(torch.tensor(x.transpose(0, 3, 1, 2).copy())).numpy()


def reference(name: str, **quirks: Any) -> nn.Module:
    module = REFERENCES[name](**quirks)
    randomise(module, seed=1)
    return module.eval()


def converted(path: pathlib.Path, name: str | None = None) -> networks.Model:
    """Convert a file, write ours, load that: what a user does."""
    ours = path.with_suffix(".ours.safetensors")
    file.write(ours, convert.from_file(path, name))
    return networks.load_model(ours)


def error(got: Any, expected: np.ndarray) -> float:
    assert got.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0.01
    return float(np.abs(np.asarray(got) - expected).max() / scale)


def test_every_preset_with_public_weights_has_a_reference():
    """Transformers have theirs in `test_transformer_parity` and `test_transformer_presets`."""
    transformers = {name for name in PRESETS.entries if presets.get(name).model.patch}
    without_code = {"redweb", "redweb_b", "reldepth_small"}
    assert set(REFERENCES) == set(PRESETS.entries) - without_code - transformers


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_agree_with_published_code(
    name: str, tmp_path: pathlib.Path, parity: Callable[..., None]
):
    module = reference(name)
    path = tmp_path / "published.pt"
    state: dict[str, Any] = dict(module.state_dict())
    if name == "sgrl":
        # As released: the state dict of a parallel module in a checkpoint, with a classifier.
        state |= {"encoder.fc.weight": torch.zeros(1000, 2048), "encoder.fc.bias": torch.zeros(9)}
        state = {"epoch": 3, "state_dict": {f"module.{key}": v for key, v in state.items()}}
    torch.save(state, path)
    model = converted(path)
    assert model.weights().architecture == name
    assert model.larger_is == "nearer"
    for size in [SMALL, *([LARGE[1]] if name == LARGE[0] else [])]:
        expected = torch_output(module, images(size))
        got = {"output": np.asarray(model(images(size)))}
        # A dead network would agree with anything.
        assert np.std(expected) > 0.01 * np.abs(expected).max()
        parity(f"{name} at {size[0]}x{size[1]}", got, {"output": expected}, TOLERANCE)


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    module = TorchResNet("resnet18")
    randomise(module, seed=1)
    return dict(module.state_dict())


WRAPPED: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "module. in front": lambda state: {f"module.{key}": value for key, value in state.items()},
    "in state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "in model, with optimizer": lambda state: {"model": state, "optimizer": {"state": {}}},
    "both": lambda state: {
        "epoch": 1,
        "state_dict": {f"module.{key}": value for key, value in state.items()},
    },
    "without counters": lambda state: {
        key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
    },
    "with a classifier": lambda state: {
        **state,
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    },
}


def assert_holds(weights: file.Weights, state: dict[str, torch.Tensor]) -> None:
    expected = {key: value for key, value in state.items() if "num_batches" not in key}
    assert weights.architecture == "resnet18"
    assert set(weights.arrays) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(weights.arrays[key], value.numpy())


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrapped_files_are_the_same_network(
    wrapping: str, resnet18: dict[str, torch.Tensor], tmp_path: pathlib.Path
):
    path = tmp_path / "model.pth.tar"
    torch.save(WRAPPED[wrapping](resnet18), path)
    assert_holds(convert.from_file(path), resnet18)


def test_safetensors_of_torch_are_read(resnet18: dict[str, torch.Tensor], tmp_path: pathlib.Path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(resnet18, path)
    assert_holds(convert.from_file(path), resnet18)


def test_the_message_names_all_that_does_not_fit(
    resnet18: dict[str, torch.Tensor], tmp_path: pathlib.Path
):
    state = dict(resnet18)
    del state["conv1.weight"], state["layer3.1.bn1.running_var"]
    state["extra.weight"] = torch.zeros(3)
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    path = tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(WeightsError) as caught:
        convert.from_file(path, "resnet18")
    said = str(caught.value)
    assert "not the weights of resnet18:" in said
    assert "2 missing: conv1.weight, layer3.1.bn1.running_var" in said
    assert "1 unexpected: extra.weight" in said
    assert "1 misshaped: layer1.0.conv1.weight (64, 64, 1, 1), expected (64, 64, 3, 3)" in said
    # By its keys alone: the nearest, if its first convolution is there.
    state["conv1.weight"] = resnet18["conv1.weight"]
    torch.save(state, path)
    with pytest.raises(WeightsError, match=r"the nearest is resnet18, with\n  1 missing: layer3"):
        convert.from_file(path)


QUIRKS: list[tuple[str, dict[str, Any]]] = [
    # preset, how ours forgets the quirk
    ("sgrl", {"skip_relu": False}),
    ("sgrl", {"fusion_align_corners": False}),
    ("sgrl", {"head_align_corners": False}),
    ("sgrl", {"unit_relu": False}),
    ("sgrl", {"head_relu": False}),
    ("midas_v1", {"skip_relu": False}),
    ("midas_v1", {"fusion_align_corners": False}),
    ("midas_v1", {"head_align_corners": True}),
    ("midas_v1", {"normalisation": "imagenet"}),
    ("midas_v21_small", {"skip_relu": True}),
    ("midas_v21_small", {"fusion_align_corners": False}),
    ("midas_v21_small", {"head_align_corners": True}),
    ("midas_v21_small", {"normalisation": "tf"}),
    ("midas_v21", {"skip_relu": False}),
    ("midas_v21", {"fusion_align_corners": False}),
    ("midas_v21", {"head_align_corners": True}),
]


@functools.cache
def small_output(name: str, **changes: Any) -> np.ndarray:
    """Return what decoder and head of a preset give, of small width, for fixed taps of an image."""
    config = dataclasses.replace(presets.get(name).model, decoder_width=8, **changes)
    model = abstract_network(lambda rngs: DecoderAndHead(config, rngs=rngs))
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = (2 / np.prod(leaf.shape[:3])) ** 0.5 if len(leaf.shape) == 4 else 0.1
        return jnp.asarray(abs(scale) * rng.normal(size=leaf.shape) + (leaf.ndim == 1), jnp.float32)

    graph, state = nnx.split(nnx.view(model, use_running_average=True, raise_if_not_found=False))
    normalised = NORMALISATIONS[config.normalisation](images((32, 96)))
    taps = [
        normalised[:, ::s, ::s].mean(-1, keepdims=True) + x
        for s, x in zip((4, 8, 16, 32), fixed_taps(1), strict=True)
    ]
    compiled = jax.jit(lambda state, *taps: nnx.merge(graph, state)(*taps))
    return np.asarray(compiled(jax.tree.map(draw, state), *taps))


@pytest.mark.parametrize(("name", "forgotten"), QUIRKS, ids=str)
def test_each_quirk_matters(name: str, forgotten: dict[str, Any]):
    """That the reference without a quirk differs, too, shows `test_reference_keys`."""
    expected = small_output(name)
    assert error(small_output(name, **forgotten), expected) > DISTINCT


def test_every_option_of_presets_is_compared_here():
    """Options of `ModelConfig` that the network's own parity test leaves to this one."""
    default = ModelConfig()
    used = {
        field.name
        for name in PRESETS.entries
        for field in dataclasses.fields(ModelConfig)
        if getattr(presets.get(name).model, field.name) != getattr(default, field.name)
    }
    assert used >= IN_PRESETS


@pytest.mark.parametrize("name", REFERENCES)
def test_exported_weights_run_in_published_code(
    name: str, tmp_path: pathlib.Path, parity: Callable[..., None]
):
    """Ours to a file with torch's keys, loaded strictly by the original's modules."""
    config = presets.get(name).model
    rng = np.random.default_rng(0)
    held = {}
    for key, shape in arrays.shapes(config, "network").items():
        scale = np.sqrt(1 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        value = scale * rng.normal(size=shape)
        if key.endswith(("running_var", "bn1.weight", "bn2.weight")):
            value = 1 + abs(value)
        held[key] = value.astype(np.float32)
    held[max(key for key in held if key.startswith("head.conv") and key.endswith("bias"))] += 1
    model = networks.Model(config, arrays.variables(held), Preprocessing(), {})
    path = tmp_path / "exported.safetensors"
    safetensors.torch.save_file(
        {key: torch.tensor(value) for key, value in convert.to_torch(model.weights()).items()},
        path,
    )
    module = REFERENCES[name]()
    module.load_state_dict(safetensors.torch.load_file(path), strict=True)
    expected = torch_output(module.eval(), images(SMALL))
    assert np.std(expected) > 0
    got = {"output": np.asarray(model(images(SMALL)))}
    parity(f"{name}, exported to torch", got, {"output": expected}, TOLERANCE)
