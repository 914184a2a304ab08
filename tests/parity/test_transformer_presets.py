"""Depth Anything and DPT at their full size: keys, shapes, counts, files and one whole network.

Keys and shapes are compared with those recorded for the published files; ViT-S goes through files
of either layout and the converter, and its output is compared with a torch module of its layout.
"""

import dataclasses
import hashlib
import os
import pathlib
import re
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
from tests.references.torch_dpt import DPT_HYBRID, DPT_LARGE, VITB, VITL, VITS, DepthAnything, Dpt
from tests.references.transfer import randomise

# Of the output's deviation; a tanh GELU gives 1e-3.
BAR = 2e-4

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
SIZES = {
    "depth_anything_v2_vits": VITS,
    "depth_anything_v2_vitb": VITB,
    "depth_anything_v2_vitl": VITL,
    "dpt_large": DPT_LARGE,
    "dpt_hybrid": DPT_HYBRID,
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


def reference(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return (Dpt if name.startswith("dpt") else DepthAnything)(SIZES[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_are_those_of_the_published_files(name: str):
    preset = presets.get(name)
    assert digest({**expected_of(name, 0), **preset.dead}) == PUBLISHED[name]
    assert digest(expected_of(name, 1)) == HUGGING_FACE[name]
    entries = reference(name).state_dict().items()
    assert digest({key: tuple(value.shape) for key, value in entries}) == PUBLISHED[name]


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name: str):
    preset = presets.get(name)
    dead = sum(int(np.prod(shape)) for shape in preset.dead.values())
    live = sum(int(np.prod(shape)) for shape in expected_of(name, 0).values())
    assert (live + dead, dead) == COUNTS[name]


DEPTH_ANYTHING_NAMES = [
    # Beginning or part in the original, in HuggingFace's.
    (r"pretrained\.(cls_token|mask_token)", r"backbone.embeddings.\1"),
    (r"pretrained\.pos_embed", "backbone.embeddings.position_embeddings"),
    (
        r"pretrained\.patch_embed\.proj\.(.*)",
        r"backbone.embeddings.patch_embeddings.projection.\1",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.attn\.proj\.(.*)",
        r"backbone.encoder.layer.\1.attention.output.dense.\2",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.attn\.qkv\.(.*)",
        r"backbone.encoder.layer.\1.attention.attention.*.\2",
    ),
    (
        r"pretrained\.blocks\.(\d+)\.ls(\d)\.gamma",
        r"backbone.encoder.layer.\1.layer_scale\2.lambda1",
    ),
    (r"pretrained\.blocks\.(.*)", r"backbone.encoder.layer.\1"),
    (r"pretrained\.norm\.(.*)", r"backbone.layernorm.\1"),
    (r"depth_head\.projects\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.projection.\2"),
    (r"depth_head\.resize_layers\.(\d)\.(.*)", r"neck.reassemble_stage.layers.\1.resize.\2"),
    (r"depth_head\.scratch\.output_conv1\.(.*)", r"head.conv1.\1"),
    (r"depth_head\.scratch\.output_conv2\.0\.(.*)", r"head.conv2.\1"),
    (r"depth_head\.scratch\.output_conv2\.2\.(.*)", r"head.conv3.\1"),
    (r"depth_head\.scratch\.(.*)", r"\1"),
]
DPT_NAMES = [
    (r"pretrained\.model\.cls_token", "dpt.embeddings.cls_token"),
    (r"pretrained\.model\.pos_embed", "dpt.embeddings.position_embeddings"),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stem\.conv\.(.*)",
        r"dpt.embeddings.backbone.bit.embedder.convolution.\1",
    ),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stem\.norm\.(.*)",
        r"dpt.embeddings.backbone.bit.embedder.norm.\1",
    ),
    (
        r"pretrained\.model\.patch_embed\.backbone\.stages\.(\d)\.blocks\.(.*)",
        r"dpt.embeddings.backbone.bit.encoder.stages.\1.layers.\2",
    ),
    (r"pretrained\.model\.patch_embed\.proj\.(.*)", r"dpt.embeddings.PROJECTION.\1"),
    (
        r"pretrained\.model\.blocks\.(\d+)\.attn\.qkv\.(.*)",
        r"dpt.encoder.layer.\1.attention.attention.*.\2",
    ),
    (
        r"pretrained\.model\.blocks\.(\d+)\.attn\.proj\.(.*)",
        r"dpt.encoder.layer.\1.attention.output.dense.\2",
    ),
    (r"pretrained\.model\.blocks\.(\d+)\.norm1\.(.*)", r"dpt.encoder.layer.\1.layernorm_before.\2"),
    (r"pretrained\.model\.blocks\.(\d+)\.norm2\.(.*)", r"dpt.encoder.layer.\1.layernorm_after.\2"),
    (
        r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc1\.(.*)",
        r"dpt.encoder.layer.\1.intermediate.dense.\2",
    ),
    (r"pretrained\.model\.blocks\.(\d+)\.mlp\.fc2\.(.*)", r"dpt.encoder.layer.\1.output.dense.\2"),
    (r"scratch\.output_conv\.(\d)\.(.*)", r"head.head.\1.\2"),
    (r"scratch\.(.*)", r"\1"),
]


def hugging_face_names(original: str, hybrid: bool = False) -> list[str]:
    """Return the names for one of the originals, by a list of rules of its own."""
    table = DEPTH_ANYTHING_NAMES if "depth_head" in original else DPT_NAMES
    if original.startswith("pretrained.") and not original.startswith(
        ("pretrained.model", "pretrained.act_postprocess")
    ):
        table = DEPTH_ANYTHING_NAMES
    if post := re.fullmatch(r"pretrained\.act_postprocess(\d)\.(.*)", original):
        place, rest = int(post[1]) - 1, post[2]
        inner = {"0": f"readout_projects.{place}.0", "3": f"layers.{place}.projection"}
        inner["4"] = f"layers.{place}.resize"
        return [f"neck.reassemble_stage.{inner[rest[0]]}.{rest.rsplit('.', 1)[1]}"]
    name = next(
        re.sub(pattern, theirs, original)
        for pattern, theirs in table
        if re.fullmatch(pattern, original)
    )
    if lateral := re.fullmatch(r"layer(\d)_rn\.weight", name):
        name = f"neck.convs.{int(lateral[1]) - 1}.weight"
    elif stage := re.fullmatch(r"refinenet(\d)\.(.*)", name):
        inner = re.sub(r"resConfUnit(\d)\.conv(\d)", r"residual_layer\1.convolution\2", stage[2])
        inner = inner.replace("out_conv", "projection")
        name = f"neck.fusion_stage.layers.{4 - int(stage[1])}.{inner}"
    projection = "projection" if hybrid else "patch_embeddings.projection"
    name = name.replace("PROJECTION", projection)
    if "*" in name:
        return [name.replace("*", part) for part in ("query", "key", "value")]
    return [name]


@pytest.mark.parametrize("name", ["depth_anything_v2_vits", "dpt_large", "dpt_hybrid"])
def test_both_layouts_name_the_same_arrays(name: str):
    preset = presets.get(name)
    for key in arrays.shapes(preset.model, "network"):
        (original,) = parts(preset.key_maps[0](key))
        theirs = list(parts(preset.key_maps[1](key)))
        assert theirs == hugging_face_names(original, hybrid=name == "dpt_hybrid"), key


def test_newer_names_of_attention_are_known():
    newer = presets.get("depth_anything_v2_vits").key_maps[2]
    assert newer("encoder.blocks.7.attn.qkv.bias") == tuple(
        f"backbone.encoder.layer.7.attention.{part}_proj.bias" for part in "qkv"
    )
    assert newer("encoder.blocks.7.attn.proj.weight") == (
        "backbone.encoder.layer.7.attention.o_proj.weight"
    )


TAPS = {
    "depth_anything_v1_vits": (8, 9, 10, 11),
    "depth_anything_v1_vitb": (8, 9, 10, 11),
    "depth_anything_v1_vitl": (20, 21, 22, 23),
    "depth_anything_v2_vits": (2, 5, 8, 11),
    "depth_anything_v2_vitb": (2, 5, 8, 11),
    "depth_anything_v2_vitl": (4, 11, 17, 23),
    "depth_anything_v2_metric_hypersim_vits": (2, 5, 8, 11),
    "depth_anything_v2_metric_hypersim_vitb": (2, 5, 8, 11),
    "depth_anything_v2_metric_hypersim_vitl": (4, 11, 17, 23),
    "depth_anything_v2_metric_vkitti_vits": (2, 5, 8, 11),
    "depth_anything_v2_metric_vkitti_vitb": (2, 5, 8, 11),
    "depth_anything_v2_metric_vkitti_vitl": (4, 11, 17, 23),
    "dpt_large": (5, 11, 17, 23),
    "dpt_hybrid": (8, 11),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_versions_differ_in_taps_ends_and_ways_back(name: str):
    preset = presets.get(name)
    again = model_from_dict(to_dict(Config(model=preset.model))["model"])
    assert again == preset.model
    network: Any = arrays.abstract(preset.model, "network")
    assert network.encoder.taps == TAPS[name]
    way_back = {"depth_anything_v1": "linear", "depth_anything_v2": "linear_aligned"}
    assert preset.preprocessing.enlarge == way_back.get(name[:17], "cubic")
    furthest = {"hypersim": 20.0, "vkitti": 80.0}
    limits = [limit for word, limit in furthest.items() if word in name]
    assert [preset.model.max_depth] == (limits or [0.0])
    assert preset.model.output == ("depth" if limits else "disparity")
    if preset.layout:
        size = f"depth_anything_v2_{name.rsplit('_', 1)[1]}"
        assert preset.layout == presets.get(size).layout
        assert expected_of(name, 0) == expected_of(size, 0)


@pytest.fixture(scope="module")
def vits() -> DepthAnything:
    module = DepthAnything(VITS)
    randomise(module, seed=1)
    return module.eval()


@pytest.fixture(scope="module")
def published(vits: DepthAnything, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("published") / "depth_anything_v2_vits.pth"
    torch.save(vits.state_dict(), path)
    return path


def test_vits_agrees_with_torch_through_its_file(
    vits: DepthAnything,
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
    images = np.random.default_rng(0).uniform(size=(1, 56, 70, 3)).astype(np.float32)
    with torch.no_grad():
        target = vits(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    bar = float(BAR * target.std() / np.abs(target).max())
    got = {"output": np.asarray(model(images))}
    parity("depth_anything_v2_vits at 56x70", got, {"output": target}, bar)

    exported = convert.to_torch(weights)
    state = vits.state_dict()
    assert set(exported) == set(state)
    for key, value in exported.items():
        dead = key in presets.get("depth_anything_v2_vits").dead
        np.testing.assert_array_equal(value, 0 if dead else state[key].numpy())


def test_an_encoder_alone_is_recognised_and_starts_a_network(
    vits: DepthAnything, tmp_path: pathlib.Path
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


def test_hugging_faces_file_is_the_same_network(
    vits: DepthAnything, published: pathlib.Path, tmp_path: pathlib.Path
):
    theirs = {}
    for key, value in vits.state_dict().items():
        names = hugging_face_names(key)
        pieces = value.split(len(value) // len(names)) if len(names) > 1 else [value]
        theirs |= {name: piece.clone() for name, piece in zip(names, pieces, strict=True)}
    assert len(theirs) == 287
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(theirs, path)
    with pytest.raises(WeightsError, match=r"holds one of depth_anything_v1_vits, .*with --arch"):
        convert.from_file(path)
    weights = convert.from_file(path, "depth_anything_v2_vits")
    assert "told_by" not in weights.provenance
    for key, value in convert.from_file(published).arrays.items():
        np.testing.assert_array_equal(weights.arrays[key], value)


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
