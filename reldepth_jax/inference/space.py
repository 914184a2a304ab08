"""From a map to points in space: what a network's values allow, a camera, a surface of triangles.

Axes are those of glTF, in all files: x to the right, y up; the camera, at the origin, looks along
-z. Units: metres for metric networks, else one that nobody knows.
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, UInt8

from reldepth_jax.errors import UserError
from reldepth_jax.inference.networks import Model
from reldepth_jax.weights import presets
from reldepth_jax.weights.file import CUSTOM

Values = Literal["metres", "inverse depth"]
"""What a network gives: depth, or inverse depth up to scale and shift."""

MOST_POINTS = 500_000
"""Of a photograph: of larger ones every second, third, … row and column is taken. Maps of networks
have fewer pixels than that."""
EDGE = 1.05
"""A triangle is left out if its farthest corner is more than so many times as far as its nearest:
it would join two things of which one stands before the other."""
NEAR, FAR = 1.0, 10.0
"""Distances that the nearest and the farthest pixel get where nobody says how inverse depth is
scaled."""


def values_of(model: Model) -> Values:
    """Return what the values of a network are; UserError if only their order means something."""
    if model.unit:
        return "metres"
    if "run" in model.provenance:
        inverse = model.provenance.get("values") == "inverse depth"
    else:
        name = model.weights().architecture
        ordinal = name != CUSTOM and presets.get(name).ordinal
        inverse = model.config.output == "disparity" and not ordinal
    if not inverse:
        raise UserError(
            "this network was trained to order points: the spacing of its scores is no depth, and a"
            " flat table would be bent. Take one that gives inverse depth or metres: --model"
            " depth_anything_v2_vits, midas_v21_small, depth_anything_v2_metric_hypersim_vits, …"
        )
    return "inverse depth"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """How maps become points. Raises UserError for what no camera or scale can be."""

    values: Values
    fov: float = 60.0
    """Horizontal field of view in degrees, of the photograph as it is displayed."""
    affine: tuple[float, float] | None = None
    """Scale and shift that make inverse depth of what the network gives, in 1/units. None: the
    nearest pixel is at `NEAR`, the farthest at `FAR`."""

    def __post_init__(self) -> None:
        if not 1 <= self.fov <= 170:
            raise UserError(f"--fov must be from 1 to 170 degrees, got {self.fov:g}")
        if self.affine is None:
            return
        if self.values == "metres":
            raise UserError("--affine belongs to inverse depth; this network gives metres")
        scale, shift = self.affine
        if not (0 < scale < math.inf and math.isfinite(shift)):
            raise UserError(f"--affine: the scale must be above 0, got {scale:g},{shift:g}")

    @property
    def assumed(self) -> str:
        """What is taken for granted, in words, for files and people."""
        if self.values == "metres":
            scale = "depth in metres as predicted"
        elif self.affine is None:
            scale = (
                f"unknown scale: inverse depth stretched so that the nearest pixel is at {NEAR:g}"
                f" and the farthest at {FAR:g}"
            )
        else:
            scale = "inverse depth = {:g} * output + {:g}".format(*self.affine)
        return f"{self.fov:g} degrees wide (pinhole, centred); {scale}; y is up, the view along -z"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings for JSON."""
        return {"fov": self.fov, "affine": self.affine and list(self.affine)}

    def depth(self, score: Float32[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
        """Return depth along the view of a score; infinite where nothing is as far."""
        values = score.astype(np.float64)
        if self.values == "metres":
            return np.where(values > 0, values, np.inf)
        inverse = -values
        if self.affine is None:
            low, high = inverse.min(), inverse.max()
            scale = (1 / NEAR - 1 / FAR) / ((high - low) or 1.0)
            inverse = 1 / NEAR - scale * (high - inverse)
        else:
            inverse = self.affine[0] * inverse + self.affine[1]
        with np.errstate(divide="ignore"):
            return np.where(inverse > 0, 1 / inverse, np.inf)


class Surface(NamedTuple):
    """Points with their colours, and triangles between them."""

    points: Float32[np.ndarray, "n 3"]
    colors: UInt8[np.ndarray, "n 3"]
    """sRGB."""
    places: Float32[np.ndarray, "n 2"]
    """Where they are in the photograph: x to the right and y down, from 0 to 1."""
    triangles: Int32[np.ndarray, "m 3"]
    """Counter-clockwise as the camera sees them: their front is towards it."""


def surface(
    score: Float32[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], space: Space
) -> Surface:
    """Return the surface of a photograph; `score` grows with distance.

    Points are those that are a corner of a triangle: what is infinitely far, and what hangs in an
    edge between two things, is left out.
    """
    height, width = score.shape
    step = math.ceil(math.sqrt(height * width / MOST_POINTS))
    rows, columns = (np.arange(step // 2, side, step) for side in (height, width))
    depth = space.depth(score)[np.ix_(rows, columns)]
    triangles = _joined(depth)
    used, renumbered = np.unique(triangles, return_inverse=True)
    across = (columns + 0.5) / width
    down = (rows + 0.5) / height
    x, y = (each.ravel()[used] for each in np.meshgrid(across, down))
    z = depth.ravel()[used]
    # At distance 1 the picture is so wide; its pixels are square.
    wide = 2 * math.tan(math.radians(space.fov) / 2)
    points = np.stack([(x - 0.5) * wide * z, (0.5 - y) * wide * height / width * z, -z], axis=1)
    return Surface(
        points.astype(np.float32),
        image[np.ix_(rows, columns)].reshape(-1, 3)[used],
        np.stack([x, y], axis=1).astype(np.float32),
        renumbered.reshape(-1, 3).astype(np.int32),
    )


def _joined(depth: Float64[np.ndarray, "h w"]) -> Int32[np.ndarray, "m 3"]:
    """Return two triangles for each square of neighbours, without those that `EDGE` leaves out."""
    number = np.arange(depth.size, dtype=np.int32).reshape(depth.shape)
    upper, lower = number[:-1], number[1:]
    left, right = np.s_[:, :-1], np.s_[:, 1:]
    corners = [
        (upper[left], lower[left], upper[right]),
        (upper[right], lower[left], lower[right]),
    ]
    triangles = np.stack([np.stack(each, axis=-1) for each in corners], axis=2).reshape(-1, 3)
    far = depth.ravel()[triangles]
    kept = far.max(axis=1) <= EDGE * far.min(axis=1)
    return triangles[kept & np.isfinite(far).all(axis=1)]
