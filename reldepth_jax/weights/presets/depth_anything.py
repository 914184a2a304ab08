"""Depth Anything, versions 1, 2 and 2 metric: DINOv2 and the decoder of DPT.

Source: Yang et al., "Depth Anything", CVPR 2024; "Depth Anything V2", NeurIPS 2024; and the
released code. The files of all versions have the same keys and shapes for one size of the encoder.

`transformers` from some version after 4.42 leaves the 0.1 of the position table out: at sizes other
than 518x518 its maps differ from the originals' by up to 0.4 of their deviation, and so from ours.
"""

import functools
from typing import Literal, NamedTuple

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.config.schema import DPT_DECODER
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets import hugging_face
from reldepth_jax.weights.presets.base import Names, Preset, substitute
from reldepth_jax.weights.presets.midas_v21 import dead_unit, decoder_names

_NAMES = {
    "encoder": "pretrained",
    **{f"decoder.reassemble.{k}.project": f"depth_head.projects.{k}" for k in range(4)},
    **{f"decoder.reassemble.{k}.resize": f"depth_head.resize_layers.{k}" for k in range(4)},
    **{ours: f"depth_head.{theirs}" for ours, theirs in decoder_names().items()},
    "head.conv1": "depth_head.scratch.output_conv1",
    "head.conv2": "depth_head.scratch.output_conv2.0",
    "head.conv3": "depth_head.scratch.output_conv2.2",
}
_HF_NAMES = {
    "encoder.cls_token": "backbone.embeddings.cls_token",
    "encoder.pos_embed": "backbone.embeddings.position_embeddings",
    "encoder.patch_embed.proj": "backbone.embeddings.patch_embeddings.projection",
    "encoder.norm": "backbone.layernorm",
    **hugging_face.decoder_names(),
    "head": "head",
}
_HF_BLOCK = {
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def _hugging_face(key: str, *, newer: bool = False) -> Names:
    """Return the name in `transformers`; `newer`: that of its version 5, in memory."""
    block, parts = _HF_BLOCK, hugging_face.OLD
    if newer:
        block = block | {"attn.proj": "attention.o_proj"}
        parts = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    found = hugging_face.names(
        key, prefixes=_HF_NAMES, layer="backbone.encoder.layer", block=block, parts=parts
    )
    return hugging_face.unit_names(key, found) if isinstance(found, str) else found


class _Size(NamedTuple):
    encoder: str
    width: int
    features: int
    reassembly: tuple[int, int, int, int]
    word: str


_SIZES = {
    "s": _Size("dinov2_vits14", 384, 64, (1, 2, 4, 8), "Small"),
    "b": _Size("dinov2_vitb14", 768, 128, (1, 2, 4, 8), "Base"),
    "l": _Size("dinov2_vitl14", 1024, 256, (2, 4, 8, 8), "Large"),
}


def _preset(
    name: str,
    letter: Literal["s", "b", "l"],
    *,
    taps: Literal["spread", "last"],
    enlarge: Literal["linear", "linear_aligned"],
    file: PublicFile,
    source: str,
    licence: str,
    paper: str,
    max_depth: float = 0.0,
) -> Preset:
    size = _SIZES[letter]
    return Preset(
        name=name,
        model=ModelConfig(
            encoder=Choice(size.encoder, **({} if taps == "spread" else {"taps": taps})),
            reassembly=size.reassembly,
            decoder_width=size.features,
            non_negative=not max_depth,
            max_depth=max_depth,
            output="depth" if max_depth else "disparity",
            **DPT_DECODER,
        ),
        key_maps=(
            functools.partial(substitute, prefixes=_NAMES),
            _hugging_face,
            functools.partial(_hugging_face, newer=True),
        ),
        dead={
            "pretrained.mask_token": (1, size.width),
            **{f"depth_head.{key}": shape for key, shape in dead_unit(size.features).items()},
        },
        superfluous=("backbone.embeddings.mask_token", *hugging_face.DEAD),
        preprocessing=Preprocessing(
            fit="lower_bound", size=518, shrink="cubic", enlarge=enlarge, multiple=14
        ),
        layout=f"Depth Anything vit{letter}",
        files=(file,),
        source=source,
        licence=licence,
        paper=paper,
    )


_V2_FILES = {
    "s": ("715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378", 99_218_434),
    "b": ("0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328", 389_961_218),
    "l": ("a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345", 1_341_395_338),
}
"""Digests and sizes of the files of version 2."""


def _v1(letter: Literal["s", "b", "l"]) -> Preset:
    name, file = f"depth_anything_v1_vit{letter}", f"depth_anything_vit{letter}14.pth"
    space = "https://huggingface.co/spaces/LiheYoung/Depth-Anything"
    return _preset(
        name,
        letter,
        taps="last",
        enlarge="linear",
        file=PublicFile(name=name, url=f"{space}/resolve/main/checkpoints/{file}"),
        source="github.com/LiheYoung/Depth-Anything",
        licence=(
            "Apache-2.0 (the author, LiheYoung/Depth-Anything issue 15)"
            + (", asked again for L: no answer" if letter == "l" else "")
        ),
        paper="Yang et al., CVPR 2024",
    )


def _v2(letter: Literal["s", "b", "l"]) -> Preset:
    name = f"depth_anything_v2_vit{letter}"
    return _preset(
        name,
        letter,
        taps="spread",
        enlarge="linear_aligned",
        file=_hub(name, f"Depth-Anything-V2-{_SIZES[letter].word}", *_V2_FILES[letter]),
        source="github.com/DepthAnything/Depth-Anything-V2",
        licence="Apache-2.0" if letter == "s" else "CC-BY-NC 4.0",
        paper="Yang et al., NeurIPS 2024",
    )


def _metric(
    letter: Literal["s", "b", "l"], data: Literal["hypersim", "vkitti"], max_depth: float
) -> Preset:
    name = f"depth_anything_v2_metric_{data}_vit{letter}"
    word = {"hypersim": "Hypersim", "vkitti": "VKITTI"}[data]
    return _preset(
        name,
        letter,
        taps="spread",
        enlarge="linear_aligned",
        file=_hub(name, f"Depth-Anything-V2-Metric-{word}-{_SIZES[letter].word}"),
        source="github.com/DepthAnything/Depth-Anything-V2, metric_depth",
        licence="not stated (Depth-Anything-V2 issue 245)",
        paper="Yang et al., NeurIPS 2024",
        max_depth=max_depth,
    )


def _hub(name: str, repository: str, sha256: str = "", size: int = 0) -> PublicFile:
    front = f"https://huggingface.co/depth-anything/{repository}/resolve/main"
    return PublicFile(name=name, url=f"{front}/{name}.pth", sha256=sha256, size=size)


@PRESETS.register("depth_anything_v1_vits")
def depth_anything_v1_vits() -> Preset:
    """Version 1, small: the last four blocks are tapped."""
    return _v1("s")


@PRESETS.register("depth_anything_v1_vitb")
def depth_anything_v1_vitb() -> Preset:
    """Version 1, base."""
    return _v1("b")


@PRESETS.register("depth_anything_v1_vitl")
def depth_anything_v1_vitl() -> Preset:
    """Version 1, large."""
    return _v1("l")


@PRESETS.register("depth_anything_v2_vits")
def depth_anything_v2_vits() -> Preset:
    """Version 2, small: blocks over the whole depth are tapped."""
    return _v2("s")


@PRESETS.register("depth_anything_v2_vitb")
def depth_anything_v2_vitb() -> Preset:
    """Version 2, base."""
    return _v2("b")


@PRESETS.register("depth_anything_v2_vitl")
def depth_anything_v2_vitl() -> Preset:
    """Version 2, large."""
    return _v2("l")


@PRESETS.register("depth_anything_v2_metric_hypersim_vits")
def depth_anything_v2_metric_hypersim_vits() -> Preset:
    """Depth in metres, indoors up to 20."""
    return _metric("s", "hypersim", 20.0)


@PRESETS.register("depth_anything_v2_metric_hypersim_vitb")
def depth_anything_v2_metric_hypersim_vitb() -> Preset:
    """Depth in metres, indoors up to 20."""
    return _metric("b", "hypersim", 20.0)


@PRESETS.register("depth_anything_v2_metric_hypersim_vitl")
def depth_anything_v2_metric_hypersim_vitl() -> Preset:
    """Depth in metres, indoors up to 20."""
    return _metric("l", "hypersim", 20.0)


@PRESETS.register("depth_anything_v2_metric_vkitti_vits")
def depth_anything_v2_metric_vkitti_vits() -> Preset:
    """Depth in metres, outdoors up to 80."""
    return _metric("s", "vkitti", 80.0)


@PRESETS.register("depth_anything_v2_metric_vkitti_vitb")
def depth_anything_v2_metric_vkitti_vitb() -> Preset:
    """Depth in metres, outdoors up to 80."""
    return _metric("b", "vkitti", 80.0)


@PRESETS.register("depth_anything_v2_metric_vkitti_vitl")
def depth_anything_v2_metric_vkitti_vitl() -> Preset:
    """Depth in metres, outdoors up to 80."""
    return _metric("l", "vkitti", 80.0)
