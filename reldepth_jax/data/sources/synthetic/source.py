"""Procedural scenes as a data source."""

import dataclasses
import math
import random

import numpy as np

from reldepth_jax.config import ConfigError
from reldepth_jax.data.sources.synthetic import textures
from reldepth_jax.data.sources.synthetic.indoor import room
from reldepth_jax.data.sources.synthetic.outdoor import street
from reldepth_jax.data.sources.synthetic.raycast import LEVEL, ROOM, cast, pixel_grid
from reldepth_jax.data.sources.synthetic.scene import in_camera
from reldepth_jax.data.sources.synthetic.shade import photograph
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

SKY = 3000.0
"""Metres: ground beyond is drawn and labelled as sky."""


@SOURCES.register("synthetic")
@dataclasses.dataclass(frozen=True)
class SyntheticScenes:
    """Rooms and streets with exact planar depth in metres, sky at inf, every pixel valid.

    A sample is a pure function of (seed, split, index, size, outdoor). Its instances, if asked for,
    are its things, the solids of one material: room, ground and sky are none (0). The splits differ
    in their scenes and share neither texture families nor kinds of stain.
    """

    pairs_per_image = 0

    split: Split
    size: tuple[int, int]
    """Height and width of the rendered image."""
    seed: int = 0
    length: int = 100_000
    """Training scenes; validation and test have at most 1000."""
    outdoor: float = 0.35
    """Share of scenes in the open air."""
    instances: bool = False
    """Whether samples have `instances`; they change nothing else."""

    def __post_init__(self) -> None:
        if self.seed < 0 or self.length < 1:
            name, least = ("seed", 0) if self.seed < 0 else ("length", 1)
            got = getattr(self, name)
            raise ConfigError(f"data.source.{name} must be at least {least}, got {got}")
        if not 0 <= self.outdoor <= 1:
            raise ConfigError(f"data.source.outdoor must be from 0 to 1, got {self.outdoor}")

    def __len__(self) -> int:
        return self.length if self.split == "train" else min(self.length, 1000)

    def __getitem__(self, index: int) -> Sample:
        """Render a scene; depth float32 in metres. IndexError outside the split."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        number = ("train", "val", "test").index(self.split)
        attempt = 0
        while True:
            rng = np.random.default_rng((self.seed, number, index, attempt))
            sample = _render(rng, self.size, self.split, self.outdoor, self.instances)
            if sample is not None:
                return sample
            attempt += 1


def _render(
    rng: np.random.Generator, size: tuple[int, int], split: Split, outdoor: float, instances: bool
) -> Sample | None:
    """Return a scene, or None if one thing fills the view or nearly all is equally far."""
    draw = random.Random(int(rng.integers(1 << 62)))
    scene = (street if draw.random() < outdoor else room)(draw, rng)
    solids = in_camera(scene)
    grid = pixel_grid(*size, 0.5 * max(size) / math.tan(scene.camera.view / 2))
    depth, index = cast(solids, grid)
    depth[depth > SKY] = np.inf
    if not _worth_seeing(depth, index, solids.kind):
        return None
    image = photograph(scene, solids, grid, depth, index, textures.atlas(split), rng)
    sample = Sample(image=image, depth=depth, mask=np.ones(size, bool))
    if instances:
        endless = (solids.kind == ROOM) | (solids.kind == LEVEL)
        ids = np.where(endless, 0, scene.material + 1)[index]
        sample["instances"] = np.where(np.isfinite(depth), ids, 0).astype(np.int32)
    return sample


def _worth_seeing(depth: np.ndarray, index: np.ndarray, kind: np.ndarray) -> bool:
    few = depth[::4, ::4].ravel()
    finite = np.sort(few[np.isfinite(few)])
    if (
        finite.size < 0.35 * few.size
        or finite[-finite.size // 20] < 1.5 * finite[finite.size // 20]
    ):
        return False
    things = np.bincount(index.ravel(), minlength=len(kind)) / index.size
    things[(kind == ROOM) | (kind == LEVEL)] = 0
    return bool(things.max() < 0.6 and things.sum() > 0.05)
