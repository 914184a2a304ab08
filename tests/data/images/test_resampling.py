"""Kernels against torch, loops and examples computed by hand."""

import tracemalloc

import numpy as np
import pytest
import torch

from reldepth_jax.data.images.resampling import Kernel, resample

RNG = np.random.default_rng(0)
SIZES = [
    ((6, 8), (12, 16)),
    ((24, 32), (7, 31)),
    ((13, 9), (9, 30)),
    ((5, 9), (5, 4)),
    ((1, 2), (3, 5)),
    ((2, 1), (1, 1)),
]


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize(
    ("kernel", "mode", "align"),
    [
        ("linear", "bilinear", False),
        ("linear_aligned", "bilinear", True),
        ("cubic", "bicubic", False),
    ],
)
def test_linear_and_cubic_agree_with_torch(
    old: tuple[int, int], new: tuple[int, int], kernel: Kernel, mode: str, align: bool
):
    image = RNG.normal(size=(*old, 3))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], new, mode=mode, align_corners=align
    )[0].permute(1, 2, 0)
    ours = resample(image, new, kernel)
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(resample(image[..., 1], new, kernel), ours[..., 1], atol=1e-12)


def opencv_taps(old: int, new: int, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """Return places and weights as OpenCV's resize.cpp has them, in its float32."""
    one, a = np.float32(1), np.float32(-0.75)
    x = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    at = np.floor(x).astype(np.int64)
    x = x - at.astype(np.float32)
    if kernel == "linear":
        x = np.where((at < 0) | (at >= old - 1), np.float32(0), x)
        at = np.clip(at, 0, old - 1)
        return np.stack([at, np.minimum(at + 1, old - 1)]), np.stack([one - x, x])
    far, back = x + one, one - x
    first = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
    second, third = (((a + 2) * y - (a + 3)) * y * y + one for y in (x, back))
    weights = np.stack([first, second, third, one - first - second - third])
    return np.clip(at + np.arange(-1, 3)[:, None], 0, old - 1), weights


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("old", "new", "largest"),
    [((24, 32), (7, 31), 2e-6), ((384, 512), (480, 640), 3.1e-5), ((480, 640), (240, 320), 4e-7)],
)
def test_float32_of_opencv_is_as_far_away_as_is_said(old, new, largest, kernel: Kernel):
    """On noise, whose neighbours differ by the whole range; its arithmetic by its source."""
    noise = RNG.random(old).astype(np.float32)
    theirs = noise
    for axis in (1, 0):
        places, weights = opencv_taps(old[axis], new[axis], kernel)
        shape = (-1, 1) if axis == 0 else (1, -1)
        parts = (
            theirs.take(place, axis) * weight.reshape(shape)
            for place, weight in zip(places, weights, strict=True)
        )
        theirs = np.sum([*parts], axis=0, dtype=np.float32)
    assert theirs.dtype == np.float32
    apart = np.abs(resample(noise, new, kernel) - theirs).max()
    assert largest / 20 < apart <= largest


def line_of_averages(line: np.ndarray, new: int) -> list[float]:
    """Average over the stretch of each new pixel, from its definition."""
    step = len(line) / new
    out = []
    for k in range(new):
        shares = [
            max(0.0, min((k + 1) * step, pixel + 1) - max(k * step, pixel))
            for pixel in range(len(line))
        ]
        out.append(float(np.dot(shares, line)) / step)
    return out


@pytest.mark.parametrize(
    ("old", "new"), [((24, 32), (7, 31)), ((5, 9), (5, 3)), ((6, 8), (13, 24)), ((5, 3), (7, 3))]
)
def test_area_averages_what_a_pixel_covers(old: tuple[int, int], new: tuple[int, int]):
    image = RNG.normal(size=old)
    tall = np.stack([line_of_averages(column, new[0]) for column in image.T], axis=1)
    expected = np.stack([line_of_averages(row, new[1]) for row in tall])
    np.testing.assert_allclose(resample(image, new, "area"), expected, atol=1e-6)


def test_area_has_what_is_peculiar_to_opencv():
    """Values of cv2.resize: no average beside a side that grows, and a quotient of 10.999..."""
    ramp = np.arange(5.0)
    beside = resample(np.stack([ramp, ramp], axis=1), (3, 4), "area")
    np.testing.assert_allclose(beside[:, 0], [0.4, 1.8, 3.6], atol=1e-6)
    alone = resample(np.stack([ramp, ramp], axis=1), (3, 2), "area")
    np.testing.assert_allclose(alone[:, 0], [0.4, 2.0, 3.6], atol=1e-12)
    assert resample(np.arange(22.0)[:, None], (50, 1), "area")[25, 0] == 10


def test_bytes_are_taken_and_not_rounded():
    image = np.array([[0, 255]], np.uint8)
    np.testing.assert_allclose(resample(image, (1, 1), "area"), [[127.5]])
    # Weights of four pixels around their middle, -0.09375 and 0.59375: it overshoots.
    image = np.array([[0, 0, 255, 255, 255, 255]], np.uint8)
    np.testing.assert_allclose(resample(image, (1, 3), "cubic")[0, 1], 1.09375 * 255)
    assert resample(image, (1, 6), "cubic").dtype == np.float64


def test_a_nan_reaches_exactly_the_pixels_that_use_it():
    line = np.zeros((1, 9))
    line[0, 4] = np.nan
    # New pixel k lies at (k + 0.5) / 3 - 0.5 = (k - 1) / 3: within two pixels of 4 but on none.
    uses = {k for k in range(27) if abs((k - 1) - 12) < 6 and (k == 13 or (k - 1) % 3)}
    assert set(np.flatnonzero(np.isnan(resample(line, (1, 27), "cubic")[0]))) == uses
    uses = {k for k in range(27) if abs((k - 1) - 12) < 3}
    assert set(np.flatnonzero(np.isnan(resample(line, (1, 27), "linear")[0]))) == uses


@pytest.mark.parametrize("kernel", ["linear", "cubic", "area"])
def test_a_strip_takes_no_more_memory_than_it_is_long(kernel: Kernel):
    for shape, size in (((1, 60_000), (32, 384)), ((60_000, 1), (384, 32))):
        tracemalloc.start()
        resample(np.zeros(shape), size, kernel)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # 15 MB would be 32 times the strip.
        assert peak < 5e6
