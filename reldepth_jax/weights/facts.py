"""What a user of a network needs to know, in words: exported files say it of themselves."""

import json

import reldepth_jax
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.types import LARGER_IS
from reldepth_jax.weights.file import Weights

_SIDES = {
    "short_side": "Scale the photograph so that its shorter side is {size}, then repeat the last"
    " row and column until both sides are multiples of {multiple}; cut them off the output.",
    "lower_bound": "Scale the photograph so that its shorter side is {size} rounded up to a"
    " multiple of {multiple}, the longer one the nearest multiple.",
    "minimal": "Scale the photograph so that the side that changes less becomes {size}; both sides"
    " become the nearest multiple of {multiple}.",
    "long_side_floor": "Scale the photograph so that its longer side is {size}, the shorter one"
    " the nearest multiple of {multiple}.",
    "long_side_ceil": "Scale the photograph so that its longer side is {size}, the shorter one"
    " rounded up to a multiple of {multiple}.",
    "square": "Scale the photograph to {size}x{size}, whatever its shape.",
}
_SHRINK = {
    "triangle": "triangle filter over the covered area (Pillow's BILINEAR)",
    "cubic": "bicubic with a = -0.75, without averaging (OpenCV's INTER_CUBIC)",
    "area": "mean over the covered area to shrink (OpenCV's INTER_AREA), bicubic to enlarge",
    "lanczos": "Lanczos over the covered area (Pillow's LANCZOS)",
}
_ENLARGE = {
    "triangle": "triangle filter over the covered area (Pillow's BILINEAR)",
    "cubic": "bicubic with a = -0.75, outer edges aligned",
    "linear": "bilinear, outer edges aligned",
    "linear_aligned": "bilinear, corners aligned",
}


def size_rule(preprocessing: Preprocessing) -> str:
    """Return how a photograph becomes the size of the input, in words."""
    rule = _SIDES[preprocessing.fit].format(**preprocessing.to_dict())
    return rule + f" Other multiples of {preprocessing.multiple} work too."


def facts(weights: Weights, name: str) -> dict[str, str]:
    """Return everything that a user of a network needs to know; `name` is what it is called."""
    told, seen = weights.provenance, weights.preprocessing
    temperature = weights.temperature
    return {
        "name": name,
        "architecture": weights.architecture,
        "output": weights.model.output,
        "larger_is": LARGER_IS[weights.model.output],
        "unit": weights.unit or "none: only the order of values in one image means something",
        "input": "RGB in [0, 1], as displayed; the normalisation is part of the network",
        "multiple": str(weights.model.multiple),
        "image_size": str(seen.size),
        "size_rule": size_rule(seen),
        "interpolation": _SHRINK[seen.shrink],
        "interpolation_back": _ENLARGE[seen.enlarge],
        "preprocessing": json.dumps(seen.to_dict()),
        # sigmoid(|difference| / temperature): how sure the order of two pixels is.
        "confidence_temperature": "not fitted" if temperature is None else repr(temperature),
        "licence": told.get("licence", "not stated"),
        "source": told.get("source") or told.get("run") or told.get("file", name),
        **{key: told[key] for key in ("started_from", "step", "paper", "sha256") if key in told},
        "weights_digest": weights.digest,
        "made_by": f"reldepth_jax {reldepth_jax.__version__}",
    }
