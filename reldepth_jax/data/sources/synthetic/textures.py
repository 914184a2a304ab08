"""Texture families, baked once per split into mip pyramids.

A texture is one number in 0..1 per texel, which mixes the two colours of a surface; it tiles. The
splits share no family, and no kind of stain on top, so that held-out numbers do not reward known
patterns. Fine grain, as of film, is on all.
"""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

from reldepth_jax.types import Split

SIZE = 256
"""Texels along a side at the finest level."""
LEVELS = 9
"""256, 128, … 1 texels a side."""
VARIANTS = 8
"""Textures of each family."""

Map = Float32[np.ndarray, "s s"]


class Atlas(NamedTuple):
    """All textures of a split, mip levels in sequence: `texels[texture * stride + …]`."""

    texels: UInt8[np.ndarray, "_texels"]
    textures: int
    stride: int
    """Texels of one texture, all levels."""
    level_start: Int[np.ndarray, "_levels"]
    """Offset of each level within a texture."""


def _grid(rng: np.random.Generator) -> tuple[Map, Map]:
    """Coordinates 0..1, gently warped so that nothing is as straight as a ruler."""
    line = np.arange(SIZE, dtype=np.float32) / SIZE
    u, v = np.meshgrid(line, line)
    amount = rng.uniform(0, 0.012)
    return u + amount * (_noise(rng, 4) - 0.5), v + amount * (_noise(rng, 4) - 0.5)


@functools.cache
def _smoothing(cells: int) -> Float32[np.ndarray, "s _cells"]:
    """Matrix that interpolates `cells` periodic values smoothly to `SIZE`."""
    at = np.arange(SIZE) * (cells / SIZE)
    low = at.astype(int)
    part = at - low
    part = part * part * (3 - 2 * part)
    matrix = np.zeros((SIZE, cells), np.float32)
    matrix[np.arange(SIZE), low] = 1 - part
    matrix[np.arange(SIZE), (low + 1) % cells] += part
    return matrix


def _noise(rng: np.random.Generator, cells: int) -> Map:
    """Smooth periodic noise, 0..1, with `cells` random values along a side."""
    smoothing = _smoothing(cells)
    return smoothing @ rng.random((cells, cells), np.float32) @ smoothing.T


def _fractal(rng: np.random.Generator, cells: int, fade: float) -> Map:
    """Sum of noises, each finer and weaker than the one before."""
    total, weight = np.zeros((SIZE, SIZE), np.float32), 1.0
    while cells <= SIZE // 2:
        total += weight * (_noise(rng, cells) - 0.5)
        cells, weight = cells * 2, weight * fade
    return _stretch(total)


def _stretch(values: Map) -> Map:
    low, high = values.min(), values.max()
    return (values - low) / (high - low)


def _grain(rng: np.random.Generator, values: Map, stains: Callable[..., Map]) -> Map:
    """Add stains and fine grain."""
    stained = values + rng.uniform(0.05, 0.35) * (stains(rng) - 0.5)
    grain = rng.uniform(0.02, 0.2) * (rng.random((SIZE, SIZE), np.float32) - 0.5)
    return np.clip(stained + grain, 0, 1)


def smudges(rng: np.random.Generator) -> Map:
    """Stains as clouds: fractal noise."""
    return _fractal(rng, int(rng.integers(2, 5)), 0.6)


def drops(rng: np.random.Generator) -> Map:
    """Stains as of drops: round soft spots of several sizes, light and dark."""
    line = np.arange(SIZE, dtype=np.float32) / SIZE
    count = int(rng.integers(15, 50))
    radius = rng.uniform(0.015, 0.09, count)
    across, down = (_bumps(line, rng.random(count), radius) for _ in range(2))
    return _stretch((_signs(rng, count) * down).T @ across)


def streaks(rng: np.random.Generator) -> Map:
    """Stains as of running water: bands, light and dark, that begin anywhere and fade downwards."""
    line = np.arange(SIZE, dtype=np.float32) / SIZE
    count = int(rng.integers(15, 40))
    across = _bumps(line, rng.random(count), rng.uniform(0.004, 0.03, count))
    since = (line - rng.random((count, 1))) % 1
    fading = np.exp(-since * rng.uniform(2, 8, (count, 1))).astype(np.float32)
    return _stretch((_signs(rng, count) * fading).T @ across)


def _signs(rng: np.random.Generator, count: int) -> Float32[np.ndarray, "n 1"]:
    return np.where(rng.random((count, 1)) < 0.5, -1, 1).astype(np.float32)


def _bumps(
    line: Float32[np.ndarray, "s"],
    centres: Float64[np.ndarray, "n"],
    radii: Float64[np.ndarray, "n"],
) -> Float32[np.ndarray, "n s"]:
    """Return a periodic bell of each radius around each centre."""
    away = (line - centres[:, None] + 0.5) % 1 - 0.5
    return np.exp(-0.5 * (away / radii[:, None]) ** 2).astype(np.float32)


def _lattice(u: Map, v: Map, across: int, down: int, shift: float) -> tuple[Map, Map, Map, Map]:
    """Cell numbers (column, row) and the place inside the cell (0..1) of shifted rows."""
    row = np.floor(v * down)
    along = u * across + row * shift
    column = np.floor(along)
    return column % across, row % down, along - column, v * down - row


def _per_cell(rng: np.random.Generator, column: Map, row: Map) -> Map:
    values = rng.random((64, 64), np.float32)
    return values[row.astype(int) % 64, column.astype(int) % 64]


def checker(rng: np.random.Generator) -> Map:
    """Two-coloured squares."""
    u, v = _grid(rng)
    cells = 2 * int(rng.integers(1, 6))
    return ((np.floor(u * cells) + np.floor(v * cells)) % 2).astype(np.float32)


def stripes(rng: np.random.Generator) -> Map:
    """Bands of unequal widths, upright or level."""
    u, v = _grid(rng)
    count = int(rng.integers(3, 14))
    along = (u if rng.random() < 0.5 else v) * count % count
    values, share = rng.random(count, np.float32), rng.uniform(0.3, 0.7)
    return np.where(along % 1 < share, values[along.astype(int)], values.mean()).astype(np.float32)


def bricks(rng: np.random.Generator) -> Map:
    """Courses of bricks in mortar."""
    u, v = _grid(rng)
    down = 2 * int(rng.integers(2, 7))
    column, row, x, y = _lattice(u, v, max(down // 2, 2), down, 0.5)
    joint = rng.uniform(0.05, 0.12)
    mortar = (x < joint / 2) | (y < joint)
    return np.where(mortar, 1.0, 0.55 * _per_cell(rng, column, row)).astype(np.float32)


def clouds(rng: np.random.Generator) -> Map:
    """Fractal noise."""
    return _fractal(rng, int(rng.integers(2, 8)), rng.uniform(0.5, 0.85))


def tiles(rng: np.random.Generator) -> Map:
    """Square tiles of slightly different shades with thin joints."""
    u, v = _grid(rng)
    cells = int(rng.integers(2, 9))
    column, row, x, y = _lattice(u, v, cells, cells, 0.0)
    joint = np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y)) < rng.uniform(0.02, 0.06)
    return np.where(joint, 0.0, 0.6 + 0.4 * _per_cell(rng, column, row)).astype(np.float32)


def speckle(rng: np.random.Generator) -> Map:
    """Grains of several sizes, as terrazzo or gravel."""
    fine = _noise(rng, int(2 ** rng.integers(5, 8))) + 0.5 * _noise(rng, 128)
    return np.clip((fine - 0.5) * rng.uniform(1.2, 3), 0, 1).astype(np.float32)


def dots(rng: np.random.Generator) -> Map:
    """Round spots in staggered rows."""
    u, v = _grid(rng)
    cells = 2 * int(rng.integers(2, 8))
    column, row, x, y = _lattice(u, v, cells, cells, 0.5)
    inside = np.hypot(x - 0.5, y - 0.5) < rng.uniform(0.2, 0.4)
    return np.where(inside, 0.4 + 0.6 * _per_cell(rng, column, row), 0).astype(np.float32)


def waves(rng: np.random.Generator) -> Map:
    """Undulating bands."""
    u, v = _grid(rng)
    count, swing = int(rng.integers(3, 14)), rng.uniform(0.02, 0.12)
    bend = swing * np.sin(2 * np.pi * (u * int(rng.integers(1, 5)) + rng.random()))
    return (0.5 + 0.5 * np.sin(2 * np.pi * count * (v + bend))).astype(np.float32)


def weave(rng: np.random.Generator) -> Map:
    """Threads that pass over and under each other."""
    u, v = _grid(rng)
    cells = 2 * int(rng.integers(4, 16))
    column, row, x, y = _lattice(u, v, cells, cells, 0.0)
    over = (column + row) % 2 == 0
    bulge = np.sin(np.pi * np.where(over, x, y))
    return (bulge * np.where(over, 1.0, rng.uniform(0.5, 0.9))).astype(np.float32)


def pebbles(rng: np.random.Generator) -> Map:
    """Soft blobs: noise cut at two heights."""
    base = _noise(rng, int(rng.integers(8, 40))) + 0.3 * _noise(rng, 64)
    return np.clip((base - 0.45) * rng.uniform(2, 5), 0, 1).astype(np.float32)


def planks(rng: np.random.Generator) -> Map:
    """Boards with grain along them."""
    u, v = _grid(rng)
    down = int(rng.integers(3, 9))
    column, row, x, y = _lattice(u, v, 2, down, 0.37)
    shade = _per_cell(rng, column, row)
    rings = np.sin(2 * np.pi * (rng.uniform(4, 9) * v * down + 3 * _noise(rng, 3) + 9 * shade))
    joint = (y < 0.05) | (x < 0.01)
    return np.where(joint, 0.0, 0.35 + 0.4 * shade + 0.15 * rings).astype(np.float32)


def cells(rng: np.random.Generator) -> Map:
    """Cracked cells around scattered points (Voronoi)."""
    u, v = _grid(rng)
    count = int(rng.integers(3, 10))
    first = np.full((SIZE, SIZE), 9.0, np.float32)
    second, shade = first.copy(), first.copy()
    place = rng.random((count, count, 3), np.float32)
    column, row, x, y = _lattice(u, v, count, count, 0.0)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            near = place[(row.astype(int) + i) % count, (column.astype(int) + j) % count]
            dx, dy = near[..., 0] + (j - x), near[..., 1] + (i - y)
            distance = dx * dx + dy * dy
            second = np.minimum(second, np.maximum(first, distance))
            shade = np.where(distance < first, near[..., 2], shade)
            first = np.minimum(first, distance)
    crack = np.sqrt(second) - np.sqrt(first) < rng.uniform(0.04, 0.12)
    return np.where(crack, 0.0, 0.35 + 0.65 * shade).astype(np.float32)


def plaster(rng: np.random.Generator) -> Map:
    """Ridged noise, as trowelled plaster or marble."""
    return _stretch(-np.abs(_fractal(rng, int(rng.integers(2, 6)), 0.65) - 0.5)) ** np.float32(2)


def diamonds(rng: np.random.Generator) -> Map:
    """A lozenge net of two shades."""
    u, v = _grid(rng)
    across, down = int(rng.integers(2, 8)), int(rng.integers(2, 8))
    one, other = (u * across + v * down) % 1, (u * across - v * down) % 1
    net = np.minimum(np.minimum(one, 1 - one), np.minimum(other, 1 - other)) < 0.07
    return np.where(net, 1.0, 0.5 * ((one < 0.5) ^ (other < 0.5))).astype(np.float32)


FAMILIES: dict[Split, tuple[Callable[[np.random.Generator], Map], ...]] = {
    "train": (checker, stripes, bricks, clouds, tiles, speckle),
    "val": (dots, waves, weave, pebbles),
    "test": (planks, cells, plaster, diamonds),
}


STAINS: dict[Split, Callable[[np.random.Generator], Map]] = {
    "train": smudges,
    "val": drops,
    "test": streaks,
}


@functools.lru_cache(maxsize=3)
def atlas(split: Split) -> Atlas:
    """Bake the textures of a split: a pure function, kept for the life of the process."""
    rng = np.random.default_rng(zlib.crc32(split.encode()))
    sizes = [(SIZE >> level) ** 2 for level in range(LEVELS)]
    stride = sum(sizes)
    baked: list[np.ndarray] = []
    for family in FAMILIES[split]:
        for _ in range(VARIANTS):
            level = _grain(rng, family(rng), STAINS[split])
            for _ in range(LEVELS):
                baked.append((level * 255 + 0.5).astype(np.uint8).ravel())
                level = (level[::2] + level[1::2]) / 2 if level.shape[0] > 1 else level
                level = (level[:, ::2] + level[:, 1::2]) / 2 if level.shape[1] > 1 else level
    start = np.cumsum([0, *sizes[:-1]])
    return Atlas(np.concatenate(baked), len(FAMILIES[split]) * VARIANTS, stride, start)


def lookup(
    textures: Atlas,
    texture: Int[np.ndarray, "n"],
    s: Float32[np.ndarray, "n"],
    t: Float32[np.ndarray, "n"],
    footprint: Float32[np.ndarray, "n"],
) -> Float32[np.ndarray, "n"]:
    """Return the texture values (0..1) at coordinates s and t, in texels of the finest level.

    Args:
      footprint: texels that one pixel covers; chooses the mip level, so that far textures do not
        alias.
    """
    # The exponent bits of a float32 are its logarithm, rounded down.
    bits = (footprint * np.float32(1.4142)).view(np.int32) >> 23
    level = np.clip(bits - 127, 0, LEVELS - 1)
    column = (s.astype(np.int32) & (SIZE - 1)) >> level
    row = (t.astype(np.int32) & (SIZE - 1)) >> level
    at = (row << (LEVELS - 1 - level)) + column + textures.level_start[level]
    at += texture * textures.stride
    return textures.texels.take(at).astype(np.float32) * np.float32(1 / 255)
