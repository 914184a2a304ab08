"""How photographs are shown to a network: ours, and published ones the way they were trained.

- RelDepthNet: `Preprocessing(size=...)`, the shorter side at `size`.
- MiDaS v2 and v2.1: `long_side_floor`, 384 (small: 256), shrink and enlarge `cubic` (`Resize` with
  `upper_bound` and INTER_CUBIC in midas/transforms.py; torch bicubic back).
- MiDaS v1: `long_side_ceil`, 384, shrink `area`, enlarge `cubic` (utils.py of the tag v1).
- Structure-guided ranking loss (Xian et al. 2020): `square`, 448, shrink `lanczos`. Its demo rounds
  the score to 8 bits before it enlarges it; here it is not rounded.

Normalising colours is the network's part. Sizes are (height, width).
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from reldepth_jax.data.images import geometry
from reldepth_jax.data.images.geometry import STRIDE
from reldepth_jax.data.images.resampling import resample
from reldepth_jax.errors import UserError

NetworkImage = UInt8[np.ndarray, "_h _w 3"] | Float32[np.ndarray, "_h _w 3"]
"""RGB: uint8 in 0..255, or float32 in 0..1, where `cubic` overshoots both ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a photograph becomes the input of a network and its output a map of its size.

    Raises UserError for a size that the fit cannot have.
    """

    fit: Literal["short_side", "long_side_floor", "long_side_ceil", "square"] = "short_side"
    """Size of the input. Each way has sides that are multiples of 32, and at least 32.

    - `short_side`: the shorter side is `size`, less for very elongated photographs
      (`geometry.fit_size`); the last row and column are repeated up to a multiple of 32.
    - `long_side_floor`: the longer side is `size`, the other one the nearest multiple of 32.
    - `long_side_ceil`: the longer side is `size`, the other one the next larger multiple of 32.
    - `square`: both are `size`, whatever the shape of the photograph.
    """
    size: int = 384
    """In pixels; a multiple of 32, but for `short_side`."""
    shrink: Literal["triangle", "cubic", "area", "lanczos"] = "triangle"
    """How the photograph gets there, also if it grows. `triangle` (bilinear) and `lanczos` average
    over the covered area (Pillow, uint8); `cubic` does not (`resampling`, float32), `area` see
    there."""
    enlarge: Literal["triangle", "cubic", "linear"] = "triangle"
    """How the score gets to the size of the photograph: `triangle` as the photograph, the others
    see `resampling`."""

    def __post_init__(self) -> None:
        _require_choices(dataclasses.asdict(self))
        if self.size < 1:
            raise UserError(f"preprocessing.size: must be at least 1, got {self.size}")
        if self.fit != "short_side" and self.size % STRIDE:
            raise UserError(
                f"preprocessing.size: must be a multiple of {STRIDE} with fit {self.fit},"
                f" got {self.size}"
            )

    def network_image(
        self, image: UInt8[np.ndarray, "h w 3"]
    ) -> tuple[NetworkImage, tuple[int, int]]:
        """Return the input of the network and the size of its part that shows the photograph.

        That part is at the top left; what lies beyond repeats its edge. The input is uint8 where it
        was shrunk by `triangle` or `lanczos`, else float32.
        """
        size = self._fitted(*image.shape[:2])
        return geometry.pad_to_multiple(self._resized(image, size)), size

    def at_image_size(
        self, score: Float32[np.ndarray, "h w"], size: tuple[int, int]
    ) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the photograph's part at `size`, that of the photograph."""
        if self.enlarge == "triangle":
            return geometry.resize_score(score, size)
        return resample(score, size, self.enlarge).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "Preprocessing":
        """Invert `to_dict`. Raises UserError naming the field that is wrong, unknown or missing."""
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping):
            raise UserError(f"preprocessing: must have the fields {', '.join(names)}")
        for name in [*values, *names]:
            if name not in names or name not in values:
                fault = "missing" if name in names else f"unknown; known are {', '.join(names)}"
                raise UserError(f"preprocessing.{name}: {fault}")
        if type(values["size"]) is not int:
            raise UserError(f"preprocessing.size: must be a whole number, got {values['size']!r}")
        _require_choices(values)
        return cls(**values)

    def _fitted(self, height: int, width: int) -> tuple[int, int]:
        if self.fit == "square":
            return self.size, self.size
        if self.fit == "short_side":
            return geometry.fit_size(height, width, self.size)
        if self.fit == "long_side_ceil":
            unit = STRIDE * max(height, width)
            return -(-height * self.size // unit) * STRIDE, -(-width * self.size // unit) * STRIDE
        # In MiDaS's floats, which decide halves. There, a strip can get a side of 0 pixels.
        scale = min(self.size / height, self.size / width)
        rows, columns = (max(1, round(scale * side / STRIDE)) for side in (height, width))
        return rows * STRIDE, columns * STRIDE

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
