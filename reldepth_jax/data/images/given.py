"""What a program hands over as an image: taken for what it is, or refused, never guessed."""

import os
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFile

from reldepth_jax.data.images import decoding, io
from reldepth_jax.data.images.bands import as_array
from reldepth_jax.errors import UserError

Given = str | os.PathLike[str] | Image.Image | np.ndarray
"""Also whatever NumPy makes an array of."""


def as_rgb(image: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image as RGB in the orientation in which it is displayed.

    Args:
      image: the path of a photograph (see `io.read_image`); an image of Pillow of any mode,
        converted as that reader does and left as it is; or an array of uint8, RGB (h, w, 3) or
        grey (h, w).

    Raises UserError for anything else: other types (floats in [0, 1] or 0..255?), channels first,
    alpha, batches, masked arrays. UnreadableFile for a path.
    """
    if isinstance(image, str | os.PathLike):
        return io.read_image(image)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if isinstance(image, np.ma.MaskedArray):
        raise UserError("the image is a masked array; fill it, since no pixel is left out")
    try:
        pixels = np.asarray(image)
    except Exception as error:
        raise UserError(f"the image is a {type(image).__name__}: {_reason(error)}") from None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or not pixels.size:
        raise UserError(
            f"the image must be uint8 RGB (h, w, 3) or grey (h, w), got {pixels.dtype}"
            f" {np.shape(image)}; the path of a photograph or an image of Pillow will do as well"
        )
    return pixels


def _from_pillow(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    try:
        if 0 in image.size:
            raise ValueError("is empty")
        turned = decoding.orientation(image) != 1
        if turned and not isinstance(image, ImageFile.ImageFile):
            # `convert` and `resize` keep the tag, and so do `rotate` and `transpose`.
            raise ValueError(
                "its EXIF says that it is displayed turned, but it may have been turned already;"
                " call PIL.ImageOps.exif_transpose on what Image.open returns, or give the path"
            )
        return as_array(decoding.to_rgb(image, displayed=True))
    except Exception as error:
        size = f"{image.width}x{image.height}"
        raise UserError(f"the image ({image.mode}, {size}): {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
