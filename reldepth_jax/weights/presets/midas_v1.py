"""MiDaS v1: Figure 4 with a ResNet-50, one residual unit for both places of a fusion stage.

Source: Ranftl et al., "Towards Robust Monocular Depth Estimation", 2019, and the released code
(tag v1).
"""

import functools

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset, substitute
from reldepth_jax.weights.presets.midas_v21 import encoder_names

_NAMES = {
    **encoder_names(),
    **{f"decoder.fusion.{k}.transition": f"scratch.layer{k + 1}_rn" for k in range(4)},
    **{f"decoder.fusion.{k}.lateral": f"scratch.refinenet{k + 1}.resConfUnit" for k in range(4)},
    "head.conv1": "scratch.output_conv.0",
    "head.conv2": "scratch.output_conv.1",
}


@PRESETS.register("midas_v1")
def midas_v1() -> Preset:
    """The first public weights; images are not normalised."""
    return Preset(
        name="midas_v1",
        model=ModelConfig(
            encoder=Choice("resnet50"),
            transition_bias=False,
            shared_units=True,
            unit_last_bias=False,
            skip_relu=True,
            head_align_corners=False,
            output="disparity",
            normalisation="none",
        ),
        key_maps=(functools.partial(substitute, prefixes=_NAMES),),
        preprocessing=Preprocessing(fit="long_side_ceil", size=384, shrink="area", enlarge="cubic"),
        # On Google Drive, named by the README of that tag; no digest is public for certain.
        files=(
            PublicFile(
                name="midas_v1",
                page="https://github.com/isl-org/MiDaS/tree/v1 (model.pt)",
                file="midas_v1.pt",
            ),
        ),
        source="github.com/isl-org/MiDaS",
        licence="MIT",
        paper="Ranftl et al., TPAMI 2020 (first version, 2019)",
    )
