"""The picture that is read is the picture that the user sees, or it is refused in words."""

import io as streams
import pathlib
import struct
import sys
import types
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from reldepth_jax.data.images import decoding, io
from reldepth_jax.data.images.photograph import Photograph

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (12, 17, 3), np.uint8)
GREY = RNG.integers(0, 256, (12, 17), np.uint8)
BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4


def encoded(array: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = streams.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def page(pixels: np.ndarray, **tags: int) -> dict[int, tuple[int, int]]:
    """Return the tags of a page that holds `pixels`, as TIFF 6.0 has them: (type, value)."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    known = {
        "type": 254, "old_type": 255, "photometric": 262, "orientation": 274, "raw": 50706
    }  # fmt: skip
    found = {
        256: (LONG, pixels.shape[1]),
        257: (LONG, pixels.shape[0]),
        258: (SHORT, 8 * pixels.dtype.itemsize),
        259: (SHORT, 1),
        262: (SHORT, 2 if channels == 3 else 1),
        277: (SHORT, channels),
        278: (LONG, pixels.shape[0]),
        279: (LONG, pixels.nbytes),
    }
    return found | {known[name]: (LONG, value) for name, value in tags.items()}


def tiff(*pages: tuple[np.ndarray, dict[int, tuple[int, int]]]) -> bytes:
    """Write pages one after the other, each with all its pixels in one strip."""
    data = bytearray(b"II*\0")
    link = len(data)
    data += bytes(4)
    for pixels, tags in pages:
        strip = len(data)
        data += pixels.tobytes() + bytes(pixels.nbytes % 2)
        depths = len(data)
        data += struct.pack("<3H", *[tags[258][1]] * 3) + bytes(2)
        data[link : link + 4] = struct.pack("<I", len(data))
        entries = {**tags, 273: (LONG, strip)}
        data += struct.pack("<H", len(entries))
        for tag, (kind, value) in sorted(entries.items()):
            three = tag == 258 and tags[277][1] == 3
            data += struct.pack("<HHII", tag, kind, 3 if three else 1, depths if three else value)
        link = len(data)
        data += bytes(4)
    return bytes(data)


Chunk = tuple[bytes, bytes]


def png(values: np.ndarray, before: Sequence[Chunk] = (), after: Sequence[Chunk] = ()) -> bytes:
    """Write a PNG from the specification, with chunks `before` and `after` the pixels."""
    height, width = values.shape[:2]
    color = 2 if values.ndim == 3 else 0
    kind = f">u{values.dtype.itemsize}"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, color, 0, 0, 0)
    pixels = (b"IDAT", zlib.compress(rows))
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *before, pixels, *after, (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def read(tmp_path: pathlib.Path, data: bytes) -> np.ndarray:
    """Read a photograph in each of the ways there are; all must agree."""
    path = tmp_path / "photo"
    path.write_bytes(data)
    image = io.read_image(path)
    opened = Photograph(data, "photo", displayed=True)
    assert opened.size == image.shape[:2]
    np.testing.assert_array_equal(np.asarray(opened.decode(opened.size).image), image)
    assert io.decode_image(data, "photo").size == image.size
    return image


def refused(tmp_path: pathlib.Path, data: bytes) -> str:
    """Return the reason for which each of the ways refuses a photograph."""
    path = tmp_path / "photo"
    path.write_bytes(data)
    ways = (
        lambda: io.read_image(path),
        lambda: Photograph(data, str(path), displayed=True).decode((1, 1)),
        lambda: io.decode_image(data, str(path)),
    )
    reasons = set()
    for way in ways:
        with pytest.raises(io.UnreadableFile) as caught:
            way()
        reasons.add(caught.value.reason)
    (reason,) = reasons
    return reason


@pytest.mark.parametrize("mark", [{"type": 1}, {"old_type": 2}, {"type": 5}, {"type": 4}])
def test_pages_that_are_thumbnails_or_masks_are_passed_over(tmp_path, mark):
    small = np.full((3, 4, 3), 9, np.uint8)
    data = tiff((small, page(small, **mark)), (small, page(small, **mark)), (RGB, page(RGB)))
    np.testing.assert_array_equal(read(tmp_path, data), RGB)
    # Without a mark the first page is the photograph, as viewers have it.
    np.testing.assert_array_equal(read(tmp_path, tiff((RGB, page(RGB)), (small, page(small)))), RGB)


def test_a_thumbnail_alone_is_no_photograph(tmp_path):
    small = np.full((3, 4, 3), 9, np.uint8)
    sensor = GREY.astype(np.uint16)
    for data in (
        tiff((small, page(small, type=1))),
        # 32803: values behind a mosaic of colour filters.
        tiff((small, page(small, type=1)), (sensor, page(sensor, photometric=32803, raw=1))),
    ):
        reason = refused(tmp_path, data)
        assert reason.startswith("has a thumbnail of 4x3 pixels and no photograph")
        assert "JPEG or TIFF" in reason


def test_maps_behind_thumbnails_are_found_too(tmp_path):
    small, depth = np.zeros((3, 4), np.uint16), GREY.astype(np.uint16) * 200
    (tmp_path / "map.tif").write_bytes(tiff((small, page(small, type=1)), (depth, page(depth))))
    np.testing.assert_array_equal(io.read_values(tmp_path / "map.tif"), depth)


@pytest.mark.parametrize(
    "head", [b"II*\0\x10\0\0\0CR\2\0", b"FUJIFILMCCD-RAW ", b"IIRO\x08\0", b"\0\0\0\x18ftypcrx "]
)
def test_raw_files_of_cameras_are_named_as_such(tmp_path, head):
    assert "raw file of a camera; develop" in refused(tmp_path, head + bytes(60))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_the_negative_at_any_depth(tmp_path, dtype):
    top = np.iinfo(dtype).max
    stored = (GREY.astype(dtype) * (top // 255))[..., None][..., 0]
    image = read(tmp_path, tiff((stored, page(stored, photometric=0))))
    np.testing.assert_array_equal(image, np.repeat(255 - GREY[..., None], 3, axis=2))
    # Of maps, each tells what it stores; which of two meanings a map has is not guessed.
    (tmp_path / "map.tif").write_bytes(tiff((stored, page(stored, photometric=0))))
    with pytest.raises(io.UnreadableFile, match="inverted grey"):
        io.read_values(tmp_path / "map.tif")


@pytest.mark.parametrize(
    ("top", "unit"), [(65535, 65535), (4096, 65535), (4095, 4095), (255, 255), (9, 255)]
)
def test_16_bit_grey_is_rounded_to_the_nearest_of_256_levels(tmp_path, top, unit):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    values = np.minimum(values, top).astype(np.uint16)
    # No value of an odd range lies halfway between two levels.
    expected = np.rint(values / unit * 255).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        image = read(tmp_path, encoded(values, kind))
        np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_colours_of_12_bits_are_refused_not_black(tmp_path):
    full = RGB.astype(np.uint16) * 257
    np.testing.assert_array_equal(read(tmp_path, png(full)), RGB)
    for shift in (4, 8):
        assert "no more than a sixteenth" in refused(tmp_path, png(full >> shift))
    full_tiff = tiff((full, page(full)))
    np.testing.assert_array_equal(read(tmp_path, full_tiff), RGB)
    assert "a sixteenth" in refused(tmp_path, tiff((full >> 4, page(full))))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_0_everywhere_says_nothing(tmp_path, mode):
    channels = [*([GREY] if mode == "LA" else np.moveaxis(RGB, 2, 0)), np.zeros_like(GREY)]
    stored = np.dstack(channels)
    expected = np.repeat(GREY[..., None], 3, axis=2) if mode == "LA" else RGB
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read(tmp_path, encoded(stored, kind)), expected)
    stored[0, 0, -1] = 255
    image = read(tmp_path, encoded(stored, "PNG"))
    np.testing.assert_array_equal(image[0, 0], expected[0, 0])
    assert (image.reshape(-1, 3)[1:] == 255).all()


def test_a_palette_of_transparent_colours_alone_is_shown(tmp_path):
    image = Image.fromarray(RGB).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = encoded(image, "PNG", transparency=bytes(16))
    np.testing.assert_array_equal(read(tmp_path, data), expected)


def orientation(value: int | bytes) -> bytes:
    """Return EXIF with nothing but an orientation, as a number or as a text of up to 3 bytes."""
    kind, count = (SHORT, 1) if isinstance(value, int) else (ASCII, len(value) + 1)
    told = struct.pack("<I", value) if isinstance(value, int) else value.ljust(4, b"\0")
    entry = struct.pack("<HHI", 274, kind, count) + told
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", [b"6", b"up", 0, 9, 40000])
def test_orientations_that_mean_nothing_are_ignored_everywhere(tmp_path, kind, value):
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = read(tmp_path, encoded(RGB, kind, **options))
    if kind == "TIFF":
        number = value if isinstance(value, int) else int.from_bytes(value, "little")
        tag = (SHORT if isinstance(value, int) else ASCII, number)
        data = tiff((RGB, page(RGB) | {274: tag}))
    else:
        data = encoded(RGB, kind, exif=orientation(value), **options)
        assert io.read_header(data, "").orientation == 1
        turned = encoded(RGB, kind, exif=orientation(8), **options)
        np.testing.assert_array_equal(read(tmp_path, turned), np.rot90(plain))
    np.testing.assert_array_equal(read(tmp_path, data), plain)


def test_damaged_exif_is_ignored(tmp_path):
    data = encoded(RGB, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read(tmp_path, data), read(tmp_path, encoded(RGB, "JPEG")))


@pytest.mark.skipif(not decoding.READS_AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read_turned_as_it_is_displayed(tmp_path):
    flat = np.zeros((16, 32, 3), np.uint8)
    flat[:, :16] = 200, 30, 60
    np.testing.assert_allclose(read(tmp_path, encoded(flat, "AVIF")).astype(int), flat, atol=35)
    turned = read(tmp_path, encoded(flat, "AVIF", exif=orientation(6)))
    # Orientation 6: the first row of what is stored is the right-hand column of what is displayed.
    np.testing.assert_allclose(turned.astype(int), np.rot90(flat, -1), atol=35)
    assert ".avif" in io.IMAGE_SUFFIXES


def container(*brands: bytes) -> bytes:
    size = 16 + 4 * (len(brands) - 1)
    return struct.pack(">I", size) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


def test_what_could_be_read_after_an_installation_says_which(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "READS_AVIF", False)
    monkeypatch.setattr(decoding, "READS_HEIC", False)
    assert "pip install 'pillow>=11.3'" in refused(tmp_path, container(b"mif1", b"miaf", b"avif"))
    for brands in ([b"heic", b"mif1"], [b"mif1", b"heic"], [b"hevc"]):
        assert "pip install 'reldepth-jax[heic]'" in refused(tmp_path, container(*brands))
    assert "is not an image" in refused(tmp_path, container(b"isom", b"mp41"))


def test_heic_is_read_by_its_package_and_not_turned_twice(tmp_path, monkeypatch):
    # Stands in for pillow-heif, whose reader is a class of Pillow's kind that sets orientation 1.
    class HeifImageFile(PngImagePlugin.PngImageFile):
        def __init__(self, file: streams.BytesIO):
            super().__init__(streams.BytesIO(encoded(RGB, "PNG")))

    package = types.ModuleType("pillow_heif")
    package.__dict__["HeifImageFile"] = HeifImageFile
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    monkeypatch.setattr(decoding, "READS_HEIC", True)
    np.testing.assert_array_equal(read(tmp_path, container(b"heic", b"mif1")), RGB)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_claims_more_than_it_can_hold_is_refused(tmp_path, progressive):
    data = bytearray(encoded(np.tile(RGB, (4, 4, 1)), "JPEG", progressive=progressive))
    at = data.find(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 9900, 9000)
    assert f"claims 9000x9900 pixels, more than its {len(data)} bytes" in refused(
        tmp_path, bytes(data)
    )


def test_a_gif_or_png_that_claims_more_than_it_can_hold_is_refused(tmp_path):
    gif = bytearray(encoded(GREY, "GIF"))
    gif[6:10] = struct.pack("<HH", 9000, 9900)
    assert "claims 9000x9900 pixels" in refused(tmp_path, bytes(gif))
    png = bytearray(encoded(RGB, "PNG"))
    png[16:24] = struct.pack(">II", 9000, 9900)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    assert "claims 9000x9900 pixels" in refused(tmp_path, bytes(png))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_emptiest_pictures_hold_what_they_claim(tmp_path, kind, progressive):
    options = {"progressive": progressive, "optimize": True, "quality": 1}
    blank = np.zeros((1000, 1500, 3), np.uint8)
    data = encoded(blank, kind, **options if kind == "JPEG" else {})
    assert (read(tmp_path, data) < 2).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_large_colour_profile_is_no_reason_to_refuse(tmp_path, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    plain = read(tmp_path, encoded(RGB, kind, **options))
    for profile in (RNG.bytes(3_000_000), bytes(80_000_000 if kind == "PNG" else 1_000_000)):
        data = encoded(RGB, kind, icc_profile=profile, **options)
        np.testing.assert_array_equal(read(tmp_path, data), plain)


def test_large_texts_are_none_either_and_the_orientation_stays(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    texts.add_itxt("prompt", "ä" * 3_000_000, zip=True)
    data = encoded(RGB, "PNG", pnginfo=texts, exif=orientation(6))
    np.testing.assert_array_equal(read(tmp_path, data), np.rot90(RGB, -1))


def test_the_limit_of_pixels_can_be_chosen_and_is_not_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(RGB, "PNG"))
    np.testing.assert_array_equal(io.read_image(path), RGB)
    with pytest.raises(io.UnreadableFile, match="17x12 pixels; the limit is 200"):
        io.read_image(path, max_pixels=200)
    assert io.read_image(path, max_pixels=204).shape == RGB.shape


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_grey_that_png_calls_transparent_is_white(tmp_path, dtype):
    values = GREY.astype(dtype) * (np.iinfo(dtype).max // 255)
    data = png(values, before=[(b"tRNS", struct.pack(">H", values[0, 0]))])
    expected = np.where(values == values[0, 0], 255, GREY)
    np.testing.assert_array_equal(read(tmp_path, data)[..., 0], expected)


def test_exif_may_stand_behind_the_pixels_of_a_png(tmp_path):
    data = png(RGB, after=[(b"eXIf", orientation(6).removeprefix(b"Exif\0\0"))])
    np.testing.assert_array_equal(read(tmp_path, data), np.rot90(RGB, -1))


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm_of_any_maximum_is_stretched_by_it(tmp_path, most, channels):
    stored = (RGB if channels == 3 else GREY).astype(np.int64) * most // 255
    kind = ">u2" if most > 255 else "u1"
    data = b"P%d\n17 12\n%d\n" % (6 if channels == 3 else 5, most)
    expected = np.rint(stored / most * 255).reshape(*GREY.shape, channels)
    image = read(tmp_path, data + stored.astype(kind).tobytes())
    np.testing.assert_array_equal(image, np.broadcast_to(expected, RGB.shape))


def test_bmp_whose_alpha_is_0_everywhere_is_shown(tmp_path):
    # BITMAPV4HEADER with masks for blue, green, red and alpha; rows from the bottom.
    pixels = np.dstack([RGB[::-1, :, ::-1], np.zeros_like(GREY)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    header = struct.pack("<IiiHHIIiiII", 108, 17, 12, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks
    start = 14 + len(header)
    data = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels
    np.testing.assert_array_equal(read(tmp_path, data), RGB)


def test_signed_grey_is_no_photograph(tmp_path):
    values = GREY.astype(np.int16) - 100
    data = tiff((values, page(values) | {339: (SHORT, 2)}))
    assert "grey values outside 0..65535" in refused(tmp_path, data)
