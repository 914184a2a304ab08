"""How photographs are shown to a network: ours, and published ones the way they were trained.

- Networks of runs: `Preprocessing.of_training`. Files of older versions have `short_side`.
- MiDaS v2 and v2.1: `long_side_floor`, 384 (small: 256), shrink and enlarge `cubic` (`Resize` with
  `upper_bound` and INTER_CUBIC in midas/transforms.py; torch bicubic back).
- MiDaS v1: `long_side_ceil`, 384, shrink `area`, enlarge `cubic` (utils.py of the tag v1).
- Structure-guided ranking loss (Xian et al. 2020): `square`, 448, shrink `lanczos`. Its demo rounds
  the score to 8 bits before it enlarges it; here it is not rounded.
- Depth Anything: `lower_bound`, 518, multiples of 14, shrink `cubic`; back `linear_aligned` in
  version 2, `linear` in version 1 (`Resize` in their transform.py, `infer_image`, run.py).
- MiDaS v3: `minimal`, 384, shrink and enlarge `cubic`.

Normalising colours is the network's part. Sizes are (height, width).
"""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from reldepth_jax.config import Config
from reldepth_jax.config.schema import PYRAMID
from reldepth_jax.data.images import geometry
from reldepth_jax.data.images.resampling import resample
from reldepth_jax.errors import UserError

NetworkImage = UInt8[np.ndarray, "_h _w 3"] | Float32[np.ndarray, "_h _w 3"]
"""RGB: uint8 in 0..255, or float32 in 0..1, where `cubic` overshoots both ends."""

STANDARD = ((1, 1), (7, 8), (3, 4), (2, 3), (9, 16), (8, 17), (8, 21), (4, 13), (1, 4))
"""Sides of the standard shapes, standing: those of cameras, and others between them. What lies
between two of them is stretched by 11.3 % at most, before sides are rounded to a multiple."""
_BOTH_WAYS = (*STANDARD, *((columns, rows) for rows, columns in STANDARD[1:]))
_LARGE = 2**14
"""Makes large photographs of these: `minimal`, which compares with `size`, does one thing then."""
_LONGEST = 4.45
"""From here on no standard shape is near: 4:1 would stretch a photograph by more than 11 %."""
_MAX_SIZE = 2**14
"""No machine holds the features of a larger square."""
_MAX_MULTIPLE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the input of a network and its output a map of its size.

    Raises UserError for a size that the fit cannot have.
    """

    fit: Literal[
        "short_side", "long_side_floor", "long_side_ceil", "square", "lower_bound", "minimal"
    ] = "short_side"
    """Size of the input. Each way has sides that are multiples of `multiple`, and at least that.

    - `short_side`: the shorter side is `size`, less for very elongated photographs
      (`geometry.fit_size`); the last row and column are repeated up to a multiple.
    - `long_side_floor`: the longer side is `size`, the other one the nearest multiple.
    - `long_side_ceil`: the longer side is `size`, the other one the next larger multiple.
    - `square`: both are `size`, whatever the shape of the photograph.
    - `lower_bound`: the shorter side is `size`, rounded up to a multiple, the longer one the
      nearest multiple.
    - `minimal`: the side that changes less becomes `size`; both are the nearest multiple.

    The last two, in which the photograph fills the whole input, keep to the area of `short_side`:
    the originals give a strip as many pixels as it takes.
    """
    size: int = 384
    """In pixels; a multiple where the longer side or both have it."""
    shrink: Literal["triangle", "cubic", "area", "lanczos"] = "triangle"
    """How the photograph gets there, also if it grows. `triangle` (bilinear) and `lanczos` average
    over the covered area (Pillow, uint8); `cubic` does not (`resampling`, float32), `area` see
    there."""
    enlarge: Literal["triangle", "cubic", "linear", "linear_aligned"] = "triangle"
    """How the score gets to the size of the photograph: `triangle` as the photograph, the others
    see `resampling`."""
    multiple: int = PYRAMID
    """Of pixels, which the network needs: `ModelConfig.multiple`."""
    shapes: Literal["own", "standard"] = "own"
    """Of the input: that of each photograph, for each of which a network compiles once, or the
    nearest of `STANDARD`, lying or standing: 17, to which photographs are stretched. Those longer
    than 4.45:1 keep their own."""

    def __post_init__(self) -> None:
        _require_choices(dataclasses.asdict(self))
        if not 1 <= self.size <= _MAX_SIZE:
            raise UserError(f"preprocessing.size: must be from 1 to {_MAX_SIZE}, got {self.size}")
        if not 1 <= self.multiple <= _MAX_MULTIPLE:
            raise UserError(
                f"preprocessing.multiple: must be from 1 to {_MAX_MULTIPLE}, got {self.multiple}"
            )
        exact = self.fit in ("long_side_floor", "long_side_ceil", "square")
        if exact and self.size % self.multiple:
            raise UserError(
                f"preprocessing.size: must be a multiple of {self.multiple} with fit {self.fit},"
                f" got {self.size}"
            )

    @classmethod
    def of_training(cls, config: Config) -> "Preprocessing":
        """Return how the network of a run sees photographs: as it saw its training images.

        Those filled the whole input. Repeating the edge up to a multiple instead costs 0.5 to 0.7
        points of WHDR where a third to half a multiple is added (docs/results.md), and changes the
        whole map of a transformer, whose tokens all see each other.
        """
        return cls(fit="lower_bound", size=config.prediction_size, multiple=config.model.multiple)

    def network_image(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[NetworkImage, tuple[int, int]]:
        """Return the input of the network and the size of its part that shows the photograph.

        That part is at the top left; what lies beyond repeats its edge. The input is uint8 where it
        was shrunk by `triangle` or `lanczos`, else float32.
        """
        size = self._fitted(*image.shape[:2])
        return geometry.pad_to_multiple(self._resized(image, size), self.multiple), size

    def input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the network's input for a photograph of `size`."""
        height, width = self._fitted(*size)
        return height + -height % self.multiple, width + -width % self.multiple

    def at_image_size(
        self, score: Float32[np.ndarray, "h w"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the photograph's part at `size`, that of the photograph."""
        if self.enlarge == "triangle":
            return geometry.resize_score(score, size)
        return resample(score, size, self.enlarge, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; `shapes` only where they are not the photograph's own."""
        values = dataclasses.asdict(self)
        if self.shapes == "own":
            del values["shapes"]
        return values

    @classmethod
    def from_dict(cls, values: Any) -> "Preprocessing":
        """Invert `to_dict`. Raises UserError naming the field that is wrong, unknown or missing.

        `multiple` may be missing: files had none as long as it was always 32. So may `shapes`.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping):
            raise UserError(f"preprocessing: must have the fields {', '.join(names)}")
        values = {"multiple": PYRAMID, "shapes": "own", **values}
        for name in [*values, *names]:
            if name not in names or name not in values:
                fault = "missing" if name in names else f"unknown; known are {', '.join(names)}"
                raise UserError(f"preprocessing.{name}: {fault}")
        for name in ("size", "multiple"):
            if type(values[name]) is not int:
                raise UserError(
                    f"preprocessing.{name}: must be a whole number, got {values[name]!r}"
                )
        _require_choices(values)
        return cls(**values)

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        own = self._own(height, width)
        if self.shapes == "own" or max(height, width) > _LONGEST * min(height, width):
            return own
        sizes = [self._own(_LARGE * rows, _LARGE * columns) for rows, columns in _BOTH_WAYS]
        if own in sizes:
            return own
        # Of sizes as they are after rounding, which may stretch more than the choice does.
        return min(sizes, key=lambda size: abs(math.log(size[0] * width / size[1] / height)))

    def _own(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "square":
            return self.size, self.size
        if self.fit == "short_side":
            return geometry.fit_size(height, width, self.size)
        if self.fit in ("lower_bound", "minimal"):
            return self._filled(height, width)
        unit = self.multiple
        if self.fit == "long_side_ceil":
            part = unit * max(height, width)
            return -(-height * self.size // part) * unit, -(-width * self.size // part) * unit
        # In MiDaS's floats, which decide halves. There, a strip can get a side of 0 pixels.
        scale = min(self.size / height, self.size / width)
        rows, columns = (max(1, round(scale * side / unit)) for side in (height, width))
        return rows * unit, columns * unit

    def _filled(self, height: int, width: int) -> tuple[int, int]:
        """Return the size for `lower_bound` or `minimal`, in the floats of MiDaS's `Resize`."""
        by_height, by_width = self.size / height, self.size / width
        if self.fit == "lower_bound":
            scale = max(by_height, by_width)
        else:
            scale = by_width if abs(1 - by_width) < abs(1 - by_height) else by_height
        affordable = geometry.affordable_scale(height, width, self.size, self.multiple)
        least = self.size if self.fit == "lower_bound" and scale <= affordable else 1
        sides = []
        for side in (height, width):
            exact = min(scale, affordable) * side / self.multiple
            count = round(exact)
            sides.append((count if count * self.multiple >= least else math.ceil(exact)) or 1)
        return sides[0] * self.multiple, sides[1] * self.multiple

    def _resized(self, image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> NetworkImage:
        if self.shrink == "triangle":
            return geometry.resize_image(image, size)
        if self.shrink == "lanczos":
            height, width = size
            resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
            return np.asarray(resized)
        return (resample(image, size, self.shrink) / 255).astype(np.float32)


def _require_choices(values: Mapping[str, Any]) -> None:
    for name, hint in typing.get_type_hints(Preprocessing).items():
        choices = typing.get_args(hint)
        if choices and values[name] not in choices:
            raise UserError(
                f"preprocessing.{name}: must be one of {', '.join(choices)}, got {values[name]!r}"
            )
