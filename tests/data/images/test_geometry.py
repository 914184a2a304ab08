import numpy as np
import pytest

from reldepth_jax.data.images import geometry


@pytest.mark.parametrize(
    ("size", "short", "expected"),
    [
        ((480, 640), 384, (384, 512)),
        ((640, 480), 384, (512, 384)),
        ((100, 100), 64, (64, 64)),
        ((48, 36), 96, (128, 96)),
        # 16:1 at four times the area of a square: 64*sqrt(4/16) = 32 by 512.
        ((100, 1600), 64, (32, 512)),
        # Too thin even so: the longer side is bounded by area / 32 = 4*64*64/32.
        ((1, 30_000), 64, (1, 512)),
        ((30_000, 1), 64, (512, 1)),
        ((1, 1), 64, (64, 64)),
    ],
)
def test_fitted_sizes(size, short, expected):
    assert geometry.fit_size(size[0], size[1], short) == expected


def test_strip_keeps_its_aspect_and_stays_affordable():
    height, width = geometry.fit_size(300, 5000, 384)
    assert height * width <= 4 * 384**2
    assert height * width > 0.97 * 4 * 384**2
    assert abs(width / height - 5000 / 300) < 0.1


@pytest.mark.parametrize("arguments", [(0, 5, 32), (5, 5, 0), (5, 5, 32, 0.5)])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        geometry.fit_size(*arguments)


def test_image_is_averaged_when_shrunk():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    shrunk = geometry.resize_image(stripes, (8, 8))
    assert shrunk.shape == (8, 8, 3)
    np.testing.assert_allclose(shrunk[:, 1:-1], 100, atol=2)


def test_enlarged_score_interpolates_between_pixel_centres():
    # Half-pixel centres: output j samples at (j + 0.5) / 2 - 0.5, clamped to [0, 1].
    enlarged = geometry.resize_score(np.array([[0.0, 1.0]], np.float32), (1, 4))
    np.testing.assert_allclose(enlarged, [[0, 0.25, 0.75, 1]], atol=1e-6)


def test_resized_plane_stays_registered():
    plane = np.tile(np.arange(20, dtype=np.float32) + 0.5, (10, 1))
    for size, step in (((40, 80), 0.25), ((5, 10), 2.0)):
        expected = (np.arange(size[1]) + 0.5) * step
        inner = geometry.resize_score(plane, size)[:, 4:-4]
        np.testing.assert_allclose(inner, np.tile(expected[4:-4], (size[0], 1)), atol=1e-4)


@pytest.mark.parametrize(("old", "new"), [((4, 6), (8, 12)), ((9, 7), (3, 5)), ((5, 5), (7, 3))])
def test_nearest_takes_the_closest_centre(old, new):
    array = np.arange(old[0] * old[1]).reshape(old)
    resized = geometry.resize_map_nearest(array, new)
    for i in range(new[0]):
        for j in range(new[1]):
            y, x = (i + 0.5) * old[0] / new[0], (j + 0.5) * old[1] / new[1]
            assert resized[i, j] == array[int(y), int(x)]


def test_nearest_keeps_infinity_and_dtype():
    depth = np.array([[1, np.inf], [np.nan, 2]], np.float32)
    resized = geometry.resize_map_nearest(depth, (4, 4))
    np.testing.assert_array_equal(resized, np.repeat(np.repeat(depth, 2, 0), 2, 1))
    assert geometry.resize_map_nearest(depth > 1, (1, 1)).dtype == bool


def test_padding_repeats_the_border_and_moves_nothing():
    image = np.random.default_rng(0).integers(0, 256, (33, 40, 3), np.uint8)
    padded = geometry.pad_to_multiple(image, 32)
    assert padded.shape == (64, 64, 3)
    np.testing.assert_array_equal(padded[:33, :40], image)
    np.testing.assert_array_equal(padded[33:, :40], np.tile(image[-1], (31, 1, 1)))
    np.testing.assert_array_equal(padded[:33, 40:], np.tile(image[:, -1:], (1, 24, 1)))
    assert geometry.pad_to_multiple(padded).shape == (64, 64, 3)
