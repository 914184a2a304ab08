"""Random augmentation of image, depth, mask, instances and annotated pairs together.

Axes: h w c, g annotated pairs. Host side, NumPy.
"""

import dataclasses
from typing import cast

import numpy as np
from jaxtyping import Int, Int32
from PIL import Image

from reldepth_jax.config import LabelNoise
from reldepth_jax.data.cropping import Crop, Opened, WholeSample, scaled
from reldepth_jax.data.label_noise import noisy_depth
from reldepth_jax.types import NO_PAIRS, UNKNOWN, Sample


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
    certainty: bool = False
    """The same for `certainty`, which is infinite where a sample has none."""
    gamma_jitter: float = 0.0
    label_noise: LabelNoise = LabelNoise()

    def __call__(self, sample: Sample | Opened, rng: np.random.Generator) -> Sample:
        """Return one training example of the crop's size; `rng` alone decides how.

        Of a sample that has only been opened, no more is decoded than the example shows.
        """
        opened = WholeSample(cast(Sample, sample)) if isinstance(sample, dict) else sample
        # Every draw is made whether it is used or not: an option changes itself and no other.
        places = rng.uniform(size=4)
        jitter = rng.uniform(1 - self.color_jitter, 1 + self.color_jitter, size=3)
        pairs = opened.pairs
        kept = pairs[rng.integers(len(pairs))] if len(pairs) else None
        read = opened.read(self._choose(opened.size, kept, *places))
        image, depth, mask = read["image"], read["depth"], read["mask"]
        if self.color_jitter > 0:
            image = jitter_colors(image, *jitter)
        example: Sample = {"image": image, "depth": depth, "mask": mask}
        if "unreadable" in read:
            example["unreadable"] = read["unreadable"]
        if self.instances:
            example["instances"] = read.get("instances", np.zeros(self.crop, np.int32))
        if self.certainty:
            example["certainty"] = read.get("certainty", np.float32(np.inf))
        if self.pairs_per_image:
            example["pairs"] = self._padded(read.get("pairs", NO_PAIRS), rng)
        gamma = (1 + self.gamma_jitter) ** rng.uniform(-1, 1)
        if self.gamma_jitter > 0:
            example["image"] = apply_gamma(image, gamma)
        if self.label_noise != LabelNoise():
            example["depth"] = noisy_depth(depth, mask, self.label_noise, rng)
        return example

    def _choose(
        self,
        full: tuple[int, int],
        kept: Int32[np.ndarray, "5"] | None,
        zoom: float,
        top: float,
        left: float,
        mirror: float,
    ) -> Crop:
        """Return the crop of a photograph; the pair `kept` lies in it, the rest is in [0, 1)."""
        height, width = full
        scale = max(self.crop[0] / height, self.crop[1] / width)
        scale *= self.zoom[0] + zoom * (self.zoom[1] - self.zoom[0])
        size = (
            max(self.crop[0], round(height * scale)),
            max(self.crop[1], round(width * scale)),
        )
        starts = [(0, size[axis] - self.crop[axis]) for axis in (0, 1)]
        if kept is not None:
            points = scaled(kept[None], full, size)[0]
            starts = [self._starts(points[axis : axis + 3 : 2], size, axis) for axis in (0, 1)]
            if any(low > high for low, high in starts):
                size, starts = self.crop, [(0, 0), (0, 0)]
        row, column = (
            low + int(share * (high - low + 1))
            for share, (low, high) in zip((top, left), starts, strict=True)
        )
        return Crop(full, size, (row, column), self.crop, self.flip and bool(mirror < 0.5))

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


def jitter_colors(
    image: np.ndarray, brightness: float, contrast: float, saturation: float
) -> np.ndarray:
    """Scale brightness, contrast about the mean, and distance from gray; uint8 (h, w, 3)."""
    gain = brightness * contrast
    offset = brightness * float(image.mean()) * (1 - contrast)
    weights = np.tile([0.299, 0.587, 0.114], (3, 1))
    matrix = gain * (saturation * np.eye(3) + (1 - saturation) * weights)
    # All three are one affine map of colours, which Pillow rounds and clips at a third of the time.
    rows = np.column_stack([matrix, [offset] * 3])
    return np.asarray(Image.fromarray(image).convert("RGB", tuple(rows.ravel().tolist())))


def apply_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Raise RGB in [0, 1] to the power `gamma`: above 1 is darker; uint8 (h, w, 3)."""
    table = 255 * (np.arange(256) / 255) ** gamma
    return (table + 0.5).astype(np.uint8).take(image)
