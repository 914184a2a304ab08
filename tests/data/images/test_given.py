"""What a program hands over is read right or refused, whatever its type, mode and layout."""

import io as streams
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from reldepth_jax.data.images import io
from reldepth_jax.data.images.given import as_rgb
from reldepth_jax.errors import UserError

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (12, 17, 3), np.uint8)
GREY = RGB[..., 0]


def turned(path: pathlib.Path, orientation: int = 6) -> np.ndarray:
    """Write a PNG that EXIF turns; return it as it is displayed."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    return np.rot90(RGB, -1)


def test_paths_and_freshly_opened_images_are_turned_as_they_are_displayed(tmp_path):
    path = tmp_path / "a.png"
    displayed = turned(path)
    for given in (path, str(path)):
        np.testing.assert_array_equal(as_rgb(given), displayed)
    with Image.open(path) as image:
        np.testing.assert_array_equal(as_rgb(image), displayed)
        # The user's image is not turned under their hands.
        assert image.size == (17, 12)
        assert image.getexif()[0x0112] == 6
        np.testing.assert_array_equal(as_rgb(ImageOps.exif_transpose(image)), displayed)
        ImageOps.exif_transpose(image, in_place=True)
        np.testing.assert_array_equal(as_rgb(image), displayed)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.convert("RGB"),
        lambda image: image.rotate(-90, expand=True),
        lambda image: image.resize((5, 5)),
        lambda image: image.copy(),
    ],
)
def test_an_image_that_may_have_been_turned_already_is_refused(tmp_path, change):
    turned(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image, pytest.raises(UserError, match="exif_transpose"):
        as_rgb(change(image))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "HSV", "I;16"])
def test_images_of_any_mode_become_what_their_file_would(tmp_path, mode):
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))
    if mode == "I;16":
        image = Image.fromarray(smooth.astype(np.uint16) * 257)
    elif mode == "1":
        smooth = np.where(smooth > 127, 255, 0).astype(np.uint8)
        image = Image.fromarray(smooth > 127)
    else:
        image = Image.fromarray(smooth).convert("RGB" if mode in ("RGBX", "HSV") else "L")
        image = image.convert(mode) if mode != "RGBX" else Image.fromarray(
            np.dstack([smooth] * 4), "RGBX"
        )  # fmt: skip
    expected = np.repeat(smooth[..., None], 3, axis=2).astype(int)
    np.testing.assert_allclose(as_rgb(image).astype(int), expected, atol=2)
    assert image.mode == mode


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (4, 3)), "floating-point"),
        (Image.new("I", (4, 3), -1), "outside 0..65535"),
        (Image.new("I", (4, 3), 70000), "outside 0..65535"),
        (Image.new("RGB", (0, 3)), "4x0|0x3.*is empty"),
    ],
)
def test_images_that_are_no_photographs_are_refused(image, reason):
    with pytest.raises(UserError, match=reason) as caught:
        as_rgb(image)
    assert len(str(caught.value).splitlines()) == 1


def test_a_closed_or_damaged_image_is_refused(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    with pytest.raises(UserError, match="the image"):
        as_rgb(image)
    damaged = Image.open(streams.BytesIO((tmp_path / "a.png").read_bytes()[:-60]))
    with pytest.raises(UserError, match="the image"):
        as_rgb(damaged)


def test_arrays_are_taken_as_they_lie(tmp_path):
    np.testing.assert_array_equal(as_rgb(RGB), RGB)
    np.testing.assert_array_equal(as_rgb(RGB[::-1, ::-1, ::-1]), RGB[::-1, ::-1, ::-1])
    np.testing.assert_array_equal(as_rgb(np.asfortranarray(RGB)), RGB)
    np.testing.assert_array_equal(as_rgb(GREY), np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    "array",
    [
        RGB.transpose(2, 0, 1),
        RGB[None],
        RGB[..., :1],
        np.dstack([RGB, GREY]),
        RGB.astype(np.float32) / 255,
        RGB.astype(np.float64),
        RGB.astype(np.int64),
        RGB.astype(np.uint16),
        GREY > 9,
        RGB.astype(object),
        RGB[:0],
        RGB[:, :0],
        RGB.ravel(),
        np.uint8(3),
        RGB.tolist(),
        [[1, 2], [3]],
        b"\xff\xd8\xff",
        None,
        {"image": RGB},
        np.ma.masked_less(RGB, 9),
    ],
    ids=str,
)
def test_arrays_that_could_mean_two_things_are_refused(array: Any):
    with pytest.raises(UserError, match="the image") as caught:
        as_rgb(array)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_to_nothing_names_itself(tmp_path):
    with pytest.raises(io.UnreadableFile, match=r"none\.jpg: no such file"):
        as_rgb(tmp_path / "none.jpg")
