"""Random augmentation of image, depth and mask together. Axes: h w c. Host side, NumPy."""

import dataclasses

import numpy as np

from reldepth_jax.conventions import Sample
from reldepth_jax.data.geometry import resize_image, resize_map_nearest


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Resize to cover the crop at a random zoom, crop at random, mirror, jitter colours.

    Source: random crop and horizontal flip, Xian et al., CVPR 2018, Section 4. The aspect ratio
    is kept; depth is resized by nearest neighbour, because blended labels are no one's depth.
    """

    crop: tuple[int, int]
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    color_jitter: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return one training example of the crop's size; `rng` alone decides how."""
        # Every draw is made whether it is used or not: an option changes itself and no other.
        zoom, top, left, mirror = rng.uniform(size=4)
        jitter = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3)
        image, depth, mask = sample["image"], sample["depth"], sample["mask"]
        height, width = depth.shape
        scale = max(self.crop[0] / height, self.crop[1] / width)
        scale *= self.zoom[0] + zoom * (self.zoom[1] - self.zoom[0])
        size = (
            max(self.crop[0], round(height * scale)),
            max(self.crop[1], round(width * scale)),
        )
        if size != (height, width):
            image = resize_image(image, size)
            depth = resize_map_nearest(depth, size)
            mask = resize_map_nearest(mask, size)
        row = int(top * (size[0] - self.crop[0] + 1))
        column = int(left * (size[1] - self.crop[1] + 1))
        window = np.s_[row : row + self.crop[0], column : column + self.crop[1]]
        image, depth, mask = image[window], depth[window], mask[window]
        if self.flip and mirror < 0.5:
            image, depth, mask = image[:, ::-1], depth[:, ::-1], mask[:, ::-1]
        if self.color_jitter > 0:
            image = jitter_colors(image, *jitter)
        return {
            "image": np.ascontiguousarray(image),
            "depth": np.ascontiguousarray(depth),
            "mask": np.ascontiguousarray(mask),
        }


def jitter_colors(
    image: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Scale brightness, contrast about the mean, and distance from gray; uint8 (h, w, 3)."""
    x = image.astype(np.float32) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    gray = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = gray + (x - gray) * saturation
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)
