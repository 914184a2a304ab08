"""What cameras and files do to photographs, done to training images: blur, noise, JPEG.

In this order, on RGB of 8 bits: a Gaussian blur (by three boxes, as Pillow does it) with a
deviation from 0 to `blur` pixels of the crop; Gaussian noise, independent in every value, with a
deviation from 0 to `noise` of the full range; compression as JPEG with a quality from `jpeg` to 100
and half the resolution of colour. Each uniform, one draw an image. Labels stay as they are.

Axes: h w c. Host side, NumPy and Pillow.
"""

import dataclasses
import io
from typing import cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from reldepth_jax.config import Degradation
from reldepth_jax.types import Sample


@dataclasses.dataclass(frozen=True)
class DegradeImage:
    """Degrades the image of a training example, and nothing else of it."""

    degradation: Degradation

    def __call__(self, example: Sample, rng: np.random.Generator) -> Sample:
        """Return the example with its image degraded; `rng` alone decides how much."""
        return cast(Sample, {**example, "image": degraded(example["image"], self.degradation, rng)})


def degraded(
    image: UInt8[np.ndarray, "h w 3"], degradation: Degradation, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with blur, noise and artefacts of JPEG."""
    # Every draw is made whether it is used or not: an option changes itself and no other.
    blur, noise, quality = rng.uniform(size=3).tolist()
    if degradation.blur:
        picture = Image.fromarray(image)
        image = np.asarray(picture.filter(ImageFilter.GaussianBlur(blur * degradation.blur)))
    if degradation.noise:
        added = rng.normal(0, 255 * noise * degradation.noise, image.shape)
        image = np.clip(np.rint(image + added), 0, 255).astype(np.uint8)
    if degradation.jpeg:
        file = io.BytesIO()
        quality = round(degradation.jpeg + quality * (100 - degradation.jpeg))
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        image = np.asarray(Image.open(file))
    return image
