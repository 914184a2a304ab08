"""Random augmentation of image, depth, mask, instances and annotated pairs together.

Axes: h w c, g annotated pairs. Host side, NumPy.
"""

import dataclasses

import numpy as np
from jaxtyping import Int, Int32

from reldepth_jax.config import LabelNoise
from reldepth_jax.conventions import UNKNOWN, Sample
from reldepth_jax.data.geometry import resize_image, resize_map_nearest
from reldepth_jax.data.label_noise import noisy_depth


@dataclasses.dataclass(frozen=True)
class TrainTransform:
    """Resize to cover the crop at a random zoom, crop at random, mirror, jitter colours.

    Source: random crop and horizontal flip, Xian et al., CVPR 2018, Section 4. The aspect ratio
    is kept; depth is resized by nearest neighbour, because blended labels are no one's depth.

    Annotated pairs: the crop is drawn among those that contain one of them, itself drawn at
    random, so that an image with a single pair (DIW) never loses it. Where its points lie too far
    apart for any crop, the whole image is squeezed into the crop, as Chen et al. (2016) do with
    every image. A pair that is cropped away, or whose points fall on one pixel, becomes UNKNOWN.
    """

    crop: tuple[int, int]
    zoom: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    color_jitter: float = 0.0
    pairs_per_image: int = 0
    """Rows of `pairs` in what is returned (of more pairs that many are drawn); 0: no `pairs`."""
    instances: bool = False
    """Whether what is returned has `instances`; those of a sample without them are all 0."""
    gamma_jitter: float = 0.0
    label_noise: LabelNoise = LabelNoise()

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
        pairs = sample.get("pairs", np.zeros((0, 5), np.int32))
        starts = [(0, size[axis] - self.crop[axis]) for axis in (0, 1)]
        if len(pairs):
            kept = _scaled(pairs[rng.integers(len(pairs))][None], (height, width), size)[0]
            starts = [self._starts(kept[axis : axis + 3 : 2], size, axis) for axis in (0, 1)]
            if any(low > high for low, high in starts):
                size, starts = self.crop, [(0, 0), (0, 0)]
        if size != (height, width):
            image = resize_image(image, size)
            depth = resize_map_nearest(depth, size)
            mask = resize_map_nearest(mask, size)
        row, column = (
            low + int(share * (high - low + 1))
            for share, (low, high) in zip((top, left), starts, strict=True)
        )
        window = np.s_[row : row + self.crop[0], column : column + self.crop[1]]
        image, depth, mask = image[window], depth[window], mask[window]
        mirrored = self.flip and mirror < 0.5
        if mirrored:
            image, depth, mask = image[:, ::-1], depth[:, ::-1], mask[:, ::-1]
        if self.color_jitter > 0:
            image = jitter_colors(image, *jitter)
        example: Sample = {
            "image": np.ascontiguousarray(image),
            "depth": np.ascontiguousarray(depth),
            "mask": np.ascontiguousarray(mask),
        }
        if "bad" in sample:
            example["bad"] = sample["bad"]
        if self.instances:
            ids = sample.get("instances", np.zeros((height, width), np.int32))
            ids = resize_map_nearest(ids, size)[window]
            example["instances"] = np.ascontiguousarray(ids[:, ::-1] if mirrored else ids)
        if self.pairs_per_image:
            moved = _scaled(pairs, (height, width), size)
            moved[:, :4] -= np.array([row, column, row, column], np.int32)
            if mirrored:
                moved[:, 1:4:2] = self.crop[1] - 1 - moved[:, 1:4:2]
            example["pairs"] = self._padded(moved, rng)
        gamma = (1 + self.gamma_jitter) ** rng.uniform(-1, 1)
        if self.gamma_jitter > 0:
            example["image"] = apply_gamma(example["image"], gamma)
        if self.label_noise != LabelNoise():
            example["depth"] = noisy_depth(example["depth"], mask, self.label_noise, rng)
        return example

    def _starts(
        self, places: Int[np.ndarray, "2"], size: tuple[int, int], axis: int
    ) -> tuple[int, int]:
        """Return the first and last start of a crop that contains both places on an axis."""
        crop = self.crop[axis]
        return max(0, int(places.max()) - crop + 1), min(size[axis] - crop, int(places.min()))

    def _padded(
        self, pairs: Int32[np.ndarray, "n 5"], rng: np.random.Generator
    ) -> Int32[np.ndarray, "g 5"]:
        limits = np.tile(self.crop, 2)
        inside = ((pairs[:, :4] >= 0) & (pairs[:, :4] < limits)).all(axis=1)
        apart = (pairs[:, :2] != pairs[:, 2:4]).any(axis=1)
        pairs = pairs[inside & apart]
        if len(pairs) > self.pairs_per_image:
            pairs = pairs[rng.choice(len(pairs), self.pairs_per_image, replace=False)]
        padded = np.zeros((self.pairs_per_image, 5), np.int32)
        padded[:, 4] = UNKNOWN
        padded[: len(pairs)] = pairs
        return padded


def _scaled(
    pairs: Int32[np.ndarray, "n 5"], old: tuple[int, int], new: tuple[int, int]
) -> Int32[np.ndarray, "n 5"]:
    """Return the pairs with each point at the pixel that its centre falls into after a resize."""
    scaled = pairs.astype(np.int64)
    olds, news = np.tile(old, 2), np.tile(new, 2)
    scaled[:, :4] = (2 * scaled[:, :4] + 1) * news // (2 * olds)
    return scaled.astype(np.int32)


def jitter_colors(
    image: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Scale brightness, contrast about the mean, and distance from gray; uint8 (h, w, 3)."""
    x = image.astype(np.float32) * brightness
    x = (x - x.mean()) * contrast + x.mean()
    gray = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    x = gray + (x - gray) * saturation
    return np.clip(x + 0.5, 0, 255).astype(np.uint8)


def apply_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Raise RGB in [0, 1] to the power `gamma`: above 1 is darker; uint8 (h, w, 3)."""
    table = 255 * (np.arange(256) / 255) ** gamma
    return (table + 0.5).astype(np.uint8)[image]
