"""The authors' later network: Structure-Guided Ranking Loss, CVPR 2020 ("SGRL").

Source: Xian et al., "Structure-Guided Ranking Loss for Single Image Depth Prediction", CVPR 2020,
and its released inference code. The layout of the file is taken from the code and was not checked
against a published file.
"""

import functools

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset, substitute

_UNIT = {"conv1": "conv_branch.1", "bn1": "conv_branch.2", "conv2": "conv_branch.4"}


def _stage(ours: int, lateral: str, post: str) -> dict[str, str]:
    """Map one fusion stage; a block of theirs is our transitional convolution and unit."""
    stage = f"decoder.fusion.{ours}"
    names = {f"{stage}.transition": f"{lateral}.conv1"}
    names |= {f"{stage}.lateral.{unit}": f"{lateral}.{name}" for unit, name in _UNIT.items()}
    names[f"{stage}.post_transition"] = f"{post}.conv1"
    return names | {f"{stage}.post.{unit}": f"{post}.{name}" for unit, name in _UNIT.items()}


_NAMES = {
    **_stage(3, "decoder.conv", "decoder.conv"),
    "decoder.fusion.3.narrow_before": "decoder.conv1",
    **_stage(2, "decoder.ffm2.ftb1", "decoder.ffm2.ftb2"),
    **_stage(1, "decoder.ffm1.ftb1", "decoder.ffm1.ftb2"),
    **_stage(0, "decoder.ffm0.ftb1", "decoder.ffm0.ftb2"),
    "head.conv1": "decoder.outconv.adapt_conv.0",
    "head.bn1": "decoder.outconv.adapt_conv.1",
    "head.conv2": "decoder.outconv.adapt_conv.3",
}


@PRESETS.register("sgrl")
def sgrl() -> Preset:
    """Residual units with BatchNorm and a final ReLU, a coarsest stage of twice the width."""
    return Preset(
        name="sgrl",
        model=ModelConfig(
            encoder=Choice("resnet50"),
            widening=(1, 1, 1, 2),
            narrowing="conv3x3",
            transition="every_block",
            decoder_norm="batch",
            skip_relu=True,
            unit_relu=True,
            head_relu=True,
            output="disparity",
        ),
        key_maps=(functools.partial(substitute, prefixes=_NAMES),),
        superfluous=("encoder.fc.",),
        preprocessing=Preprocessing(fit="square", size=448, shrink="lanczos", enlarge="triangle"),
        files=(
            PublicFile(
                name="sgrl",
                page="https://drive.google.com/file/d/1p8c8-nUTNry5usQmGdTC2TrwWrp3dQ0y"
                " (model.pth.tar)",
                file="sgrl.pth.tar",
            ),
        ),
        ordinal=True,
        source="github.com/KexianHust/Structure-Guided-Ranking-Loss",
        licence="research only, non-commercial",
        paper="Xian et al., CVPR 2020",
    )
