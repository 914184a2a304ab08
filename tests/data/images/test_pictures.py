import numpy as np
import pytest
from PIL import Image

from reldepth_jax.data.images import pictures


def luminance(picture: np.ndarray) -> np.ndarray:
    srgb = picture / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def ramp(width: int = 256) -> np.ndarray:
    return np.linspace(1, 9, width, dtype=np.float32)[None]


def test_colours_darken_steadily_from_near_to_far():
    brightness = luminance(pictures.colorize(ramp(100)))[0]
    assert (np.diff(brightness) < 0).all()
    assert brightness[0] > 0.8
    assert brightness[-1] < 0.02


def test_near_is_warm():
    red, _, blue = pictures.colorize(ramp()).astype(int)[0, 50]
    assert red > blue + 100


def test_colours_show_order_only():
    values = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    np.testing.assert_array_equal(
        pictures.colorize(values), pictures.colorize(np.exp(3 * values) + 7)
    )
    assert (pictures.colorize(values) != pictures.colorize(-values)).any()


def test_outliers_leave_the_rest_its_colours():
    values = ramp()
    values[0, -1] = 1e30
    np.testing.assert_array_equal(pictures.colorize(values), pictures.colorize(ramp()))


def test_sky_and_missing_pixels_have_their_own_colours():
    values = np.array([[np.inf, np.nan, -np.inf, np.inf, 2.0]], np.float32)
    mask = np.array([[True, True, True, False, False]])
    picture = pictures.colorize(values, mask)[0]
    assert tuple(picture[0]) == pictures.SKY
    assert all(tuple(pixel) == pictures.INVALID for pixel in picture[1:])
    assert tuple(pictures.colorize(values)[0, 4]) not in (pictures.SKY, pictures.INVALID)


@pytest.mark.parametrize("value", [0.0, 1e30, -3.0])
def test_constant_map_has_one_colour(value):
    picture = pictures.colorize(np.full((5, 4), value, np.float32))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_contact_sheet_shows_every_picture_enlarged_in_its_row_and_column():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(10, 20), (30, 15), (12, 50)]
    red, green, blue = (
        np.full((*size, 3), color, np.uint8) for size, color in zip(sizes, colors, strict=True)
    )
    sheet = pictures.contact_sheet([[red, green], [blue]])
    boxes = []
    # Until they are at least 192 wide.
    for color, size, factor in zip(colors, sizes, (10, 13, 4), strict=True):
        rows, columns = np.nonzero((sheet == color).all(axis=2))
        assert len(rows) == size[0] * size[1] * factor**2
        boxes.append((rows.min(), rows.max(), columns.min(), columns.max()))
    assert boxes[0][0] == boxes[1][0]
    assert boxes[2][0] > boxes[1][1]
    assert boxes[0][2] == boxes[2][2]
    assert boxes[1][2] > boxes[2][3]


def test_contact_sheet_makes_room_for_its_texts():
    tile = np.zeros((8, 8, 3), np.uint8)
    bare = pictures.contact_sheet([[tile]])
    long = "WHDR 10 %, a caption that is wider than the picture\nsame row 20 %"
    titled = pictures.contact_sheet([[tile]], ["ground truth"], [long])
    assert titled.shape[0] > bare.shape[0] + 40
    assert titled.shape[1] > bare.shape[1] + 40
    margin = np.concatenate([titled[:2].ravel(), titled[-2:].ravel(), titled[:, -2:].ravel()])
    assert (margin == 255).all()


def test_contact_sheet_refuses_texts_that_do_not_match():
    tile = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="2 column titles"):
        pictures.contact_sheet([[tile]], ["a", "b"])
    with pytest.raises(ValueError, match="2 captions"):
        pictures.contact_sheet([[tile]], captions=["a", "b"])
    with pytest.raises(ValueError, match="at least one picture"):
        pictures.contact_sheet([])


def test_saved_picture_reads_back(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "new" / "picture.png"
    pictures.save_picture(path, picture)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_enlarging_repeats_pixels_until_wide_enough():
    small = np.arange(2 * 65 * 3, dtype=np.uint16).reshape(2, 65, 3).astype(np.uint8)
    large = pictures.enlarge(small)
    assert large.shape == (6, 195, 3)
    for row in range(6):
        for column in range(195):
            assert (large[row, column] == small[row // 3, column // 3]).all()
    np.testing.assert_array_equal(pictures.enlarge(large), large)


def test_contact_sheet_colours_maps():
    values = ramp(200)
    values[0, :50] = np.nan
    np.testing.assert_array_equal(
        pictures.contact_sheet([[values]]), pictures.contact_sheet([[pictures.colorize(values)]])
    )


def test_thumbnails_keep_pixels_and_their_order():
    array = np.arange(30 * 41.0).reshape(30, 41)
    small = pictures.thumbnail(array, 14)
    np.testing.assert_array_equal(
        small, [[array[3 * r, 3 * c] for c in range(14)] for r in range(10)]
    )
    np.testing.assert_array_equal(pictures.thumbnail(array, 41), array)
