"""The user's own data: a folder of photographs and a folder of depth or disparity maps."""

import dataclasses
import functools
import pathlib
import re
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import pairing
from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
from reldepth_jax.data.reading.files import DataError, UndeclaredValues
from reldepth_jax.data.reading.records import FileRecords, Part
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import DepthIs, Split

_DEPTH_IS: dict[str, DepthIs] = {
    "depth": "depth",
    "disparity": "disparity",
    "ordinal": "ordinal",
    "inverse_ordinal": "ordinal",
}
"""By polarity."""
_MARKED = 0.01
"""Share of the pixels from which on one value may be a mark."""
_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?%|\d*)\s*:\s*(\d+(?:\.\d+)?%|\d*)\s*")


@dataclasses.dataclass(frozen=True)
class FolderRecords(FileRecords):
    """Photographs and maps, of which an archive may hold several arrays."""

    key: str = ""
    rotated_bits: int = 0

    def read_map(self, path: str) -> Shaped[np.ndarray, "h w"]:
        """Read a map, with the values and the type of its file; rotated bits are turned back."""
        values = io.read_values(path, self.key)
        if not self.rotated_bits:
            return values
        if values.dtype != np.uint16:
            reason = f"has {values.dtype} values, not 16 bits that can be rotated (rotated_bits)"
            raise io.UnreadableFile(path, reason)
        return (values >> self.rotated_bits) | (values << (16 - self.rotated_bits))


@SOURCES.register("folder")
@dataclasses.dataclass(frozen=True)
class Folder(DataSetSource):
    """Photographs and maps below `root`, paired by their names.

    Formats are those of `io.read_image` and `io.read_values`. A map is in the orientation in which
    its photograph is displayed; where it has another size at the same aspect ratio (within 2 %) it
    is resized by nearest neighbour. The depth's unit is whatever `scale` makes of the file's.

    Nothing is guessed: a finite value that gives no positive depth must be declared, by `invalid`,
    `infinity` or an ordinal polarity. Raises DataError when made: nothing at `root`, photographs or
    maps without partner, no sample in `split`, training images that also validate or test.
    Reading raises UndeclaredValues (an UnreadableFile) for such a value anywhere in the map.
    """

    data_set = DataSet(
        name="folder",
        parts=("train", "val", "test"),
        counts={},
        layout=OwnFormat(
            lambda root, part: Folder(part, (0, 0), root).read_part(part),
            remedy="correct the files, or the options (--config.data.source.…)",
        ),
        maps={"depth": Map(None)},
        resizes=True,
        polarity="the option polarity must say which end of the values is near",
    )
    displayed = True

    split: Split
    size: tuple[int, int]
    """Not used: photographs come at their own size."""
    root: str = ""
    images: str = "rgb"
    """Folder of the photographs below `root`, or a pattern whose stars stand for the name that
    photograph and map share: `rgb/rgb_*.jpg`, `*_color.png` (see `data.reading.pairing`)."""
    maps: str = "depth"
    """Folder of the maps below `root`, or a pattern: `depth/sync_depth_*.png`, `*_depth.png`."""
    seconds: float = 0.0
    """Greater than 0: names are time stamps in seconds, and the map nearest in time, at most this
    apart, belongs to a photograph; what has no partner is left out and counted."""
    key: str = ""
    """Name of the array in NPZ maps that hold several."""
    rotated_bits: int = 0
    """By how many bits 16-bit values were rotated to the left before they were stored: 3 in SUN
    RGB-D, whose unit is millimetres afterwards."""
    polarity: Literal["depth", "disparity", "ordinal", "inverse_ordinal"] = "depth"
    """Whether larger values are farther (depth) or nearer (disparity, inverse depth). Of ordinal
    ones, farther, and inverse ordinal ones, nearer, only the order counts: scores of any sign and
    range. Depth is then exp of the value's place in the range of its map, from 0 to 1, so that
    a ratio of 1 + sigma is a difference of about sigma of the range."""
    temperature: float = 0.0
    """Greater than 0: the ordinal maps are scores of a network, and this is the temperature of its
    confidence (`metrics.confidence`) in their unit. The order of two points is then as sure as the
    network says, which the loss `distillation` uses; others ignore it."""
    scale: float = 1.0
    """What file values are multiplied by, e.g. 0.001 from millimetres."""
    offset: float = 0.0
    """What is added to file values before that, e.g. Middlebury's `doffs` to disparities."""
    invalid: tuple[float, ...] | None = None
    """File values that mean "not measured"; on the command line `0`, `0,65535`, or `none`: every
    value counts, a depth of 0 as the nearest, a disparity of 0 as infinitely far. None: nothing is
    declared, and a depth or disparity of 0 is refused. NaN never counts."""
    infinity: tuple[float, ...] = ()
    """File values that mean "infinitely far", even if `invalid` has them too."""
    max_depth: float = 0.0
    """Depth beyond which a measurement is noise (of stereo, say) and does not count, in the unit
    that `scale` gives; of disparities, of their inverse. 0: no limit. `infinity` is not touched."""
    train: str = "0:80%"
    """Training samples, as a range over the sorted names: indices or percentages."""
    val: str = "80%:90%"
    test: str = "90%:100%"

    @property
    def depth_is(self) -> DepthIs:
        """What depth is known to be."""
        return _DEPTH_IS[self.polarity]

    def read_part(self, part: Part) -> FolderRecords:
        """Return the records in the range of a part."""
        if not self.scale > 0:
            raise DataError(f"folder: scale must be greater than 0, got {self.scale}")
        if self.max_depth < 0 or (self.max_depth and self._is_ordinal):
            raise DataError(
                f"folder: max_depth must be at least 0, and 0 for ordinal values; got"
                f" {self.max_depth}"
            )
        if self.temperature < 0 or (self.temperature and not self._is_ordinal):
            raise DataError(
                "folder: temperature must be at least 0, and 0 for values that are not ordinal;"
                f" got {self.temperature}"
            )
        if not 0 <= self.rotated_bits < 16:
            raise DataError(f"folder: rotated_bits must be 0 to 15, got {self.rotated_bits}")
        chosen = self._range(part)
        if not len(chosen):
            raise DataError(
                f"{io.printable(self.root)}: {part}={getattr(self, part)!r} selects none of the"
                f" {len(self._pairs)} samples; choose by number, e.g."
                f" --config.data.source.{part}={max(len(self._pairs) - 1, 0)}:"
            )
        if part == "train":
            for other in ("val", "test"):
                common = set(chosen) & set(self._range(other))
                if common:
                    raise DataError(
                        f"{io.printable(self.root)}: train={self.train!r} and"
                        f" {other}={getattr(self, other)!r} share {len(common)} of"
                        f" {len(self._pairs)} samples; set ranges that do not overlap"
                    )
        pairs = [self._pairs[index] for index in chosen]
        images, maps = (tuple(pair[place] for pair in pairs) for place in (1, 2))
        return FolderRecords(self.root, images, {"depth": maps}, self.key, self.rotated_bits)

    def remarks(self) -> list[str]:
        """Return a line for each folder in which files are left out."""
        return pairing.left_out(pathlib.Path(self.root), self.images, self.maps, self._pairs)

    def excerpt(self) -> str:
        """Return which share of the folder a split is and how to get all; empty if it is all."""
        chosen, count = self._range(self.split), len(self._pairs)
        if len(chosen) == count:
            return ""
        return (
            f"{len(chosen)} of {count} images: {self.split}={getattr(self, self.split)!r}; all of"
            f" them: --config.data.source.{self.split}=:"
        )

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret the map by the options."""
        stored = maps["depth"]
        self._require_declared(stored, path)
        values = io.as_float(crop.map(stored))
        if self._is_ordinal:
            depth = self._ordinal(values, stored)
        else:
            depth = (values + np.float32(self.offset)) * np.float32(self.scale)
            if self.polarity == "disparity":
                with np.errstate(divide="ignore", over="ignore"):
                    # Adding zero turns -0 into 0, whose reciprocal is +inf.
                    depth = 1 / (depth + np.float32(0))
        infinite = _among(values, self.infinity)
        mask = ~_among(values, self.invalid or ()) & (depth > 0)
        if self.invalid == () and self.polarity == "depth":
            mask |= depth == 0
        if self.max_depth:
            mask &= depth <= np.float32(self.max_depth)
        mask |= infinite
        depth = np.where(infinite, np.float32(np.inf), depth)
        truth: Truth = {"depth": np.where(mask, depth, np.float32(0)), "mask": mask}
        if self.temperature:
            low, high = self._bounds(stored)
            truth["certainty"] = np.float32((high - low) / self.temperature)
        return truth

    def left_out(self, maps: Maps) -> dict[str, float]:
        """Return the share of the pixels of a map that do not count, by reason."""
        values = io.as_float(maps["depth"])
        counts = ~_among(values, self.infinity)
        declared = counts & _among(values, self.invalid or ())
        nothing = counts & ~declared & np.isnan(values)
        found = {"declared invalid": declared, "not a number": nothing}
        if self.max_depth:
            with np.errstate(divide="ignore", invalid="ignore"):
                depth = (values + np.float32(self.offset)) * np.float32(self.scale)
                depth = 1 / depth if self.polarity == "disparity" else depth
            beyond = counts & ~declared & (depth > self.max_depth)
            found[f"beyond max_depth={self.max_depth:g}"] = beyond
        return {reason: float(where.mean()) for reason, where in found.items() if where.any()}

    def doubtful(self, maps: Maps) -> dict[str, float]:
        """Return the share of the pixels that count, though their value is often a mark, by words.

        The largest value of integers, and what is beyond 10^9, may mean "no reading" or "sky".
        """
        stored = maps["depth"]
        if self.polarity != "depth" or self.max_depth:
            return {}
        largest = float(np.iinfo(stored.dtype).max) if stored.dtype.kind in "ui" else 1e9
        values = io.as_float(stored)
        found = (values >= largest) & ~_among(values, (*(self.invalid or ()), *self.infinity))
        share = float(found.mean())
        return {f"{values[found].max():g}": share} if share >= _MARKED else {}

    @property
    def _is_ordinal(self) -> bool:
        return self.polarity in ("ordinal", "inverse_ordinal")

    def _ordinal(
        self, values: Float32[np.ndarray, "h w"], stored: Shaped[np.ndarray, "_h _w"]
    ) -> Float32[np.ndarray, "h w"]:
        """Return depth by the place of values in the range of the whole map; NaN for others."""
        low, high = self._bounds(stored)
        with np.errstate(invalid="ignore", over="ignore"):
            place = (values.astype(np.float64) - low) / ((high - low) or 1.0)
            place = 1 - place if self.polarity == "inverse_ordinal" else place
            depth = np.exp(place).astype(np.float32)
        depth[~np.isfinite(values)] = np.nan
        depth[values == (np.inf if self.polarity == "ordinal" else -np.inf)] = np.inf
        return depth

    def _bounds(self, stored: Shaped[np.ndarray, "h w"]) -> tuple[float, float]:
        """Return the least and the largest value of a map that counts; 0 and 0 if none does."""
        whole = io.as_float(stored)
        counts = np.isfinite(whole) & ~_among(whole, (*(self.invalid or ()), *self.infinity))
        if not counts.any():
            return 0.0, 0.0
        return float(whole[counts].min()), float(whole[counts].max())

    def _require_declared(self, stored: Shaped[np.ndarray, "h w"], path: str) -> None:
        """Raise UndeclaredValues for finite values that give no depth and that nobody declared."""
        if self._is_ordinal:
            return
        known = (*(self.invalid or ()), *self.infinity)
        unsigned = stored.dtype.kind == "u" and not self.offset
        # Most maps end here, at the price of a minimum.
        if np.fmin.reduce(stored, axis=None) > -self.offset or (unsigned and 0 in known):
            return
        values = io.as_float(stored)
        moved = values + np.float32(self.offset)
        is_disparity = self.polarity == "disparity"
        # Then 0 is the nearest depth, or infinitely far.
        zero_counts = self.invalid == () or (is_disparity and (self.invalid or self.max_depth))
        bad = np.isfinite(values) & ~_among(values, known)
        bad &= moved < 0 if zero_counts else moved <= 0
        if not bad.any():
            return
        found = np.unique(values[bad])
        percent = 100 * float(bad.mean())
        share = f"{percent:.2g}%" if percent < 1 else f"{percent:.0f}%"
        if len(found) == 1:
            told = f"{share} of its depth map is {found[0]:g}"
        else:
            told = f"{share} of its depth map is {found[0]:g} to {found[-1]:g}"
        ways = []
        if len(found) <= 3:
            declared = ",".join(f"{value:g}" for value in (*found, *(self.invalid or ())))
            ways.append(f"invalid={declared} (not measured)")
        if is_disparity and (found == -self.offset).any():
            ways.append(f"infinity={0 - self.offset:g} (infinitely far, as sky)")
        if not is_disparity and moved[bad].min() == 0:
            ways.append("invalid=none (the nearest)")
        ordinal = "inverse_ordinal" if is_disparity else "ordinal"
        ways.append(f"polarity={ordinal} (scores of any sign)")
        raise UndeclaredValues(
            path,
            f"{told}, which is no {self.polarity}, and nothing says what it means. Set"
            f" --config.data.source.{', or '.join(ways)}",
        )

    def _range(self, split: str) -> range:
        text = getattr(self, split)
        match = _RANGE.fullmatch(text)
        if not match:
            raise DataError(
                f"folder: {split}={text!r} is not a range; write e.g. '0:40' or '80%:90%'"
            )
        count = len(self._pairs)

        def position(part: str, default: int) -> int:
            if part.endswith("%"):
                return int(count * float(part[:-1]) / 100)
            return int(part) if part else default

        start, stop = position(match[1], 0), position(match[2], count)
        return range(count)[start:stop]

    @functools.cached_property
    def _pairs(self) -> list[tuple[str, str, str]]:
        """Name, photograph and map of all samples, sorted by name."""
        if not self.root:
            raise DataError("folder: root is not set; give the folder that holds images and maps")
        return pairing.find(pathlib.Path(self.root), self.images, self.maps, self.seconds)


def _among(values: Shaped[np.ndarray, "*n"], some: tuple[float, ...]) -> Bool[np.ndarray, "*n"]:
    """Return where `values` are one of `some`, which are compared as float32."""
    if not some:
        return np.zeros(values.shape, np.bool_)
    return np.isin(values, np.array(some, np.float32))
