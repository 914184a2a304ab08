"""Maps of a film that neither flicker nor trail: a level for each frame, a memory along the motion.

A network that knows no scale gives each frame a scale and shift of its own, and sees noise and
exposure as depth. So each map is first brought to median 0 and mean absolute deviation 1. Then a
part of the last result is mixed in, moved as the camera moved (one shift for the whole picture, by
phase correlation; Kuglin and Hines, 1975), but only where the picture still shows the same, apart
from exposure, and where the map is not far from the last one. Where something moves by itself, came
into view or was covered, nothing is mixed in: nothing can trail behind it.

At a cut the memory is forgotten. All in NumPy, at the size of the network's maps. Maps grow with
distance.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

MEMORY = 0.8
"""Share of the last result where it is trusted most: five frames count."""
LEVEL_RATE = 0.1
"""How fast the colours of a metric network follow the level of its maps, a frame."""
CUT = 0.35
"""Change of the picture from which a frame is of another scene: the median difference, when shift
and exposure are removed, over its mean deviation. Consecutive frames have 0.05 at most, 20 pairs
of different photographs 0.57 at least (docs/film.md)."""
_AS_NOISE = 3.0
"""Differences of the picture, over their median, at which trust has fallen to 1/e."""
_LEAST = 1.0
"""Added to that, in grey values of 0 to 255: rounding."""
_AS_FLICKER = 7.0
"""Changes of the map, over their median, at which trust has fallen to 1/e: more is no flicker."""
_TINY = 1e-6
"""In place of a median of 0."""
_DARK = 8.0
"""Added to grey values before exposures are compared: black has no ratio."""
_OVERLAP = 0.25
"""Least share of the picture that a shift must leave in view."""


class Steadied(NamedTuple):
    """The map of a frame."""

    values: Float32[np.ndarray, "h w"]
    """Growing with distance: metres, or median 0 and mean absolute deviation 1."""
    position: Float32[np.ndarray, "h w"]
    """On the scale of colours: 0 is near, 1 is far."""
    cut: bool
    """Whether this is the first frame of another scene."""


class Memory(NamedTuple):
    """What is kept of the frames before."""

    values: Float32[np.ndarray, "h w"]
    grey: Float32[np.ndarray, "h w"]
    level: Float[np.ndarray, "2"]
    """Median and mean deviation, for the colours of metres."""


@dataclasses.dataclass
class Steady:
    """Steadies the maps of a film, frame after frame."""

    metric: bool = False
    """Whether maps are metres: then their values keep their scale."""
    memory: Memory | None = None
    """Of the last frame; None: there was none."""

    def __call__(
        self,
        picture: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"],
        score: Float32[np.ndarray, "h w"],
    ) -> Steadied:
        """Return the map of the next frame; `picture` is what the network saw of it."""
        scale = 1 if picture.dtype == np.uint8 else 255
        grey = scale * picture.astype(np.float32).mean(axis=2)
        level = _level(score)
        values = score if self.metric else (score - level[0]) / level[1]
        cut = False
        if self.memory is not None and self.memory.values.shape == values.shape:
            seen = _seen_again(self.memory, grey)
            cut = seen.change > CUT
            if not cut:
                values, grey = _mixed(seen, values, grey)
                level = self.memory.level + LEVEL_RATE * (level - self.memory.level)
        self.memory = Memory(values, grey, level)
        middle, spread = level if self.metric else (0.0, 1.0)
        return Steadied(values, _position((values - middle) / spread), cut)


class _Seen(NamedTuple):
    """The memory, moved and exposed as the new frame."""

    values: Float32[np.ndarray, "h w"]
    grey: Float32[np.ndarray, "h w"]
    inside: Bool[np.ndarray, "h w"]
    difference: Float32[np.ndarray, "h w"]
    """Of the pictures, averaged over 3x3 pixels."""
    typical: float
    """Its median."""
    change: float
    """That over the mean deviation of the new picture."""


def _seen_again(memory: Memory, grey: Float32[np.ndarray, "h w"]) -> _Seen:
    """Return the memory as the camera has moved, or as it stood still, whichever fits better."""
    best: _Seen | None = None
    contrast = float(_level(grey)[1])
    for shift in ((0.0, 0.0), shift_between(memory.grey, grey)):
        before, inside = moved(memory.grey, shift)
        if inside.mean() < _OVERLAP:
            continue
        exposure = np.median((grey[inside] + _DARK) / (before[inside] + _DARK))
        before = exposure * (before + _DARK) - _DARK
        difference = np.abs(_averaged(np.where(inside, grey - before, 0)))
        typical = float(np.median(difference[inside]))
        if best is None or typical < best.typical:
            values, _ = moved(memory.values, shift)
            best = _Seen(values, before, inside, difference, typical, typical / contrast)
    assert best is not None  # standing still leaves all in view
    return best


def _mixed(
    seen: _Seen, values: Float32[np.ndarray, "h w"], grey: Float32[np.ndarray, "h w"]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    trust = MEMORY * np.exp(-((seen.difference / (_AS_NOISE * seen.typical + _LEAST)) ** 2))
    trust[~seen.inside] = 0
    change = np.abs(seen.values - values)
    # Soft, since neighbours of which one is trusted and one is not would look like salt.
    trust *= np.exp(-((change / (_AS_FLICKER * np.median(change[seen.inside]) + _TINY)) ** 4))
    # The picture is mixed as the map is: what has slowly moved away is noticed.
    return values + trust * (seen.values - values), grey + trust * (seen.grey - grey)


def _level(values: Float32[np.ndarray, "h w"]) -> Float[np.ndarray, "2"]:
    """Return median and mean absolute deviation from it; 1 in place of a deviation of 0."""
    middle = np.median(values)
    return np.array([middle, np.abs(values - middle).mean() or 1.0], np.float32)


def _position(unit: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return the share of a Laplace distribution of median 0 and mean deviation 1 that is nearer.

    So colours are about equally frequent, as ranks would make them, but fixed: a rank changes
    with all else in the picture.
    """
    half = 0.5 * np.exp(-np.abs(unit))
    return np.where(unit < 0, half, 1 - half).astype(np.float32)


def shift_between(
    first: Float32[np.ndarray, "h w"], second: Float32[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Return the (rows, columns) that the content of `first` has moved by in `second`.

    By phase correlation; parts of a pixel by a parabola through the peak.
    """
    height, width = first.shape
    window = np.hanning(height)[:, None] * np.hanning(width)
    spectra = [np.fft.rfft2((each - each.mean()) * window) for each in (second, first)]
    cross = spectra[0] * np.conj(spectra[1])
    size = np.abs(cross)
    peaks = np.fft.irfft2(cross / (size + 1e-3 * size.mean() + 1e-12), first.shape)
    row, column = (int(each) for each in np.unravel_index(np.argmax(peaks), peaks.shape))
    return _refined(peaks[:, column], row), _refined(peaks[row], column)


def _refined(line: Float[np.ndarray, "n"], peak: int) -> float:
    count = len(line)
    before, at, after = line[peak - 1], line[peak], line[(peak + 1) % count]
    bend = before - 2 * at + after
    part = 0.5 * (before - after) / bend if bend else 0.0
    return (peak if peak < count / 2 else peak - count) + float(part)


def moved(
    values: Float32[np.ndarray, "h w"], shift: tuple[float, float]
) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Return an image moved down and to the right (linearly interpolated), and what it covers.

    Elsewhere its edge is repeated.
    """
    inside = np.ones(values.shape, bool)
    for axis, by in enumerate(shift):
        if not by:
            continue
        last = values.shape[axis] - 1
        source = np.arange(last + 1) - by
        lower = np.floor(source).astype(int)
        part = (source - lower).astype(np.float32)
        ends = [np.take(values, np.clip(lower + k, 0, last), axis) for k in (0, 1)]
        shape = (-1, 1) if axis == 0 else (1, -1)
        values = ends[0] + part.reshape(shape) * (ends[1] - ends[0])
        inside &= ((source >= 0) & (source <= last)).reshape(shape)
    return values, inside


def _averaged(values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return means over 3x3 pixels, the edge repeated."""
    for axis in (0, 1):
        padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        count = values.shape[axis]
        parts = [np.take(padded, np.arange(k, k + count), axis) for k in range(3)]
        values = (parts[0] + parts[1] + parts[2]) / np.float32(3)
    return values
