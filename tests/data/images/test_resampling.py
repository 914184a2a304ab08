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
