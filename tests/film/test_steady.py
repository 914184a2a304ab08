"""Maps of a film: a level of their own, a memory along the motion, and nothing that trails."""

import numpy as np
import pytest
from scipy import ndimage

from reldepth_jax.film import steady
from reldepth_jax.film.steady import Steady

H, W = 48, 64


def textured(seed: int, height: int = H, width: int = W) -> np.ndarray:
    """A smooth random picture, float32 in 40..200."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(noise, 1.5)
    return (40 + 160 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(grey).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def normalised(values: np.ndarray) -> np.ndarray:
    middle = np.median(values)
    return (values - middle) / np.abs(values - middle).mean()


def test_scale_and_shift_of_each_frame_are_removed():
    picture, depth = rgb(textured(0)), textured(1)
    steadied = Steady()
    for scale, shift in ((1, 0), (0.01, 5), (300, -70), (2, 1000)):
        found = steadied(picture, (scale * depth + shift).astype(np.float32))
        np.testing.assert_allclose(found.values, normalised(depth), atol=2e-3)
        assert not found.cut
    # Cumulative Laplace distribution of mean absolute deviation 1.
    x = normalised(depth).astype(np.float64)
    expected = np.where(x < 0, np.exp(x) / 2, 1 - np.exp(-x) / 2)
    np.testing.assert_allclose(found.position, expected, atol=1e-3)


def test_a_constant_map_stays_finite():
    found = Steady()(rgb(textured(0)), np.full((H, W), 3, np.float32))
    assert (found.values == 0).all()
    assert (found.position == 0.5).all()


def test_metres_stay_metres():
    picture, depth = rgb(textured(0)), textured(1) / 10
    steadied = Steady(metric=True)
    for _ in range(3):
        np.testing.assert_allclose(steadied(picture, depth).values, depth, rtol=1e-6)


def test_noise_falls_as_that_of_an_exponential_mean():
    rng = np.random.default_rng(3)
    picture, depth = rgb(textured(0)), textured(1) / 20
    steadied = Steady(metric=True)
    found = None
    for _ in range(40):
        noisy = (depth + rng.normal(0, 0.1, depth.shape)).astype(np.float32)
        found = steadied(picture, noisy)
    assert found is not None
    # Weights 0.2 * 0.8^k: variance 0.2 / 1.8. What the rule for outliers leaves out adds some.
    assert 0.1 / 3 < (found.values - depth).std() < 1.3 * 0.1 / 3


def panned(step: tuple[float, float], count: int = 12) -> list[np.ndarray]:
    """Windows of one large picture; the content moves by `step` (rows, columns) a frame."""
    large = textured(5, 200, 260)
    return [
        ndimage.shift(large, (t * step[0], t * step[1]), order=3, mode="nearest")[70:118, 90:154]
        for t in range(count)
    ]


@pytest.mark.parametrize("step", [(0, 3), (-2, 0), (1.5, -2.5)])
def test_the_motion_of_the_camera_is_found(step: tuple[float, float]):
    first, second = panned(step, 2)
    found = steady.shift_between(first, second)
    np.testing.assert_allclose(found, step, atol=0.15)
    assert steady.shift_between(first, first) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("shift", [(0, 2), (-3, 1), (0.5, -1.25), (4.75, 0)])
def test_moving_agrees_with_scipy(shift: tuple[float, float]):
    values = textured(7)
    found, inside = steady.moved(values, shift)
    expected = ndimage.shift(values, shift, order=1, mode="nearest")
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-3)
    reached = ndimage.shift(np.ones((H, W)), shift, order=1, mode="constant", cval=0)
    np.testing.assert_array_equal(inside, reached > 1 - 1e-9)


def flicker(maps: list[np.ndarray], step: int) -> float:
    """Mean change along the motion to the right, over the deviation; written for these films."""
    changes = [
        np.abs(after[:, step:] - before[:, : W - step]).mean()
        for before, after in zip(maps, maps[1:], strict=False)
    ]
    return float(np.mean(changes[3:]) / np.std(maps[-1]))


def test_flicker_falls_on_a_pan_with_wobbling_exposure_and_nothing_lags_behind():
    rng = np.random.default_rng(4)
    depths = panned((0, 2))
    raw, smooth = [], []
    steadied = Steady()
    for t, depth in enumerate(depths):
        exposed = depth * (1 + 0.15 * np.sin(t)) + rng.normal(0, 2, depth.shape)
        score = (depth + rng.normal(0, 10, depth.shape)) * rng.uniform(0.5, 2) + rng.normal()
        raw.append(normalised(score))
        smooth.append(steadied(rgb(exposed), score.astype(np.float32)).values)
    assert flicker(smooth, 2) < 0.45 * flicker(raw, 2)
    # It is nearer to the truth at its own place than a pixel to either side.
    errors = {
        by: np.abs(np.roll(smooth[-1], by, 1) - normalised(depths[-1]))[:, 5:-5].mean()
        for by in (-1, 0, 1)
    }
    assert min(errors, key=lambda by: errors[by]) == 0
    assert errors[0] < 0.6 * np.abs(raw[-1] - normalised(depths[-1]))[:, 5:-5].mean()


def test_nothing_trails_behind_what_moves():
    """A bright block walks over a still picture: where it was, nothing is left of it at once."""
    background, depth = textured(0), textured(1) / 40
    steadied = Steady(metric=True)
    for t in range(10):
        picture, score = background.copy(), depth.copy()
        block = np.s_[10:40, 4 * t : 4 * t + 14]
        picture[block], score[block] = 255, 0.5
        found = steadied(rgb(picture), score)
        np.testing.assert_allclose(found.values, score, atol=1e-4)


def test_a_cut_forgets_and_is_counted():
    steadied = Steady()
    for seed in (0, 0, 8, 8):
        found = steadied(rgb(textured(seed)), textured(seed + 1))
        np.testing.assert_allclose(found.values, normalised(textured(seed + 1)), atol=1e-4)
    cuts = [Steady() for _ in range(2)]
    told = [
        [each(rgb(textured(seed)), textured(seed + 1)).cut for seed in seeds]
        for each, seeds in zip(cuts, [(0, 0, 8, 8), (0, 0, 0)], strict=True)
    ]
    assert told == [[False, False, True, False], [False] * 3]


def test_what_a_dissolve_mixes_is_no_cut_and_another_size_no_error():
    a, b = textured(0), textured(8)
    steadied = Steady()
    for t in np.linspace(0, 1, 25):
        assert not steadied(rgb((1 - t) * a + t * b), a).cut
    other = steadied(rgb(textured(0, 32, 64)), textured(1, 32, 64))
    assert other.values.shape == (32, 64)


def test_what_comes_into_view_is_not_mixed_with_anything():
    rng = np.random.default_rng(6)
    steadied, greys = Steady(metric=True), panned((0, 3), 4)
    scores = [rng.uniform(1, 2, (H, W)).astype(np.float32) for _ in greys]
    found = [steadied(rgb(g), score).values for g, score in zip(greys, scores, strict=True)]
    np.testing.assert_array_equal(found[-1][:, :2], scores[-1][:, :2])
    assert (found[-1][:, 4:] != scores[-1][:, 4:]).mean() > 0.5


def test_a_map_that_changes_much_under_the_same_picture_is_followed_at_once():
    rng = np.random.default_rng(7)
    picture, depth, steadied = rgb(textured(0)), textured(1) / 20, Steady(metric=True)
    scores = [(depth + rng.normal(0, 0.05, (H, W))).astype(np.float32) for _ in range(6)]
    changed = np.s_[10:20, 10:30]
    scores[-1][changed] += 3
    found = [steadied(picture, score).values for score in scores]
    np.testing.assert_array_equal(found[-1][changed], scores[-1][changed])


def test_where_the_picture_changes_the_map_is_its_own():
    rng = np.random.default_rng(8)
    pictures, steadied = [textured(0) for _ in range(6)], Steady(metric=True)
    scores = [rng.uniform(1, 2, (H, W)).astype(np.float32) for _ in pictures]
    pictures[-1][10:30, 20:40] = 255
    found = [steadied(rgb(p), score).values for p, score in zip(pictures, scores, strict=True)]
    inside, beside = np.s_[12:28, 22:38], np.s_[12:28, 44:60]
    assert np.abs(found[-1] - scores[-1])[inside].max() < 0.01
    assert np.abs(found[-1] - scores[-1])[beside].max() > 0.3
