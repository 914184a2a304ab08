"""Reading in two phases: a sample is opened, its crop is chosen, the crop is read.

So no more is read than a training example shows: JPEG is decoded at a reduced size where it would
be shrunk anyway, and maps are cut out before they are interpreted.
"""

import dataclasses
from collections.abc import Callable
from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, Shaped, UInt8
from PIL import Image

from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.types import NO_PAIRS, Sample, Source


class Truth(TypedDict):
    """The ground truth of a `Sample`."""

    depth: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    instances: NotRequired[Int32[np.ndarray, "h w"]]
    certainty: NotRequired[np.float32]


@dataclasses.dataclass(frozen=True)
class Crop:
    """A photograph resized to `size`, of which a window is taken, perhaps mirrored.

    All are (rows, columns). Pixel centres lie at half-integers.
    """

    full: tuple[int, int]
    """Of the photograph."""
    size: tuple[int, int]
    corner: tuple[int, int]
    shape: tuple[int, int]
    mirrored: bool = False

    def image(self, photograph: Photograph) -> UInt8[np.ndarray, "_h _w 3"]:
        """Return the window, interpolated bilinearly, averaged over the covered area when shrunk.

        Where the decoder of JPEG has done the first factor of 2, 4 or 8, the rest is done by a
        bicubic kernel, widened likewise: what comes out is sharper than it would be without
        reduced decoding; a bilinear one would blur a second time.
        """
        image, (left, top, right, bottom), reduced = photograph.decode(self.size)
        (height, width), (row, column), (rows, columns) = self.size, self.corner, self.shape
        across, down = (right - left) / width, (bottom - top) / height
        box = (
            left + across * column,
            top + down * row,
            min(left + across * (column + columns), image.size[0]),
            min(top + down * (row + rows), image.size[1]),
        )
        kernel = Image.Resampling.BICUBIC if reduced else Image.Resampling.BILINEAR
        image = image.resize((columns, rows), kernel, box)
        if self.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image)

    def map(self, values: Shaped[np.ndarray, "h w"]) -> Shaped[np.ndarray, "_h _w"]:
        """Return the window of a map, each value that of the nearest pixel centre.

        A map of another size than the photograph is resized to that size first, in the same way.
        """
        rows, columns = (self._places(axis, values.shape[axis]) for axis in (0, 1))
        if self.mirrored:
            columns = columns[::-1]
        # Whole rows are copied faster than single values.
        return values[rows][:, columns]

    def pairs(self, pairs: Int32[np.ndarray, "n 5"]) -> Int32[np.ndarray, "n 5"]:
        """Return each point at the pixel that its centre falls into, perhaps outside the window."""
        moved = scaled(pairs, self.full, self.size)
        moved[:, :4] -= np.tile(self.corner, 2).astype(np.int32)
        if self.mirrored:
            moved[:, 1:4:2] = self.shape[1] - 1 - moved[:, 1:4:2]
        return moved

    def _places(self, axis: int, old: int) -> Int64[np.ndarray, "n"]:
        window = self.corner[axis] + np.arange(self.shape[axis])
        places = _moved(window, self.size[axis], self.full[axis])
        return places if old == self.full[axis] else _moved(places, self.full[axis], old)


def _moved(
    places: Int64[np.ndarray, "*n"], old: int | np.ndarray, new: int | np.ndarray
) -> Int64[np.ndarray, "*n"]:
    """Return the pixels of `new` ones that the centres of those of `old` ones fall into."""
    return (2 * places + 1) * new // (2 * old)


def scaled(
    pairs: Int32[np.ndarray, "n 5"], old: tuple[int, int], new: tuple[int, int]
) -> Int32[np.ndarray, "n 5"]:
    """Return the pairs with each point at the pixel that its centre falls into after a resize."""
    moved = pairs.astype(np.int64)
    moved[:, :4] = _moved(moved[:, :4], np.tile(old, 2), np.tile(new, 2))
    return moved.astype(np.int32)


@runtime_checkable
class Opened(Protocol):
    """A sample of which no more has been read than its size and its annotated pairs take."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the photograph."""
        ...

    @property
    def pairs(self) -> Int32[np.ndarray, "n 5"]:
        """Annotated pairs of the whole photograph; none: shape (0, 5)."""
        ...

    def read(self, crop: Crop | None = None) -> Sample:
        """Read a crop, `pairs` as `Crop.pairs` gives them, or the whole. To be called once."""
        ...


def open_sample(source: Source, index: int) -> Opened:
    """Open a sample by its source's own method `open`, if it has one; else read it as a whole."""
    own = getattr(source, "open", None)
    return WholeSample(source[index]) if own is None else own(index)


@dataclasses.dataclass(frozen=True)
class WholeSample:
    """A sample that has been read as a whole; see `Opened`."""

    sample: Sample

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.sample["depth"].shape
        return height, width

    @property
    def pairs(self) -> Int32[np.ndarray, "n 5"]:
        """Annotated pairs."""
        return self.sample.get("pairs", NO_PAIRS)

    def read(self, crop: Crop | None = None) -> Sample:
        """Cut out the crop, or return the whole."""
        if crop is None:
            return self.sample
        result: Sample = {
            "image": crop.image(Photograph.of(self.sample["image"])),
            "depth": crop.map(self.sample["depth"]),
            "mask": crop.map(self.sample["mask"]),
        }
        if "pairs" in self.sample:
            result["pairs"] = crop.pairs(self.sample["pairs"])
        if "instances" in self.sample:
            result["instances"] = crop.map(self.sample["instances"])
        if "certainty" in self.sample:
            result["certainty"] = self.sample["certainty"]
        return result


@dataclasses.dataclass(frozen=True)
class OpenedPhotograph:
    """A sample whose photograph is decoded when the crop is known; see `Opened`."""

    photograph: Photograph
    truth: Callable[[Crop], Truth]
    """Returns the ground truth within a crop."""
    annotated: Int32[np.ndarray, "n 5"] | None = None
    """None where the data set has no annotated pairs."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.photograph.size

    @property
    def pairs(self) -> Int32[np.ndarray, "n 5"]:
        """Annotated pairs."""
        return NO_PAIRS if self.annotated is None else self.annotated

    def read(self, crop: Crop | None = None) -> Sample:
        """Decode the crop, or the whole; UnreadableFile if the photograph is damaged."""
        crop = crop or Crop(self.size, self.size, (0, 0), self.size)
        sample: Sample = {**self.truth(crop), "image": crop.image(self.photograph)}
        if self.annotated is not None:
            sample["pairs"] = crop.pairs(self.annotated)
        return sample


@dataclasses.dataclass(frozen=True)
class OpenedSamples:
    """The samples of a source, opened."""

    source: Source

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.source)

    def __getitem__(self, index: int) -> Opened:
        """Open one of them."""
        return open_sample(self.source, index)
