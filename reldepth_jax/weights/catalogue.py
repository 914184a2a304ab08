"""What a user wants to know of each network before taking it."""

import dataclasses
import functools
import math
from typing import Any

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.cost import multiply_adds
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights import presets
from reldepth_jax.weights.arrays import Part, abstract, shapes
from reldepth_jax.weights.presets import Preset

NOTE = (
    "Parameters: as in the published file, with those that take no part in the output. GMAC: 10^9\n"
    "multiply-adds of an image of 384x384, 378x378 where patches have 14 pixels. Input: what is\n"
    "done to RGB in [0, 1], and the size at which photographs are shown to the network."
)
_INPUTS = {
    "imagenet": "ImageNet mean and deviation",
    "none": "as it is",
    "half": "2 x - 1",
    "tf": "(255 x - 127) / 128",
}
_FITS = {
    "short_side": "shorter side {}",
    "long_side_floor": "longer side {}",
    "long_side_ceil": "longer side {}, rounded up",
    "square": "{0}x{0}",
    "lower_bound": "shorter side {}",
    "minimal": "side that changes less {}",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One network."""

    name: str
    part: str
    parameters: int
    """Of the published file, dead ones included."""
    dead_parameters: int
    """Of them, those that take no part in the output."""
    multiply_adds: int
    """For one square image of the largest side up to 384."""
    input: str
    output: str
    licence: str
    source: str
    paper: str
    files: list[dict[str, Any]]
    """What users get by name: `public_facts` of each."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def _like(preset: Preset) -> Preset:
    """Return the first preset whose arrays have the same shapes: it is built once for all."""
    named = map(presets.get, PRESETS.entries)
    return next((each for each in named if preset.layout and each.layout == preset.layout), preset)


@functools.cache
def _counts(model: ModelConfig, part: Part) -> tuple[int, int]:
    """Return the numbers of parameters and of multiply-adds."""
    live = sum(
        math.prod(shape) for key, shape in shapes(model, part).items() if ".running_" not in key
    )
    side = 384 // model.multiple * model.multiple
    return live, multiply_adds(abstract(model, part), side, side)


def describe(preset: Preset) -> Entry:
    """Return the facts of a network, its counts taken from the network itself."""
    live, products = _counts(_like(preset).model, preset.part)
    dead = sum(math.prod(shape) for shape in preset.dead.values())
    fit = _FITS[preset.preprocessing.fit].format(preset.preprocessing.size)
    network = preset.part == "network"
    meaning = "depth-like" if preset.model.output == "depth" else "inverse depth"
    if preset.model.max_depth:
        meaning = f"depth in metres, up to {preset.model.max_depth:g}"
    return Entry(
        name=preset.name,
        part=preset.part,
        parameters=live + dead,
        dead_parameters=dead,
        multiply_adds=products,
        input=_INPUTS[preset.model.normalisation] + (f"; {fit}" if network else ""),
        output=meaning if network else "features",
        licence=preset.licence,
        source=preset.source,
        paper=preset.paper,
        files=[public_facts(preset, each) for each in preset.files],
    )


def public_facts(preset: Preset, public: PublicFile) -> dict[str, Any]:
    """Return what a user wants to know of public weights, `name` as they are asked for."""
    return {
        "name": f"{presets.IMAGENET * (preset.part == 'encoder')}{public.name}",
        "url": public.url,
        "page": public.page,
        "packaged": public.packaged,
        "bytes": public.size or None,
        "sha256": public.sha256,
        "licence": public.licence or preset.licence,
    }
