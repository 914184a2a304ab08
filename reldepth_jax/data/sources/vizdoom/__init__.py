"""Frames of Freedoom, a game whose maps were made by strangers, rendered by ViZDoom.

Needs pip install "reldepth-jax[vizdoom]" (39 MB with both WADs of Freedoom 0.13.0: 68 maps); runs
without display and GL. Nothing is downloaded. With shards (`reldepth prepare vizdoom`) frames
need not be rendered again by every run and worker, and ViZDoom only when they are prepared.

Maps: E1-E3 of freedoom1 and MAP01-26 of freedoom2 train (53); of the others, in this order
E4M1-E4M9, MAP27-32, every second validates (8), the rest are the test (7).

Depth: the game gives 8 bits, linear in planar depth; at 640x480 z = 7.15 buffer + 14.5 map units (a
person's eye is 41 above the floor), measured against the maps' geometry with a median error of 1.9.
255 is sky and whatever is farther than 1830, both taken for infinitely far. Sprites are flat.

A level is 7.15 units, which near the camera is much: two points of one level may differ by 12 % at
60 units, so `near` leaves closer pixels (about 9 %) without ground truth, and labels by Eq. (1) of
the paper need sigma >= 0.12: then equal is what differs by at most one level, and farther what
truly is. With the paper's 0.02 the order of unequal pairs still holds, but points of one level are
called equal that are not, wherever they are nearer than 357 units.
"""

import dataclasses
import functools
import itertools
import threading
import zlib

import numpy as np
from jaxtyping import Float32, UInt8

from reldepth_jax.config import ConfigError
from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
from reldepth_jax.data.reading.records import Part, Record, Records
from reldepth_jax.data.sources.vizdoom import driver
from reldepth_jax.data.sources.vizdoom.game import HEIGHT, WIDTH, Frame, Visit
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import NO_PAIRS, Split

COUNTS: dict[Part, int] = {"train": 4000, "val": 500, "test": 500}
"""Frames of each part that are prepared as shards."""
SKY = 255
FRAMES = 16
"""Frames rendered at once, because loading a map takes as long as several of them."""
KEPT = 512
"""Visits whose frames are kept in memory."""

_OTHERS = [
    *(("freedoom1.wad", f"E4M{number}") for number in range(1, 10)),
    *(("freedoom2.wad", f"MAP{number}") for number in range(27, 33)),
]
LEVELS: dict[Part, list[tuple[str, str]]] = {
    "train": [
        *(("freedoom1.wad", f"E{e}M{m}") for e, m in itertools.product((1, 2, 3), range(1, 10))),
        *(("freedoom2.wad", f"MAP{number:02d}") for number in range(1, 27)),
    ],
    "val": _OTHERS[::2],
    "test": _OTHERS[1::2],
}
"""WAD and map of each part; no map is in two."""


@dataclasses.dataclass(frozen=True)
class Views:
    """Rendered frames as records. Views and depth are a function of (part, seed, index, height).

    Colours depend slightly on the maps that the game showed before (on up to 15 % of the pixels of
    some maps), so runs with several threads or workers are not equal bit for bit; shards are.

    Neighbours are of different maps, so that the first few of a split are of all its maps. Frames
    of a map come 16 at a time and are kept as PNG, 100 kB each at height 240, 30 kB at 120.
    """

    part: Part
    seed: int
    count: int
    height: int
    """480, or that divided by a whole number."""

    def __len__(self) -> int:
        """Return how many there are."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Render or remember one; IndexError outside, DataError if the game fails."""
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        levels = LEVELS[self.part]
        number, level = divmod(index, len(levels))
        frame = self._visit(level, number // FRAMES)[number % FRAMES]
        buffer = np.frombuffer(zlib.decompress(frame.buffer), np.uint8)
        width = WIDTH * self.height // HEIGHT
        return {
            "name": f"{levels[level][1]}/{number:05d}.png",
            "image": frame.image,
            "maps": {"buffer": buffer.reshape(self.height, width).copy()},
            "pairs": NO_PAIRS,
        }

    def _visit(self, level: int, number: int) -> list[Frame]:
        found = self._visits.get((level, number))
        if found is not None:
            return found
        with self._lock:
            if (level, number) not in self._visits:
                seed = np.random.SeedSequence((self.seed, level, number)).generate_state(1)[0]
                visit = Visit(*LEVELS[self.part][level], int(seed), FRAMES, HEIGHT // self.height)
                self._visits[level, number] = driver.DRIVER.ask(visit)
            found = self._visits[level, number]
            if len(self._visits) > KEPT:
                self._visits.pop(next(iter(self._visits)))
        return found

    def __reduce__(self):
        """Leave lock and frames behind."""
        return type(self), (self.part, self.seed, self.count, self.height)

    @functools.cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    @functools.cached_property
    def _visits(self) -> dict[tuple[int, int], list[Frame]]:
        return {}


def _prepared(root: str, part: Part) -> Views:
    """Return the frames of a part that are prepared as shards; there is no folder to read."""
    driver.require()
    return Views(part, 0, COUNTS[part], 240)


def depth_of(buffer: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return planar depth in map units, inf where the buffer is 255."""
    depth = np.float32(7.15) * buffer.astype(np.float32) + np.float32(14.5)
    depth[buffer == SKY] = np.inf
    return depth


@SOURCES.register("vizdoom")
@dataclasses.dataclass(frozen=True)
class VizDoom(DataSetSource):
    """Frames of one split with planar depth in map units, sky at infinity.

    Rendered when first asked for (about 50 a second and core), then kept in memory, by each worker
    process for itself; or read from shards. Raises DataError when made without ViZDoom.
    """

    data_set = DataSet(
        name="vizdoom",
        parts=("train", "val", "test"),
        counts=COUNTS,
        layout=OwnFormat(_prepared),
        maps={"buffer": Map(np.dtype(np.uint8), "buffer map", sky=SKY)},
    )

    split: Split
    size: tuple[int, int]
    """Not used: frames come at `height`."""
    seed: int = 0
    length: int = 4000
    """Training frames; validation and test have at most 500. Fewer are the first of more."""
    height: int = 240
    """Of the frames, 4/3 as wide: 480, 240, 160, 120 or 96; pixels are means of rendered ones."""
    near: float = 60.0
    """Map units; nearer pixels have no ground truth."""
    prepared: str = ""
    """Folder of shards; `seed`, `length` and `height` are then 0, 4000 and 240, as prepared."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("length", 1), ("near", 0)):
            if getattr(self, name) < least:
                got = getattr(self, name)
                raise ConfigError(f"data.source.{name} must be at least {least}, got {got}")
        if self.height not in (480, 240, 160, 120, 96):
            raise ConfigError(
                f"data.source.height must be 480, 240, 160, 120 or 96, got {self.height}"
            )
        super().__post_init__()

    def read_part(self, part: Part) -> Records:
        """Return the frames of a part, to be rendered."""
        driver.require()
        count = self.length if part == "train" else min(self.length, COUNTS[part])
        return Views(part, self.seed, count, self.height)

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret the depth buffer."""
        depth = depth_of(crop.map(maps["buffer"]))
        return {"depth": depth, "mask": depth >= self.near}
