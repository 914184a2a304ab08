"""MiDaS v2 and v2.1, large: ResNeXt-101 and the decoder of Figure 4 without shared units.

Source: Ranftl et al., "Towards Robust Monocular Depth Estimation: Mixing Datasets for Zero-shot
Cross-dataset Transfer", TPAMI 2020, and the released code. Both versions have the same layout.
"""

import functools

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset, substitute


def encoder_names() -> dict[str, str]:
    """Return MiDaS's names for the parts of a ResNet: stem and first stage are one sequence."""
    return {
        "encoder.conv1": "pretrained.layer1.0",
        "encoder.bn1": "pretrained.layer1.1",
        "encoder.layer1": "pretrained.layer1.4",
        **{f"encoder.layer{k}": f"pretrained.layer{k}" for k in (2, 3, 4)},
    }


def decoder_names() -> dict[str, str]:
    """Return the names of MiDaS from v2 on for the parts of decoder and head.

    The coarsest stage applies its second unit only.
    """
    names = {
        "decoder.fusion.3.lateral": "scratch.refinenet4.resConfUnit2",
        "head.conv1": "scratch.output_conv.0",
        "head.conv2": "scratch.output_conv.2",
        "head.conv3": "scratch.output_conv.4",
    }
    for k in range(4):
        stage, theirs = f"decoder.fusion.{k}", f"scratch.refinenet{k + 1}"
        names[f"{stage}.transition"] = f"scratch.layer{k + 1}_rn"
        names[f"{stage}.narrow_after"] = f"{theirs}.out_conv"
        names.setdefault(f"{stage}.lateral", f"{theirs}.resConfUnit1")
        names[f"{stage}.post"] = f"{theirs}.resConfUnit2"
    return names


def dead_unit(width: int) -> dict[str, tuple[int, ...]]:
    """Return the arrays of the coarsest stage's first unit, which is never applied."""
    unit = "scratch.refinenet4.resConfUnit1"
    return {
        f"{unit}.{conv}.{leaf}": shape
        for conv in ("conv1", "conv2")
        for leaf, shape in (("weight", (width, width, 3, 3)), ("bias", (width,)))
    }


_NAMES = encoder_names() | decoder_names()


@PRESETS.register("midas_v21")
def midas_v21() -> Preset:
    """The strongest convolutional MiDaS."""
    return Preset(
        name="midas_v21",
        model=ModelConfig(
            encoder=Choice("resnext101_32x8d"),
            transition_bias=False,
            skip_relu=True,
            head="midas",
            head_align_corners=False,
            non_negative=True,
            output="disparity",
        ),
        key_maps=(functools.partial(substitute, prefixes=_NAMES),),
        dead=dead_unit(256),
        preprocessing=Preprocessing(
            fit="long_side_floor", size=384, shrink="cubic", enlarge="cubic"
        ),
        files=(
            PublicFile(
                name="midas_v21",
                url="https://github.com/isl-org/MiDaS/releases/download/v2_1/midas_v21_384.pt",
                sha256="f6b980704cfd7259c7cc2b058c2f160159c55e84b3b6c08331b4156a84629f70",
                size=422_509_849,
            ),
            PublicFile(
                name="midas_v2",
                url="https://github.com/isl-org/MiDaS/releases/download/v2/model-f46da743.pt",
                sha256="f46da743",
            ),
        ),
        source="github.com/isl-org/MiDaS",
        licence="MIT; its encoder started from CC-BY-NC 4.0 weights",
        paper="Ranftl et al., TPAMI 2020",
    )
