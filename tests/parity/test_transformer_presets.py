"""Depth Anything and DPT at their full size: keys, shapes, counts, files and one whole network.

Keys and shapes are compared with those recorded for the published files; ViT-S goes through files
of either layout and the converter, and its output is compared with a torch module of its layout.
All of them, at larger sizes: `python -m tests.parity.whole_networks`.
"""

import dataclasses
import hashlib
import os
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

from reldepth_jax.cli import convert as cli_convert
from reldepth_jax.config import Config, load, to_dict
from reldepth_jax.config.serialisation import model_from_dict
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.registry import PRESETS
from reldepth_jax.types import with_polarity
from reldepth_jax.weights import arrays, convert, file, init_from, presets
from reldepth_jax.weights.presets.base import parts
from reldepth_jax.weights.tensors import WeightsError
from tests.parity.whole_networks import (
    BAR,
    SIZES,
    images,
    reference,
    through_files,
    torch_output,
)
from tests.references import hugging_face
from tests.references.transfer import randomise

# Entries of the published state dict and SHA-256 of its lines "key shape" (shape as Python prints
# the tuple), sorted and joined by newlines.
PUBLISHED = {
    "depth_anything_v2_vits": (
        239,
        "65256ce9e61be5804908ea35bd7437c64b93c418b052472b1a56133a33e2d2da",
    ),
    "depth_anything_v2_vitb": (
        239,
        "175baabb098c6368d58375f51cad0090e6442d057043e3b7fe1334213fb43ea5",
    ),
    "depth_anything_v2_vitl": (
        407,
        "8f55d1377417f6d1e993bd7ef6d9dec8f662041fc52bb21b7a49db06efb68255",
    ),
    "dpt_large": (368, "3cdb5eb90ea3c800486bac1282d535740209b35baf49aedcbec447ddca8d7955"),
    "dpt_hybrid": (368, "4e0ebe9cc44e73cb89ffe0e92a150ca31150a8ac889cc3b8a1b2069d8a850dd6"),
}
# The same of HuggingFace's files, without what takes no part in the output.
HUGGING_FACE = {
    "depth_anything_v2_vits": (
        282,
        "6339bf954d9d052b30b60e81e272bc449d6b345a40114ffa145afde5de310bac",
    ),
    "depth_anything_v2_vitb": (
        282,
        "6cc54432ebd4bfb6160d6e8fa6dbe146d9287b89ddc8dc4dd2e8996bc82cfaca",
    ),
    "depth_anything_v2_vitl": (
        498,
        "8545d694348697282cd56dc1cb6813be095e52d0e1a13ab1cf03beba8daa2d07",
    ),
    "dpt_large": (456, "f5cca6c05e12152e28f726c18d099bfea6dba318ab5ef5f3bc7f5eb3b9281a12"),
    "dpt_hybrid": (408, "06de92f364b1ed2cd54ab6fd67ab54adcb42f3fa941f6d81fea0d87baef05310"),
}
COUNTS = {
    # parameters, of them dead
    "depth_anything_v2_vits": (24_785_089, 74_240),
    "depth_anything_v2_vitb": (97_470_785, 295_936),
    "depth_anything_v2_vitl": (335_315_649, 1_181_184),
    "dpt_large": (344_055_465, 2_207_208),
    "dpt_hybrid": (123_146_985, 1_950_696),
}
TRANSFORMERS = [name for name in PRESETS.entries if presets.get(name).model.patch]


def digest(entries: dict[str, tuple[int, ...]]) -> tuple[int, str]:
    lines = sorted(f"{key} {tuple(shape)}" for key, shape in entries.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()


def expected_of(name: str, layout: int) -> dict[str, tuple[int, ...]]:
    """Return keys and shapes of a published file by the key map of a layout, dead ones left out."""
    preset = presets.get(name)
    found = {}
    for key, shape in arrays.shapes(preset.model, "network").items():
        names = parts(preset.key_maps[layout](key))
        for part in names:
            assert part not in found
            found[part] = (shape[0] // len(names), *shape[1:])
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_are_those_of_the_published_files(name: str):
    preset = presets.get(name)
    assert digest({**expected_of(name, 0), **preset.dead}) == PUBLISHED[name]
    assert digest(expected_of(name, 1)) == HUGGING_FACE[name]
    with torch.device("meta"):
        entries = reference(name).state_dict().items()
    assert digest({key: tuple(value.shape) for key, value in entries}) == PUBLISHED[name]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name: str):
    preset = presets.get(name)
    dead = sum(int(np.prod(shape)) for shape in preset.dead.values())
    live = sum(int(np.prod(shape)) for shape in expected_of(name, 0).values())
    assert (live + dead, dead) == COUNTS[name]


@pytest.mark.parametrize("name", ["depth_anything_v2_vits", "dpt_large", "dpt_hybrid"])
def test_both_layouts_name_the_same_arrays(name: str):
    preset = presets.get(name)
    for key in arrays.shapes(preset.model, "network"):
        (original,) = parts(preset.key_maps[0](key))
        theirs = list(parts(preset.key_maps[1](key)))
        assert theirs == hugging_face.names(original, hybrid=name == "dpt_hybrid"), key


def test_newer_names_of_attention_are_known():
    newer = presets.get("depth_anything_v2_vits").key_maps[2]
    assert newer("encoder.blocks.7.attn.qkv.bias") == tuple(
        f"backbone.encoder.layer.7.attention.{part}_proj.bias" for part in "qkv"
    )
    assert newer("encoder.blocks.7.attn.proj.weight") == (
        "backbone.encoder.layer.7.attention.o_proj.weight"
    )


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_versions_differ_in_taps_ends_and_ways_back(name: str):
    preset = presets.get(name)
    again = model_from_dict(to_dict(Config(model=preset.model))["model"])
    assert again == preset.model
    network: Any = arrays.abstract(preset.model, "network")
    assert network.encoder.taps == SIZES[name].taps
    way_back = {"depth_anything_v1": "linear", "depth_anything_v2": "linear_aligned"}
    assert preset.preprocessing.enlarge == way_back.get(name[:17], "cubic")
    limit = SIZES[name].max_depth
    assert preset.model.max_depth == limit
    assert preset.model.output == ("depth" if limit else "disparity")
    if preset.layout:
        size = f"depth_anything_v2_{name.rsplit('_', 1)[1]}"
        assert preset.layout == presets.get(size).layout
        assert expected_of(name, 0) == expected_of(size, 0)


def test_every_transformer_has_a_reference():
    assert set(SIZES) == set(TRANSFORMERS)


@pytest.fixture(scope="module")
def vits() -> torch.nn.Module:
    module = reference("depth_anything_v2_vits")
    randomise(module, seed=1)
    return module.eval()


@pytest.fixture(scope="module")
def published(vits: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("published") / "depth_anything_v2_vits.pth"
    torch.save(vits.state_dict(), path)
    return path


def test_vits_agrees_with_torch_through_its_file(
    vits: torch.nn.Module,
    published: pathlib.Path,
    tmp_path: pathlib.Path,
    parity: Callable[..., None],
):
    weights = convert.from_file(published)
    assert weights.architecture == "depth_anything_v2_vits"
    assert weights.provenance["told_by"] == "the name of the file"
    path = tmp_path / "ours.safetensors"
    file.write(path, weights)
    model = networks.load_model(path)
    assert (model.larger_is, model.unit) == ("nearer", None)
    # Its metadata say all options of the encoder, also those at their defaults.
    assert model.weights().architecture == "depth_anything_v2_vits"
    size = (56, 70)
    target = torch_output(vits, size)
    bar = float(BAR * target.std() / np.abs(target).max())
    got = {"output": np.asarray(model(images(size)))}
    parity("depth_anything_v2_vits at 56x70", got, {"output": target}, bar)


def test_an_encoder_alone_is_recognised_and_starts_a_network(
    vits: torch.nn.Module, tmp_path: pathlib.Path
):
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    front = "pretrained."
    torch.save(
        {k.removeprefix(front): v for k, v in vits.state_dict().items() if k.startswith(front)},
        path,
    )
    weights = convert.from_file(path)
    assert (weights.architecture, weights.part) == ("dinov2_vits14", "encoder")
    ours = tmp_path / "dinov2_vits14.safetensors"
    file.write(ours, weights)
    settings = load("configs/finetune.py:dinov2_vits14")
    start = init_from.load(dataclasses.replace(settings, init_from=str(ours)))
    assert start is not None
    assert start.part == "encoder"
    assert set(start.arrays) == set(arrays.shapes(settings.model, "encoder"))
    np.testing.assert_array_equal(
        start.arrays["blocks.3.attn.qkv.weight"],
        vits.state_dict()["pretrained.blocks.3.attn.qkv.weight"].numpy(),
    )


@pytest.mark.parametrize("name", ["depth_anything_v2_vits", "dpt_hybrid"])
def test_in_bfloat16_the_map_is_float32(name: str):
    model = dataclasses.replace(presets.get(name).model, dtype="bfloat16")
    graph, state = nnx.split(arrays.abstract(model, "network"))
    images = jax.ShapeDtypeStruct((1, 2 * model.multiple, 3 * model.multiple, 3), jnp.float32)

    def taps_and_map(state: nnx.State, x: jax.Array) -> Any:
        network: Any = nnx.merge(graph, state)
        return network.encoder(x), network(x)

    taps, score = jax.eval_shape(taps_and_map, state, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")}
    assert (score.shape, score.dtype) == (images.shape[:3], jnp.float32)


def test_files_of_either_layout_are_the_same_network_and_so_is_an_exported_one(
    vits: torch.nn.Module, tmp_path: pathlib.Path
):
    through_files("depth_anything_v2_vits", vits, tmp_path)
    theirs = hugging_face.tensors(vits.state_dict())
    assert len(theirs) == 287
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(theirs, path)
    with pytest.raises(WeightsError, match=r"holds one of depth_anything_v1_vits, .*with --arch"):
        convert.from_file(path)
    assert "told_by" not in convert.from_file(path, "depth_anything_v2_vits").provenance


def test_versions_are_told_by_the_name_of_the_file_or_by_the_user_alone(
    published: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("depth_anything_v1_vits", "depth_anything_v2_metric_vkitti_vits"):
        path = tmp_path / presets.get(name).files[0].file
        os.link(published, path)
        assert convert.from_file(path).architecture == name
    other = tmp_path / "weights.pth"
    os.link(published, other)
    with pytest.raises(WeightsError) as caught:
        convert.from_file(other)
    assert all(name in str(caught.value) for name in TRANSFORMERS if name.endswith("vits"))
    code = cli_convert.main([str(published), str(tmp_path / "ours.safetensors")])
    told = capsys.readouterr().out
    assert code == 0
    assert "is told by the name of the file alone; --arch says it for sure" in told
    metric = convert.from_file(other, "depth_anything_v2_metric_hypersim_vits")
    assert metric.unit == "metre"
    assert metric.meaning == "larger is farther (depth in metres)"
    with pytest.raises(WeightsError, match="not the weights of dpt_large"):
        convert.from_file(other, "dpt_large")


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in ("depth_anything_v2_vits", "depth_anything_v1_vits", "dpt_large")
     for size in ((40, 60), (150, 100), (84, 84))],
    ids=str,
)  # fmt: skip
def test_the_chain_from_a_photograph_is_that_of_the_originals(name: str, size: tuple[int, int]):
    """Size, kernel, network and way back, with any network; originals' steps in torch."""
    preset = presets.get(name)
    changes = preset.preprocessing.to_dict() | {"size": 98 if preset.model.patch == 14 else 96}
    preprocessing = Preprocessing.from_dict(changes)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 1, 5, padding=2).double()

    def network(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return layer(images)[:, 0]

    def ours(images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        return network(torch.tensor(images.transpose(0, 3, 1, 2)).double()).numpy()

    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    got = Predictor(ours, preprocessing, preset.model.output)(image)
    rgb = torch.tensor(image.transpose(2, 0, 1)[None] / 255.0)
    height, width = size
    if name == "dpt_large":
        scale = min((96 / height, 96 / width), key=lambda scale: abs(1 - scale))
        new = [max(32, round(scale * side / 32) * 32) for side in size]
    else:
        scale = max(98 / height, 98 / width)
        new = [max(98, round(scale * side / 14) * 14) for side in size]
    interpolate = torch.nn.functional.interpolate
    shown = interpolate(rgb, new, mode="bicubic", align_corners=False)
    map_ = network(shown)[:, None]
    back: dict[str, Any] = {
        "depth_anything_v2_vits": {"mode": "bilinear", "align_corners": True},
        "depth_anything_v1_vits": {"mode": "bilinear", "align_corners": False},
        "dpt_large": {"mode": "bicubic", "align_corners": False},
    }[name]
    target = interpolate(map_, size, **back)[0, 0].numpy()
    score = with_polarity(target, preset.model.output)
    assert np.abs(got - score).max() < 2e-5 * score.std() + 1e-6
