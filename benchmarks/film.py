"""How much the maps of two films flicker, frame by frame and steadied: python -m benchmarks.film

Both films are made of photographs of scikit-image, so that the motion is known: a camera that pans
over the motorcycle by 4 pixels a frame, and a person who walks past it by 8 pixels a frame, each of
48 frames of 320x240 with wobbling exposure (12 % and noise of 4 %) and noise of 4 grey values.

Flicker: the mean change of a point along its motion from frame to frame, of what is displayed
(position on the scale of colours), over the standard deviation of that in the film, in percent.
Trailing: by how much of the last map a map still differs from its own frame's where the person came
or went; 0: nothing trails, 1: all does. Printed with the CPU time for a frame.
"""

import time
from typing import NamedTuple

import numpy as np
import skimage.data
from PIL import Image

import reldepth_jax
from reldepth_jax.film.steady import Steady
from reldepth_jax.inference.predictor import Prepared

HEIGHT, WIDTH, COUNT = 240, 320, 48
PAN, WALK = 4, 8
PERSON = (80, 200)
"""Width and height."""


class Film(NamedTuple):
    """Frames, and where the person is in each of them."""

    frames: list[np.ndarray]
    person: list[np.ndarray]


def _resized(photograph: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photograph).resize((width, height)), np.float32)


def panned(photograph: np.ndarray) -> Film:
    """A window that moves to the right over a photograph."""
    width = WIDTH + PAN * COUNT
    height = photograph.shape[0] * width // photograph.shape[1]
    wide, top = _resized(photograph, width, height), (height - HEIGHT) // 2
    nobody = np.zeros((HEIGHT, WIDTH), bool)
    frames = [wide[top : top + HEIGHT, PAN * t : PAN * t + WIDTH] for t in range(COUNT)]
    return Film(frames, [nobody] * COUNT)


def walked(photograph: np.ndarray, person: np.ndarray) -> Film:
    """An ellipse of another photograph that moves to the right over a still one."""
    background, (width, height) = _resized(photograph, WIDTH, HEIGHT), PERSON
    shown = _resized(person, width, height)
    rows, columns = np.mgrid[:height, :width] + 0.5
    inside = (2 * columns / width - 1) ** 2 + (2 * rows / height - 1) ** 2 < 1
    film = Film([], [])
    for t in range(COUNT):
        frame, there = background.copy(), np.zeros((HEIGHT, WIDTH), bool)
        left = WALK * t - width
        first, last = max(0, left), min(WIDTH, left + width)
        part = np.s_[:, first - left : last - left]
        there[-height:, first:last] = inside[part]
        frame[-height:, first:last][inside[part]] = shown[part][inside[part]]
        film.frames.append(frame)
        film.person.append(there)
    return film


def recorded(film: Film, seed: int) -> list[np.ndarray]:
    """With exposure and noise, as uint8."""
    rng = np.random.default_rng(seed)
    exposure = 1 + 0.12 * np.sin(np.arange(COUNT) / 3) + 0.04 * rng.normal(size=COUNT)
    noisy = [e * f + rng.normal(0, 4, f.shape) for e, f in zip(exposure, film.frames, strict=True)]
    return [frame.clip(0, 255).astype(np.uint8) for frame in noisy]


def flicker(shown: np.ndarray, film: Film, pan: int) -> float:
    """See the head of this module; in percent."""
    changes = []
    for t in range(1, COUNT):
        still = ~film.person[t] & ~film.person[t - 1]
        if pan:
            changes.append(np.abs(shown[t][:, :-pan] - shown[t - 1][:, pan:]).ravel())
            continue
        same = film.person[t - 1][:, :-WALK] & film.person[t][:, WALK:]
        person = np.abs(shown[t][:, WALK:] - shown[t - 1][:, :-WALK])[same]
        changes.append(np.concatenate([np.abs(shown[t] - shown[t - 1])[still], person]))
    return 100 * float(np.mean([each.mean() for each in changes]) / shown.std())


def trailing(steadied: np.ndarray, alone: np.ndarray, film: Film) -> float:
    """See the head of this module."""
    share = total = 0.0
    for t in range(1, COUNT):
        changed = film.person[t] != film.person[t - 1]
        before = (steadied[t - 1] - alone[t])[changed]
        share += float(((steadied[t] - alone[t])[changed] * before).sum())
        total += float((before**2).sum())
    return share / total if total else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """The share of a map that is nearer: how photographs are coloured."""
    return np.searchsorted(np.sort(values.ravel()), values) / values.size


def normalised(values: np.ndarray) -> np.ndarray:
    """Median 0, mean absolute deviation 1."""
    middle = np.median(values)
    return (values - middle) / np.abs(values - middle).mean()


def main() -> None:
    """Print a line for each film and seed."""
    predictor = reldepth_jax.load_model().predictor()
    back = predictor.preprocessing.at_image_size
    motorcycle, astronaut = skimage.data.stereo_motorcycle()[0], skimage.data.astronaut()
    films = {
        "pan": (panned(motorcycle), PAN),
        "passer-by": (walked(motorcycle, astronaut[:400, 100:330]), 0),
    }
    for name, (film, pan) in films.items():
        for seed in range(3):
            steady, spent = Steady(), {"network": 0.0, "steadying": 0.0}
            by_rank, positions, values, alone = [], [], [], []
            for frame in recorded(film, seed):
                started = time.process_time()
                prepared: Prepared = predictor.prepared(frame)
                (score,) = predictor.at_network_size([prepared])
                middle = time.process_time()
                found = steady(prepared.image, score)
                spent["network"] += middle - started
                spent["steadying"] += time.process_time() - middle
                size = (HEIGHT, WIDTH)
                by_rank.append(ranks(back(score, size)))
                positions.append(back(found.position, size))
                values.append(back(found.values, size))
                alone.append(back(normalised(score), size))
            before = flicker(np.stack(by_rank), film, pan)
            after = flicker(np.stack(positions), film, pan)
            left = trailing(np.stack(values), np.stack(alone), film)
            times = ", ".join(f"{key} {1000 * s / COUNT:.1f} ms" for key, s in spent.items())
            print(
                f"{name}, seed {seed}: {before:.1f} -> {after:.1f} %, trailing {left:.3f}; {times}"
            )


if __name__ == "__main__":
    main()
