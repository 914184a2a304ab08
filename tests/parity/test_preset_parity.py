"""Published networks against torch modules written afresh, through files and the converter.

Random weights and running statistics -> state dict -> file -> converter -> our network: the same
output at 384x384 and at a size that is not square. Both in float32.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights import arrays, convert, file, presets
from reldepth_jax.weights.tensors import WeightsError
from tests.references.torch_midas import MidasV1, MidasV21, MidasV21Small
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
SIZES = [(384, 384), (256, 352)]
SMALL = (64, 96)


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
    assert set(REFERENCES) == set(PRESETS.entries) - {"redweb", "redweb_b"}


@pytest.mark.parametrize("name", REFERENCES)
def test_outputs_agree_with_published_code(
    name: str, tmp_path: pathlib.Path, parity: Callable[..., None]
):
    module = reference(name)
    path = tmp_path / "published.pt"
    torch.save(module.state_dict(), path)
    model = converted(path)
    assert model.weights().architecture == name
    assert model.larger_is == "nearer"
    for size in SIZES:
        expected = torch_output(module, images(size))
        got = {"output": np.asarray(model(images(size)))}
        # A dead network would agree with anything.
        assert np.std(expected) > 0.01 * np.abs(expected).max()
        parity(f"{name} at {size[0]}x{size[1]}", got, {"output": expected}, TOLERANCE)


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
        "encoder.fc.weight": torch.zeros(1000, 2048),
        "encoder.fc.bias": torch.zeros(1000),
    },
}


@pytest.fixture(scope="module")
def sgrl() -> tuple[nn.Module, np.ndarray]:
    module = reference("sgrl")
    return module, torch_output(module, images(SMALL))


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrapped_files_are_the_same_network(
    wrapping: str, sgrl: tuple[nn.Module, np.ndarray], tmp_path: pathlib.Path
):
    module, expected = sgrl
    path = tmp_path / "model.pth.tar"
    torch.save(WRAPPED[wrapping](dict(module.state_dict())), path)
    assert error(converted(path, "sgrl")(images(SMALL)), expected) < TOLERANCE


def test_safetensors_of_torch_are_read(sgrl: tuple[nn.Module, np.ndarray], tmp_path: pathlib.Path):
    module, expected = sgrl
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    assert error(converted(path)(images(SMALL)), expected) < TOLERANCE


def test_all_that_does_not_fit_is_told_at_once(
    sgrl: tuple[nn.Module, np.ndarray], tmp_path: pathlib.Path
):
    state = dict(sgrl[0].state_dict())
    del state["decoder.conv1.bias"], state["encoder.layer3.2.bn1.running_var"]
    state["decoder.extra.weight"] = torch.zeros(3)
    state["decoder.conv1.weight"] = torch.zeros(256, 512, 1, 1)
    path = tmp_path / "model.pt"
    torch.save(state, path)
    for name in ("sgrl", None):
        with pytest.raises(WeightsError) as caught:
            convert.from_file(path, name)
        told = str(caught.value)
        assert "2 missing: encoder.layer3.2.bn1.running_var, decoder.conv1.bias" in told or (
            "2 missing: decoder.conv1.bias, encoder.layer3.2.bn1.running_var" in told
        )
        assert "1 unexpected: decoder.extra.weight" in told
        assert "1 misshaped: decoder.conv1.weight (256, 512, 1, 1), expected (256, 512, 3, 3)" in (
            told
        )
        assert "sgrl" in told


QUIRKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # preset, how ours forgets the quirk, how the reference does
    ("sgrl", {"skip_relu": False}, {}),
    ("sgrl", {"fusion_align_corners": False}, {}),
    ("sgrl", {"head_align_corners": False}, {}),
    ("sgrl", {"unit_relu": False}, {}),
    ("sgrl", {"head_relu": False}, {}),
    ("midas_v1", {"skip_relu": False}, {}),
    ("midas_v1", {"fusion_align_corners": False}, {}),
    ("midas_v1", {"head_align_corners": True}, {}),
    ("midas_v1", {"normalisation": "imagenet"}, {}),
    ("midas_v21_small", {"skip_relu": True}, {}),
    ("midas_v21_small", {"fusion_align_corners": False}, {}),
    ("midas_v21_small", {"head_align_corners": True}, {}),
    ("midas_v21_small", {"normalisation": "tf"}, {}),
    ("midas_v21_small", {}, {"eps": 1e-5}),
    ("midas_v21_small", {}, {"same_padding": False}),
    ("midas_v21", {"skip_relu": False}, {}),
    ("midas_v21", {"fusion_align_corners": False}, {}),
    ("midas_v21", {"head_align_corners": True}, {}),
]


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], tuple[nn.Module, networks.Model]]:
    """Return `get(name)`: the reference and our network with its weights, made once."""
    made: dict[str, tuple[nn.Module, networks.Model]] = {}

    def get(name: str) -> tuple[nn.Module, networks.Model]:
        if name not in made:
            module = reference(name)
            tensors = {key: value.numpy() for key, value in module.state_dict().items()}
            preset = presets.get(name)
            rename = preset.key_maps[0]
            held = {key: tensors[rename(key)] for key in arrays.shapes(preset.model, "network")}
            states = arrays.to_states(preset.model, "network", held)
            model = networks.Model(preset.model, *states, preset.preprocessing, {})
            assert error(model(images(SMALL)), torch_output(module, images(SMALL))) < TOLERANCE
            made[name] = module, model
        return made[name]

    return get


@pytest.mark.parametrize(
    ("name", "ours", "theirs"), QUIRKS, ids=[f"{n}-{a or b}" for n, a, b in QUIRKS]
)
def test_each_quirk_matters(
    name: str,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    loaded: Callable[[str], tuple[nn.Module, networks.Model]],
):
    module, model = loaded(name)
    if theirs:
        forgetful = REFERENCES[name](**theirs).eval()
        forgetful.load_state_dict(module.state_dict())
        module = forgetful
    if ours:
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, **ours))
    assert error(model(images(SMALL)), torch_output(module, images(SMALL))) > DISTINCT


def test_every_option_of_presets_is_compared_here():
    """Options of `ModelConfig` that the network's own parity test leaves to this one."""
    default = ModelConfig()
    used = {
        field.name
        for name in PRESETS.entries
        for field in dataclasses.fields(ModelConfig)
        if getattr(presets.get(name).model, field.name) != getattr(default, field.name)
    }
    from tests.parity.test_network_parity import IN_PRESETS

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
    model = networks.Model(config, *arrays.to_states(config, "network", held), Preprocessing(), {})
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
