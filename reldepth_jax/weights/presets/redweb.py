"""The paper's network, in both readings of where its transitional convolutions are."""

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights.presets.base import Preset

_PAPER = "Xian et al., CVPR 2018"
_SOURCE = "none public; train it: configs/redweb.py"


@PRESETS.register("redweb")
def redweb() -> Preset:
    """Figure 4: one transitional convolution for each encoder tap."""
    model = ModelConfig(encoder=Choice("resnet50"))
    return Preset(
        name="redweb", model=model, ordinal=True, source=_SOURCE, licence="-", paper=_PAPER
    )


@PRESETS.register("redweb_b")
def redweb_b() -> Preset:
    """The sentence: one before each residual convolution block."""
    model = ModelConfig(encoder=Choice("resnet50"), transition="every_block")
    return Preset(
        name="redweb_b", model=model, ordinal=True, source=_SOURCE, licence="-", paper=_PAPER
    )
