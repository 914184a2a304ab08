"""Blur, noise and JPEG of training images: each against its definition; off means untouched."""

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import Config, ConfigError, DataConfig, Degradation, override, validate
from reldepth_jax.data.degradation import degraded
from reldepth_jax.data.pipeline import train_batches, train_sources

GRAY = np.full((96, 128, 3), 128, np.uint8)


class Scripted(np.random.Generator):
    """Gives fixed shares first."""

    def __init__(self, *shares: float):
        super().__init__(np.random.PCG64(0))
        self.shares = shares

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        assert (low, high, size) == (0, 1, len(self.shares))
        return np.array(self.shares)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_blur_spreads_a_point_by_its_deviation(share: float):
    image = np.zeros((65, 65, 3), np.uint8)
    # A line rather than a point: what is spread further must still be some of 255 steps.
    image[:, 32] = 255
    found = degraded(image, Degradation(blur=4.0), Scripted(share, 0, 0))[32, :, 0].astype(float)
    mass, offsets = found.sum(), np.arange(65) - 32.0
    assert mass == pytest.approx(255, rel=0.05)
    assert math.sqrt((found * offsets**2).sum() / mass) == pytest.approx(4 * share, rel=0.05)
    np.testing.assert_array_equal(found, found[::-1])


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_noise_has_its_deviation_and_is_independent(share: float):
    found = degraded(GRAY, Degradation(noise=0.1), Scripted(0, share, 0)).astype(float) - 128
    assert found.std() == pytest.approx(25.5 * share, rel=0.02)
    assert abs(found.mean()) < 0.5
    for one, other in (
        (found[:, 1:], found[:, :-1]),
        (found[1:], found[:-1]),
        (found[..., 0], found[..., 1]),
    ):
        assert abs((one * other).mean()) < 0.02 * found.var()


def test_noise_is_cut_at_the_ends_of_the_range():
    found = degraded(GRAY // 128 * 250, Degradation(noise=1.0), Scripted(0, 1, 0))
    assert {int(found.min()), int(found.max())} == {0, 255}


@pytest.mark.parametrize(("share", "quality"), [(0.0, 30), (0.5, 65), (1.0, 100)])
def test_jpeg_is_what_a_file_of_that_quality_holds(share: float, quality: int):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=2)
    want = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    found = degraded(image, Degradation(jpeg=30), Scripted(0, 0, share))
    np.testing.assert_array_equal(found, want)


def test_one_option_leaves_the_draws_of_others():
    rng = [np.random.default_rng(3) for _ in range(2)]
    one, other = [
        degraded(GRAY, Degradation(noise=0.1, blur=blur), each)
        for blur, each in zip((0.0, 2.0), rng, strict=True)
    ]
    np.testing.assert_array_equal(one, other)  # A blurred gray is as gray.


def batch(degradation: Degradation) -> Any:
    data = DataConfig(crop=(32, 64), batch_size=2, degradation=degradation)
    config = dataclasses.replace(Config(), data=data)
    return next(train_batches(config, train_sources(config), start=0))


def test_batches_are_degraded_but_for_their_labels_and_repeat():
    clean, one, two = (
        batch(each) for each in (Degradation(), *[Degradation(noise=0.2, jpeg=20)] * 2)
    )
    assert (clean["image"] != one["image"]).mean() > 0.5
    np.testing.assert_array_equal(one["image"], two["image"])
    assert (one["image"][0] != one["image"][1]).any()
    for key in ("depth", "mask"):
        np.testing.assert_array_equal(clean[key], one[key])


@pytest.mark.parametrize("setting", ["blur=-1", "noise=2", "jpeg=101"])
def test_ranges(setting: str):
    with pytest.raises(ConfigError, match=r"data\.degradation\."):
        validate(override(Config(), dict([f"data.degradation.{setting}".split("=")])))
