"""The network that comes with the package: EfficientNet-Lite2 and the paper's decoder, trained by
ranking on photographs, drawn scenes and game frames (`configs/small.py`, then
`configs/small_fine.py`; docs/model_card.md).
"""

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset


@PRESETS.register("reldepth_small")
def reldepth_small() -> Preset:
    """Small enough for a wheel."""
    return Preset(
        name="reldepth_small",
        model=ModelConfig(
            encoder=Choice("efficientnet_lite2"),
            decoder_width=64,
            normalisation="tf",
            mirrored=True,
            init="he",
        ),
        preprocessing=Preprocessing(fit="lower_bound", size=192),
        files=(
            PublicFile(name="reldepth_small", packaged=True, file="reldepth_small.safetensors"),
        ),
        ordinal=True,
        source="trained for this package",
        licence="research use only: NYUv2 and others that it learnt from are for research",
        paper="Xian et al., CVPR 2018, for loss and decoder",
    )
