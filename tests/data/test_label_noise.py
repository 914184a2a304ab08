"""Errors put on labels, and gamma: each against its definition; off means untouched."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from reldepth_jax.config import Config, ConfigError, DataConfig, LabelNoise, override, validate
from reldepth_jax.data.label_noise import noisy_depth
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.data.transforms import TrainTransform, apply_gamma
from reldepth_jax.types import Sample

SHAPE = (24, 40)
DEPTH = np.random.default_rng(0).uniform(2, 50, SHAPE).astype(np.float32)
DEPTH[:5, 10:] = np.inf
MASK = np.random.default_rng(1).random(SHAPE) < 0.9
FINITE = MASK & np.isfinite(DEPTH)
U = DEPTH[FINITE].min() / DEPTH[FINITE].astype(np.float64)
"""Inverse depth, 1 where it is largest."""


def noisy(seed: int, **noise: Any) -> np.ndarray:
    return noisy_depth(DEPTH, MASK, LabelNoise(**noise), np.random.default_rng(seed))


class Scripted(np.random.Generator):
    """Gives numbers of a list, in order, scaled to the range that is asked for."""

    def __init__(self, shares: Sequence[float]):
        super().__init__(np.random.PCG64(0))
        self.shares = list(shares)

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        taken = [low + (high - low) * self.shares.pop(0) for _ in range(size or 1)]
        return np.array(taken) if size else taken[0]


def by_loops(noise: LabelNoise, shares: Sequence[float]) -> np.ndarray:
    """All errors, pixel by pixel, from the numbers that `Scripted` gives."""
    rows, columns = SHAPE
    gain, offset = (1 + noise.gain) ** (2 * shares[0] - 1), noise.offset * shares[1]
    valid = [(r, c) for r in range(rows) for c in range(columns) if FINITE[r, c]]
    largest = max(1 / float(DEPTH[p]) for p in valid)
    x = {p: gain * (1 / float(DEPTH[p]) / largest + offset) for p in valid}
    top = max(x.values())
    for p in valid:
        level = max(1, round(x[p] / top * (noise.levels - 1)))
        x[p] = level * top / (noise.levels - 1)
    wrong = dict(x)
    for region in range(4):
        stretch, r0, c0, r1, c1, shape, constant, pixel = shares[2 + 8 * region :][:8]
        area = noise.wrong / 4 * (4 / math.pi if shape < 0.5 else 1)
        h = max(1, round(rows * min(1, math.sqrt(area * 2 ** (2 * stretch - 1)))))
        w = max(1, round(columns * min(1, math.sqrt(area / 2 ** (2 * stretch - 1)))))
        top_left = int(r0 * (rows - h + 1)), int(c0 * (columns - w + 1))
        source = int(r1 * (rows - h + 1)), int(c1 * (columns - w + 1))
        for r in range(h):
            for c in range(w):
                across, down = (c + 0.5 - w / 2) / (w / 2), (r + 0.5 - h / 2) / (h / 2)
                here = top_left[0] + r, top_left[1] + c
                there = source[0] + r, source[1] + c
                if (shape < 0.5 and across**2 + down**2 > 1) or here not in x:
                    continue
                if constant < 0.5:
                    wrong[here] = x[valid[int(pixel * len(valid))]]
                elif there in x:
                    wrong[here] = x[there]
    out = DEPTH.copy()
    for p in valid:
        out[p] = 1 / wrong[p]
    return out


@pytest.mark.parametrize("seed", range(5))
def test_all_errors_together_are_those_of_a_loop_over_pixels(seed: int):
    noise = LabelNoise(gain=0.7, offset=0.4, levels=24, wrong=0.5)
    shares = np.random.default_rng(seed).random(34).tolist()
    got = noisy_depth(DEPTH, MASK, noise, Scripted(shares))
    np.testing.assert_allclose(got, by_loops(noise, shares), rtol=1e-6)
    assert got.dtype == np.float32


def test_gain_is_one_factor_an_image_log_uniform_in_its_range():
    gains = []
    for seed in range(200):
        factors = 1 / noisy(seed, gain=1.0)[FINITE] / U
        np.testing.assert_allclose(factors, factors[0], rtol=1e-5)
        gains.append(math.log2(factors[0]))
    assert -1 <= min(gains) < -0.95
    assert 0.95 < max(gains) <= 1
    assert abs(np.mean(gains)) < 0.15
    assert np.std(gains) == pytest.approx(1 / math.sqrt(3), abs=0.06)


def test_offset_is_one_share_of_the_largest_added_to_all():
    offsets = []
    for seed in range(100):
        added = 1 / noisy(seed, offset=0.5)[FINITE] - U
        np.testing.assert_allclose(added, added[0], atol=1e-5)
        offsets.append(added[0])
    assert 0 <= min(offsets) < 0.05
    assert 0.45 < max(offsets) <= 0.5 + 1e-6


def test_levels_are_equally_spaced_and_positive():
    x = 1 / noisy(0, levels=11)[FINITE]
    np.testing.assert_allclose(x * 10, np.round(x * 10), atol=1e-5)
    assert set(np.round(x * 10)) <= set(range(1, 11))
    assert np.abs(x - np.maximum(U, 0.1)).max() <= 0.05 + 1e-6


def test_wrong_regions_change_about_their_share_of_the_area():
    shares = []
    for seed in range(200):
        x = 1 / noisy(seed, wrong=0.3)[FINITE]
        shares.append(np.mean(~np.isclose(x, U, rtol=1e-5)))
        nearest = np.abs(x[:, None] - U).min(axis=1)
        assert nearest.max() < 1e-6  # no value that the image has not
    # Overlaps, and pixels whose copy lies in the sky, leave less.
    assert 0.2 < np.mean(shares) < 0.3
    assert max(shares) < 0.4


def test_sky_mask_and_pixels_without_ground_truth_stay():
    depth = np.where(MASK, DEPTH, np.nan).astype(np.float32)
    for seed in range(20):
        noise = LabelNoise(gain=1.0, offset=1.0, levels=16, wrong=0.9)
        got = noisy_depth(depth, MASK, noise, np.random.default_rng(seed))
        np.testing.assert_array_equal(got[~FINITE], depth[~FINITE])
        assert np.isfinite(got[FINITE]).all()
        assert (got[FINITE] > 0).all()


@pytest.mark.parametrize("mask", [np.zeros(SHAPE, bool), np.isinf(DEPTH)])
def test_image_without_finite_depth_is_left_as_it_is(mask: np.ndarray):
    noise = LabelNoise(gain=1.0, offset=1.0, levels=16, wrong=0.5)
    got = noisy_depth(DEPTH, mask, noise, np.random.default_rng(0))
    np.testing.assert_array_equal(got, DEPTH)


def sample() -> Sample:
    image = (np.arange(40 * 60 * 3).reshape(40, 60, 3) * 7919 % 256).astype(np.uint8)
    depth = (1 + np.arange(40 * 60).reshape(40, 60) * 31 % 97).astype(np.float32)
    depth[:3] = np.inf
    pairs = np.array([[5, 6, 30, 50, 1], [1, 2, 3, 4, -1], [20, 20, 21, 40, 0]], np.int32)
    return {"image": image, "depth": depth, "mask": depth < 90, "pairs": pairs}


def example(seed: int, **options: Any) -> Sample:
    transform = TrainTransform((32, 32), pairs_per_image=2, **options)
    return transform(sample(), np.random.default_rng(seed))


def test_off_gives_the_bits_of_the_time_before_there_was_noise():
    digest = hashlib.sha256()
    for seed in range(6):
        values: dict[str, Any] = {**example(seed)}
        for name in ("image", "depth", "mask", "pairs"):
            digest.update(values[name].tobytes())
    assert digest.hexdigest()[:16] == "bfde0d963d4493d8"


def test_noise_changes_depth_and_gamma_the_image_and_nothing_else():
    for seed in range(5):
        before = example(seed)
        for options, changed in (
            ({"label_noise": LabelNoise(gain=0.5)}, {"depth"}),
            ({"gamma_jitter": 1.0}, {"image"}),
            ({"gamma_jitter": 1.0, "label_noise": LabelNoise(wrong=0.3)}, {"depth", "image"}),
        ):
            after = example(seed, **options)
            differ = {name for name in before if not np.array_equal(before[name], after[name])}
            assert differ == changed


@pytest.mark.parametrize("gamma", [0.5, 0.77, 1.0, 1.3, 2.2])
def test_gamma_is_rounded_to_the_nearest_level(gamma: float):
    levels = np.arange(256, dtype=np.uint8)
    image = np.stack([levels, levels[::-1], levels], axis=1)[None]
    exact = 255 * (image.astype(np.longdouble) / 255) ** np.longdouble(gamma)
    # No level of these lies halfway between two.
    assert abs(exact % 1 - 0.5).min() > 1e-6
    np.testing.assert_array_equal(apply_gamma(image, gamma), np.rint(exact).astype(np.uint8))


def test_gamma_raises_to_a_power_log_uniform_in_its_range():
    powers = []
    for seed in range(100):
        before, after = example(seed)["image"], example(seed, gamma_jitter=1.0)["image"]
        middle = (before > 100) & (before < 150)
        power = np.median(np.log(after[middle] / 255) / np.log(before[middle] / 255))
        expected = np.floor(255 * (before / 255.0) ** power + 0.5)
        assert np.abs(after - expected).max() <= 1
        powers.append(math.log2(power))
    assert -1.02 < min(powers) < -0.9
    assert 0.9 < max(powers) < 1.02
    assert abs(np.mean(powers)) < 0.2


@dataclasses.dataclass(frozen=True)
class Same:
    pairs_per_image: int = 0

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        values = sample()
        return {"image": values["image"], "depth": values["depth"], "mask": values["mask"]}


def test_batches_have_the_configured_noise_and_repeat_it():
    def batch(**options: Any) -> dict[str, np.ndarray]:
        config = Config(data=DataConfig(crop=(32, 32), batch_size=4, **options))
        return next(train_batches(config, [Same()], start=3))

    noise = LabelNoise(offset=0.5, levels=32)
    before, after = batch(), batch(label_noise=noise, gamma_jitter=0.5)
    assert not np.array_equal(before["image"], after["image"])
    np.testing.assert_array_equal(before["mask"], after["mask"])
    for depth, mask in zip(after["depth"], after["mask"], strict=True):
        assert len(np.unique(depth[mask])) <= 31
    again = batch(label_noise=noise, gamma_jitter=0.5)
    for name, values in after.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ({"data.label_noise.gain": "-1"}, "data.label_noise.gain must be at least 0"),
        ({"data.label_noise.offset": "-1"}, "data.label_noise.offset must be at least 0"),
        ({"data.label_noise.levels": "-1"}, "data.label_noise.levels must be at least 0"),
        ({"data.label_noise.levels": "1"}, "data.label_noise.levels must be 0 or at least 2"),
        ({"data.label_noise.wrong": "1"}, "data.label_noise.wrong must be below 1"),
        ({"data.gamma_jitter": "-0.1"}, "data.gamma_jitter must be at least 0"),
    ],
)
def test_impossible_noise_is_one_line_that_names_the_field(assignments, message: str):
    with pytest.raises(ConfigError, match=message):
        validate(override(Config(), assignments))
