"""Photographs to measure with: sizes of files and costs of decoding are those of real ones."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Return blobs of all sizes with the noise of a sensor; `size` is (height, width)."""
    height, width = size
    image = rng.normal(128, 5, (height, width, 3)).astype(np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        for channel in range(3):
            blobs = rng.normal(0, 400 / cells, (cells, cells)).astype(np.float32)
            smooth = Image.fromarray(blobs).resize((width, height), Image.Resampling.BICUBIC)
            image[..., channel] += np.asarray(smooth)
    return image.clip(0, 255).astype(np.uint8)
