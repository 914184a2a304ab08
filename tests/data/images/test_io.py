import io as memory
import os
import pickle
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.data.images import io

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), np.uint8)
GREY = RNG.integers(0, 256, (12, 17), np.uint8)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = memory.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written from the specification: for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
def test_lossless_formats_read_exactly_whatever_they_are_called(tmp_path, kind):
    path = tmp_path / "photo.jpg"
    path.write_bytes(
        encoded(Image.fromarray(RGB), kind, **{"WEBP": {"lossless": True}}.get(kind, {}))
    )
    np.testing.assert_array_equal(io.read_image(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_is_read_as_displayed(tmp_path, orientation):
    # TIFF 6.0, tag 274: where row 0 and column 0 of the stored pixels are on the display.
    displayed = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }[orientation](RGB)
    exif = Image.Exif()
    exif[274] = orientation
    for kind in ("PNG", "TIFF"):
        path = tmp_path / kind
        path.write_bytes(encoded(Image.fromarray(RGB), kind, exif=exif))
        np.testing.assert_array_equal(io.read_image(path), displayed)


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "I;16", "CMYK", "RGBA"])
def test_other_modes_become_rgb(tmp_path, mode):
    # Saturation is limited and edges are absent, so that every mode can hold the picture.
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))
    expected = np.repeat(smooth[..., None], 3, axis=2)
    if mode == "I;16":
        image = Image.fromarray(smooth.astype(np.uint16) * 257)
    elif mode == "1":
        expected = np.where(expected > 127, 255, 0)
        image = Image.fromarray(smooth > 127)
    else:
        image = Image.fromarray(expected).convert("L").convert(mode)
    path = tmp_path / "image"
    path.write_bytes(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    np.testing.assert_allclose(io.read_image(path).astype(int), expected, atol=1)


def test_cmyk_jpeg_has_the_right_polarity(tmp_path):
    path = tmp_path / "print.jpg"
    color = Image.new("RGB", (32, 32), (200, 120, 40))
    path.write_bytes(encoded(color.convert("CMYK"), "JPEG", quality=95))
    np.testing.assert_allclose(io.read_image(path)[16, 16].astype(int), (200, 120, 40), atol=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 255))
    image.paste((90, 90, 90, 0), (2, 0, 4, 2))
    path = tmp_path / "cut-out.png"
    path.write_bytes(encoded(image.convert(mode), "PNG"))
    expected = np.zeros((2, 4, 3))
    expected[:, 2:] = 255
    np.testing.assert_array_equal(io.read_image(path), expected)


def test_half_transparent_pixels_mix_with_white(tmp_path):
    path = tmp_path / "glass.png"
    path.write_bytes(encoded(Image.new("RGBA", (3, 3), (100, 0, 255, 51)), "PNG"))
    # 0.2 * color + 0.8 * 255.
    np.testing.assert_allclose(io.read_image(path)[1, 1].astype(int), (224, 204, 255), atol=1)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "MPO"])
def test_first_frame_of_several(tmp_path, kind):
    frames = [Image.new("RGB", (6, 5), color) for color in ("red", "lime", "blue")]
    path = tmp_path / "several"
    path.write_bytes(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    image = io.read_image(path).astype(int)
    np.testing.assert_allclose(image, np.full((5, 6, 3), (255, 0, 0)), atol=3)


JPEG = encoded(Image.fromarray(np.tile(RGB, (8, 8, 1))), "JPEG")
PNG = encoded(Image.fromarray(RGB), "PNG")
BAD_IMAGES = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture\n", "not an image"),
    "web page": (b"\n<!DOCTYPE html><html>virus scan</html>", "web page"),
    "cut JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "cut JPEG header": (JPEG[:10], ": "),
    "cut PNG": (PNG[:-60], ": "),
    "broken PNG": (PNG[:60] + b"\xff\x00\xff" + PNG[63:], ": "),
    "float": (encoded(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF"), "floating-point"),
    "PDF": (encoded(Image.fromarray(RGB), "PDF"), "not an image"),
    "EPS": (encoded(Image.fromarray(RGB), "EPS"), "not an image"),
    "bomb": (png(20_000, 20_000, 8, 0, b"\0"), "limit is 89 million"),
    "suspect": (png(10_000, 10_000, 8, 0, b"\0"), "limit is 89 million"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_photograph_is_one_line_with_path_and_reason(tmp_path, case):
    data, reason = BAD_IMAGES[case]
    path = tmp_path / "bad.jpg"
    path.write_bytes(data)
    with pytest.raises(io.UnreadableFile, match=reason) as caught:
        io.read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("read", [io.read_image, io.read_map])
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (tmp_path / "pipe.png", "regular"),
        (tmp_path, "regular"),
        (tmp_path / "missing.png", "no such file"),
    ):
        with pytest.raises(io.UnreadableFile, match=reason):
            read(path)


def test_message_escapes_control_characters_and_survives_pickling():
    error = io.UnreadableFile("a\x1b[2J\n\udcff.jpg", "is odd")
    assert str(error) == r"a\x1b[2J\n\udcff.jpg: is odd"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "NPY", "NPZ"])
def test_maps_are_read_exactly(tmp_path, dtype, kind):
    if dtype == "float32":
        values = RNG.normal(size=(7, 9)).astype(np.float32)
        values[0, :3] = np.inf, np.nan, -np.inf
    else:
        values = RNG.integers(0, np.iinfo(dtype).max, (7, 9), dtype, endpoint=True)
        values[0, :2] = 0, np.iinfo(dtype).max
    if (dtype, kind) == ("float32", "PNG"):
        values = np.zeros((7, 9), np.uint8)
    path = tmp_path / "map.any"
    with open(path, "wb") as file:
        if kind == "NPY":
            np.save(file, values)
        elif kind == "NPZ":
            np.savez_compressed(file, anything=values)
        else:
            file.write(encoded(Image.fromarray(values), kind))
    read = io.read_map(path)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(np.float32))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pfm_rows_run_upwards_in_either_byte_order(tmp_path, order, channels):
    # netpbm's pfm(5): text header, sign of the scale = byte order, bottom row first.
    bottom, top = [1.0, 2.0, np.inf], [4.0, 5.0, 6.5]
    numbers = [value for value in bottom + top for _ in range(channels)]
    header = f"P{'f' if channels == 1 else 'F'}\n3 2\n{'-' if order == '<' else ''}1.0\n"
    path = tmp_path / "map.pfm"
    path.write_bytes(header.encode() + struct.pack(f"{order}{len(numbers)}f", *numbers))
    np.testing.assert_array_equal(io.read_map(path), [top, bottom])


def test_three_equal_channels_are_one_map(tmp_path):
    path = tmp_path / "map.png"
    path.write_bytes(encoded(Image.fromarray(np.repeat(GREY[..., None], 3, axis=2)), "PNG"))
    np.testing.assert_array_equal(io.read_map(path), GREY)


def npy(values: object, **options) -> bytes:
    buffer = memory.BytesIO()
    np.save(buffer, np.asarray(values), **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_gray_maps_stored_with_opaque_alpha_are_maps(tmp_path, mode):
    path = tmp_path / "map.png"
    Image.fromarray(GREY).convert(mode).save(path)
    values = io.read_values(path)
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, GREY)


@pytest.mark.parametrize("most", [255, 10_000, 65_535])
def test_values_of_pgm_are_not_stretched(tmp_path, most):
    wanted = np.random.default_rng(0).integers(0, most + 1, (3, 5))
    wide = wanted.astype(">u2" if most > 255 else "u1")
    (tmp_path / "map.pgm").write_bytes(b"P5\n# a comment\n5 3\n%d\n" % most + wide.tobytes())
    values = io.read_values(tmp_path / "map.pgm")
    assert values.dtype == (np.uint16 if most > 255 else np.uint8)
    np.testing.assert_array_equal(values, wanted)


def test_an_array_of_several_is_named(tmp_path):
    path = tmp_path / "map.npz"
    np.savez(path, depth=GREY * 2.0, intrinsics=np.eye(3))
    np.testing.assert_array_equal(io.read_values(path, "depth"), GREY * 2.0)
    several = r"got 2: depth, intrinsics; name one .*source\.key="
    with pytest.raises(io.UnreadableFile, match=several):
        io.read_values(path)
    with pytest.raises(io.UnreadableFile, match="holds no array 'dept', but: depth, intrinsics"):
        io.read_values(path, "dept")


def npz(*arrays: np.ndarray) -> bytes:
    buffer = memory.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def lying_npz() -> bytes:
    buffer = memory.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.npy", "w", force_zip64=True) as member:
            for _ in range(800):
                member.write(bytes(1_000_000))
    return buffer.getvalue()


BAD_MAPS = {
    "empty": (b"", "is empty"),
    "text": (b"1 2 3\n", "not an image"),
    "coloured": (PNG, "channels that differ"),
    "palette": (encoded(Image.fromarray(RGB).convert("P"), "PNG"), "palette"),
    "alpha": (encoded(Image.fromarray(RGB).convert("RGBA"), "PNG"), "channels that differ"),
    "transparent": (
        encoded(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY)]), "PNG"),
        "transparent",
    ),
    "cut PGM": (b"P5 3 2 300\n" + bytes(11), "truncated"),
    "PGM header": (b"P5 3 x 255\n" + bytes(6), "damaged PGM"),
    "PGM maximum": (b"P5 3 2 65536\n" + bytes(12), "up to 65536"),
    "PGM size": (b"P5 100000 100000 255\n", "million"),
    "1 bit": (encoded(Image.fromarray(GREY > 9), "PNG"), "1 bit"),
    "4 bits": (png(2, 1, 4, 0, b"\0\x12"), "4 bits"),
    "16-bit colour": (png(1, 1, 16, 2, b"\0" + b"\x12\x34" * 3), "16-bit colour"),
    "JPEG": (JPEG, "JPEG changes"),
    "EXR": (b"\x76\x2f\x31\x01" + bytes(20), "OpenEXR"),
    "cut PNG": (encoded(Image.fromarray(GREY.astype(np.uint16) * 200), "PNG")[:-60], ": "),
    "cut PFM": (b"Pf\n3 2\n-1\n" + bytes(20), "truncated"),
    "PFM header": (b"Pf\n3 x\n-1\n" + bytes(24), "damaged"),
    "PFM end": (b"Pf\n3", "damaged"),
    "PFM size": (b"Pf\n100000 100000\n-1\n", "million"),
    "PFM colours": (b"PF\n1 1\n-1\n" + struct.pack("<3f", 1, 2, 3), "differ"),
    "pickle": (npy([{}], allow_pickle=True), "object"),
    "cut NPY": (npy(GREY)[:-4], "greater than file size"),
    "3-D NPY": (npy(np.zeros((2, 3, 4))), "shape"),
    "1-D NPY": (npy(np.zeros(4)), "shape"),
    "text NPY": (npy(np.array([["a"]])), "numbers"),
    "complex NPY": (npy(np.zeros((2, 2), complex)), "numbers"),
    "bool NPY": (npy(np.zeros((2, 2), bool)), "numbers"),
    "two arrays": (npz(GREY, GREY), "one array"),
    "zip bomb": (lying_npz(), "unpacks to 0.8 GB"),
}


@pytest.mark.parametrize("case", BAD_MAPS)
def test_bad_map_is_one_line_with_path_and_reason(tmp_path, case):
    data, reason = BAD_MAPS[case]
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    with pytest.raises(io.UnreadableFile, match=re.escape(reason)) as caught:
        io.read_map(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_damaged_files_never_escape_as_other_errors(tmp_path):
    rng = np.random.default_rng(1)
    small = Image.fromarray(RGB)
    seeds = [encoded(small, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM")]
    seeds += [encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), npy(GREY), npz(GREY)]
    path = tmp_path / "damaged"
    outcomes = {"read": 0, "refused": 0}
    for number in range(600):
        data = bytearray(seeds[number % len(seeds)])
        for position in rng.integers(0, len(data), rng.integers(1, 6)):
            data[position] = rng.integers(256)
        path.write_bytes(data[: rng.integers(1, len(data) + 1)] if number % 3 == 0 else data)
        for read in (io.read_image, io.read_map):
            try:
                assert read(path).size > 0
                outcomes["read"] += 1
            except io.UnreadableFile:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 50


def test_written_png_holds_16_bits_and_its_metadata(tmp_path):
    values = RNG.integers(0, 65535, (6, 5), np.uint16, endpoint=True)
    path = tmp_path / "map.png"
    io.write_png(path, values, {"larger_is": "farther", "run": "größer"})
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), values)
        assert image.info == {"larger_is": "farther", "run": "größer"}


def test_written_pfm_follows_its_specification(tmp_path):
    io.write_pfm(tmp_path / "map.pfm", np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    expected = b"Pf\n2 3\n-1.0\n" + struct.pack("<6f", 5, 6, 3, 4, 1, 2)
    assert (tmp_path / "map.pfm").read_bytes() == expected


def test_written_npy_reads_back(tmp_path):
    values = RNG.normal(size=(6, 5)).astype(np.float32)
    io.write_npy(tmp_path / "map.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), values)


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result"
    path.write_bytes(b"old")

    def interrupted():
        with io.atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
