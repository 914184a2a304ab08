"""MiDaS v2.1 small: EfficientNet-Lite3 and a decoder that widens with depth, for 256x256.

Source: as `midas_v21`; the released code's `midas_net_custom`.
"""

import functools

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset, substitute
from reldepth_jax.weights.presets.midas_v21 import dead_unit, decoder_names

_NAMES = {
    "encoder.conv_stem": "pretrained.layer1.0",
    "encoder.bn1": "pretrained.layer1.1",
    "encoder.blocks.0": "pretrained.layer1.3",
    "encoder.blocks.1": "pretrained.layer1.4",
    "encoder.blocks.2": "pretrained.layer2.0",
    "encoder.blocks.3": "pretrained.layer3.0",
    "encoder.blocks.4": "pretrained.layer3.1",
    "encoder.blocks.5": "pretrained.layer4.0",
    "encoder.blocks.6": "pretrained.layer4.1",
    **decoder_names(),
}


@PRESETS.register("midas_v21_small")
def midas_v21_small() -> Preset:
    """The one for laptops and telephones; its residual units keep the plain skip."""
    return Preset(
        name="midas_v21_small",
        model=ModelConfig(
            encoder=Choice("efficientnet_lite3"),
            decoder_width=64,
            widening=(1, 2, 4, 8),
            narrowing="conv1x1",
            transition_bias=False,
            head="midas",
            head_align_corners=False,
            non_negative=True,
            output="disparity",
        ),
        key_maps=(functools.partial(substitute, prefixes=_NAMES),),
        dead=dead_unit(512),
        preprocessing=Preprocessing(
            fit="long_side_floor", size=256, shrink="cubic", enlarge="cubic"
        ),
        files=(
            PublicFile(
                name="midas_v21_small",
                url="https://github.com/isl-org/MiDaS/releases/download/v2_1/midas_v21_small_256.pt",
                sha256="70d6b9c891758c67f974a6097fb0c608c7ee67fb81ac3e5588847d5596d56fca",
                size=85_761_505,
            ),
        ),
        source="github.com/isl-org/MiDaS",
        licence="MIT",
        paper="Ranftl et al., TPAMI 2020",
    )
