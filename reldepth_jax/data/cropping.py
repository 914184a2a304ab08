"""Reading no more of a sample than a training example shows of it.

The crop is chosen as soon as the size of a photograph is known. Then JPEG is decoded at a reduced
size where it is going to be shrunk anyway, and maps are cut out before they are interpreted.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8
from PIL import Image

from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.types import Sample, Source


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


ChooseCrop = Callable[[int, int, np.ndarray], Crop]
"""Says what is to be read of a photograph: its height, its width and its annotated pairs (n 5)."""


def whole(height: int, width: int, pairs: Int32[np.ndarray, "n 5"]) -> Crop:
    """Choose everything, as it is."""
    del pairs
    return Crop((height, width), (height, width), (0, 0), (height, width))


def read_crop(source: Source, index: int, choose: ChooseCrop) -> Sample:
    """Return a sample cut out as `choose` says, `pairs` as `Crop.pairs` gives them.

    By the source's own method of this name, if it has one that reads no more than is shown.
    """
    read = getattr(source, "read_crop", None)
    return cut_out(source[index], choose) if read is None else read(index, choose)


def cut_out(sample: Sample, choose: ChooseCrop) -> Sample:
    """The same of a sample that has been read as a whole."""
    height, width = sample["depth"].shape
    pairs = sample.get("pairs", np.zeros((0, 5), np.int32))
    crop = choose(height, width, pairs)
    result: Sample = {
        "image": crop.image(Photograph.of(sample["image"])),
        "depth": crop.map(sample["depth"]),
        "mask": crop.map(sample["mask"]),
    }
    if "pairs" in sample:
        result["pairs"] = crop.pairs(pairs)
    if "instances" in sample:
        result["instances"] = crop.map(sample["instances"])
    if "bad" in sample:
        result["bad"] = sample["bad"]
    return result


@dataclasses.dataclass(frozen=True)
class Unread:
    """One sample of a source that will be read when it is known what is needed of it."""

    source: Source
    index: int

    def read(self, choose: ChooseCrop) -> Sample:
        """As `read_crop`."""
        return read_crop(self.source, self.index, choose)


@dataclasses.dataclass(frozen=True)
class Deferred:
    """The samples of a source, unread."""

    source: Source

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.source)

    def __getitem__(self, index: int) -> Unread:
        """Return one of them."""
        return Unread(self.source, index)
