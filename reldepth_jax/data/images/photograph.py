"""Photographs of which only the header is read until it is known at which size they are needed.

A JPEG decoder can leave out the higher frequencies of the 8x8 blocks (libjpeg: "DCT scaling"). That
costs less than decoding everything and averaging it afterwards.
"""

import io as streams
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

from reldepth_jax.data.images import decoding, io

_REVERSED = {
    2: (True, False),
    3: (True, True),
    4: (False, True),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
"""Whether what turns an image of this EXIF orientation reverses columns and rows as stored."""


class Pixels(NamedTuple):
    """A decoded photograph, perhaps at a reduced size."""

    image: Image.Image
    """RGB."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge of the photograph in pixels of `image`. Where its size is
    no multiple of the reduction, `image` reaches beyond it by a fraction of a pixel."""
    reduced: bool


class Photograph:
    """A photograph as `io.decode_image` decodes it, or, `displayed`, as `io.read_image` does.

    `data` is the encoded file, `name` stands in messages. Raises UnreadableFile. Damage to a JPEG
    behind its header shows when it is decoded.
    """

    size: tuple[int, int]
    """Height and width."""

    def __init__(self, data: bytes, name: str, *, displayed: bool = False):
        self._name, self._orientation = name, 1
        with io.reporting(name):
            image = decoding.opened(streams.BytesIO(data))
            self._decoded = image.format != "JPEG"
            if self._decoded:
                # Only then its orientation is known: see there.
                image = decoding.to_rgb(image, displayed=displayed)
            elif displayed:
                self._orientation = decoding.orientation(image)
        self._image = image
        width, height = image.size
        self.size = (width, height) if self._orientation >= 5 else (height, width)

    @classmethod
    def of(cls, array: UInt8[np.ndarray, "h w 3"]) -> "Photograph":
        """Return one that is decoded already."""
        made = cls.__new__(cls)
        made._name, made._orientation, made._decoded = "", 1, True
        made._image = Image.fromarray(array)
        made.size = (array.shape[0], array.shape[1])
        return made

    def decode(self, size: tuple[int, int]) -> Pixels:
        """Return the photograph with at least as many rows and columns as `size` (height, width).

        That is, a JPEG at the smallest of 1/8, 1/4, 1/2 and 1/1 that has them, sides rounded up;
        what is not a JPEG, or has fewer itself, at its own size. To be called once.
        """
        image = self._image
        if self._decoded:
            return Pixels(image, (0, 0, *image.size), reduced=False)
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        stored = image.size
        with io.reporting(self._name):
            rows, columns = size
            turned = self._orientation >= 5
            drafted = image.draft(None, (rows, columns) if turned else (columns, rows))
            assert drafted is not None
            _, _, width, height = drafted[1]
            image = decoding.to_rgb(image, displayed=False)
        reduced = image.size != stored
        left = top = 0.0
        if self._orientation in decoding.TURNS:
            columns_reversed, rows_reversed = _REVERSED.get(self._orientation, (False, False))
            # What reaches beyond the photograph comes to lie before it.
            left = image.size[0] - width if columns_reversed else 0.0
            top = image.size[1] - height if rows_reversed else 0.0
            image = image.transpose(decoding.TURNS[self._orientation])
        box = (left, top, left + width, top + height)
        if turned:
            box = (box[1], box[0], box[3], box[2])
        return Pixels(image, box, reduced)
