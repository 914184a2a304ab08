"""Reading photographs and depth files, writing results.

Everything that can be wrong with a file from outside ends in `UnreadableFile`: one line with the
path and the reason. Files are recognised by their content, not by their extension.
"""

import contextlib
import io
import os
import pathlib
import re
import stat
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, ImageFile, PngImagePlugin

from reldepth_jax.data.images import decoding
from reldepth_jax.data.images.bands import as_array, bands
from reldepth_jax.data.images.decoding import MAX_PIXELS, Header
from reldepth_jax.errors import UserError, printable

AVIF_SUFFIXES = frozenset({".avif"})
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = (
    frozenset(".jpg .jpeg .jpe .jfif .mpo .png .webp .tif .tiff .bmp .ppm .pgm .pbm .gif".split())
    | (AVIF_SUFFIXES if decoding.READS_AVIF else frozenset())
    | (HEIC_SUFFIXES if decoding.READS_HEIC else frozenset())
)
"""Extensions, in lower case, by which photographs are found in folders."""
FILM_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv".split()
)
"""Extensions, in lower case, by which films are known."""
MAP_SUFFIXES = frozenset(".png .tif .tiff .pgm .pfm .npy .npz .exr".split())
"""The same for maps. OpenEXR is found so that it can be refused in words."""
_MAP_FORMATS = ("PNG", "TIFF")


class UnreadableFile(UserError):
    """A file that cannot be used, in one line: the path and the reason."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{printable(path)}: {printable(reason)}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        """Survive the way back from a worker process."""
        return type(self), (self.path, self.reason)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a regular file that is not empty; raises UnreadableFile."""
    with _reading(path) as file:
        return file.read()


def read_image(
    path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """Read a photograph as RGB in the orientation in which it is displayed (EXIF applied).

    JPEG, MPO, PNG, WebP, TIFF, BMP, PPM, GIF, AVIF and, with pillow-heif, HEIC; the first frame of
    several, but of TIFF the first page that is no thumbnail. Grey, palette and CMYK images are
    converted. 16-bit grey is scaled to 8 bits from 0..65535, or from 0..4095 or 0..255 where no
    value is larger: files of 12-bit cameras. Transparent pixels are composited on white: what is
    stored beneath them is not meant to be seen, unless all are transparent. Colour profiles are
    ignored, and an EXIF orientation that is none of 1 to 8.

    Raises UnreadableFile: not a regular file, not such an image, truncated, above `max_pixels`.
    """
    with _reading(path) as file:
        with decoding.opened(file, max_pixels=max_pixels) as image:
            return as_array(decoding.to_rgb(image, displayed=True))


def decode_image(data: bytes, name: str, *, displayed: bool = False) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a photograph in the orientation in which its pixels are stored (EXIF ignored).

    What data sets label are stored pixels; with `displayed` it is turned as `read_image` does.
    Otherwise as that; `name` stands in messages.
    """
    with reporting(name), decoding.opened(io.BytesIO(data)) as image:
        return as_array(decoding.to_rgb(image, displayed=displayed))


def read_header(data: bytes, name: str) -> Header:
    """Return the size and orientation of an encoded photograph; UnreadableFile as `decode_image`.

    Its pixels are not decoded.
    """
    with reporting(name), decoding.opened(io.BytesIO(data)) as image:
        return decoding.header(image)


def read_map(path: str | os.PathLike[str]) -> Float32[np.ndarray, "h w"]:
    """Read one number per pixel as float32; otherwise as `read_values`."""
    return as_float(read_values(path))


def as_float(values: Shaped[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Return a map as float32; what is too large for that becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, np.float32)


def read_values(path: str | os.PathLike[str], key: str = "") -> Shaped[np.ndarray, "h w"]:
    """Read one number per pixel, exactly as stored: no scaling, no conversion, rows from the top.

    8- and 16-bit PNG, integer and float TIFF, binary PGM, PFM, NPY, and NPZ with one array or with
    that called `key`. Three channels are accepted where they are equal, and alpha where it is
    opaque. The scale in a PFM header gives the byte order only.

    Raises UnreadableFile: not a regular file, not such a map, truncated, above MAX_PIXELS.
    """
    with _reading(path) as file:
        head = file.read(6)
        file.seek(0)
        if head == b"\x93NUMPY":
            values = np.load(os.fspath(path), mmap_mode="r", allow_pickle=False)
        elif head.startswith(b"PK\x03\x04"):
            values = _read_npz(file, key)
        elif head[:2] in (b"PF", b"Pf"):
            values = _read_pfm(file)
        elif head[:2] == b"P5":
            values = _read_pgm(file)
        elif head.startswith(b"\x76\x2f\x31\x01"):
            raise ValueError("OpenEXR is not read; convert it to float TIFF, PFM or NPY")
        elif head.startswith(b"\xff\xd8"):
            raise ValueError("JPEG changes depth values; store maps as PNG, TIFF, PFM or NPY")
        else:
            with decoding.opened(file, _MAP_FORMATS) as image:
                values = _map_values(image)
        return _as_map(values)


def _map_values(image: ImageFile.ImageFile) -> np.ndarray:
    if image.mode in ("L", "RGB") and any(";" in str(tile.args) for tile in image.tile):
        # Pillow would stretch, invert or shorten these to 8 bits.
        raise ValueError("1, 2 or 4 bits a pixel, inverted grey and 16-bit colour are not read")
    if decoding.white_is_zero(image):
        raise ValueError("inverted grey (WhiteIsZero) is not read")
    if image.mode in ("LA", "RGBA"):
        values = np.asarray(image)
        if (values[..., -1] != 255).any():
            raise ValueError("some of its pixels are transparent; store the map without alpha")
        return values[..., 0] if image.mode == "LA" else values[..., :3]
    if image.mode in ("L", "I", "F", "RGB") or image.mode.startswith("I;16"):
        return np.asarray(image)
    kind = {"P": "a palette", "1": "1 bit a pixel"}.get(image.mode, f"channels {image.mode}")
    raise ValueError(f"expected one number per pixel, got {kind}; a coloured picture of a map?")


def _as_map(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "uif":
        raise ValueError(f"expected numbers, got an array of {values.dtype}")
    if values.ndim == 3 and values.shape[2] == 3:
        first, second, third = np.moveaxis(values, 2, 0)
        if not ((first == second).all() and (first == third).all()):
            raise ValueError("expected one number per pixel, got three channels that differ")
        values = first
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values.squeeze(0 if values.shape[0] == 1 else 2)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"expected an array of shape (height, width), got {values.shape}")
    decoding.check_size(values.shape[1], values.shape[0])
    return np.array(values)


def _read_npz(file: IO[bytes], key: str) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        members = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
        if (key or len(members) != 1) and key not in members:
            names = ", ".join(map(printable, list(members)[:8])) or "none"
            raise ValueError(
                f"holds no array {key!r}, but: {names}"
                if key
                else f"expected an archive of one array, got {len(members)}: {names}; name one"
                " (folder: --config.data.source.key=…)"
            )
        name = key or next(iter(members))
        if members[name].file_size > 8 * MAX_PIXELS + 4096:
            raise ValueError(f"unpacks to {members[name].file_size / 1e9:.1f} GB")
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def _read_pgm(file: IO[bytes]) -> np.ndarray:
    """Read binary PGM; Pillow would stretch values whose maximum is not 255 or 65535."""
    data = file.read()
    header = re.match(rb"P5(?:\s|#[^\n]*\n)+" + 2 * rb"(\d+)(?:\s|#[^\n]*\n)+" + rb"(\d+)\s", data)
    if header is None:
        raise ValueError("damaged PGM header")
    width, height, most = (int(number) for number in header.groups())
    decoding.check_size(width, height)
    if not 0 < most < 65536:
        raise ValueError(f"PGM of values up to {most}; 1 to 65535 are possible")
    dtype = np.dtype(np.uint8 if most < 256 else ">u2")
    if len(data) - header.end() < width * height * dtype.itemsize:
        raise ValueError("is truncated")
    values = np.frombuffer(data, dtype, width * height, header.end()).reshape(height, width)
    return values.astype(dtype.newbyteorder("="))


def _read_pfm(file: IO[bytes]) -> np.ndarray:
    channels = 3 if file.read(2) == b"PF" else 1
    header: list[bytes] = []
    while len(header) < 3:
        line = file.readline(100)
        if not line.endswith(b"\n"):
            raise ValueError("damaged PFM header")
        header += line.split()
    try:
        width, height, scale = int(header[0]), int(header[1]), float(header[2])
    except ValueError:
        raise ValueError("damaged PFM header") from None
    decoding.check_size(width, height)
    data = file.read(width * height * channels * 4)
    if len(data) < width * height * channels * 4:
        raise ValueError("is truncated")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4")
    # PFM stores rows from the bottom to the top.
    return values.reshape(height, width, channels)[::-1]


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a regular file; whatever fails inside becomes UnreadableFile."""
    with reporting(path):
        # Checked before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("is not a regular file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise ValueError("is empty")
            file.seek(0)
            yield file


@contextlib.contextmanager
def reporting(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever fails inside into UnreadableFile."""
    try:
        yield
    except UnreadableFile:
        raise
    except FileNotFoundError:
        raise UnreadableFile(path, "no such file") from None
    except Exception as error:
        # Decoders raise nearly every type there is on damaged input.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableFile(path, " ".join(reason.split())) from error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file for writing that takes the name `path` once it is complete."""
    path = pathlib.Path(path)
    # Not derived from the name: that may be as long as the file system allows.
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        try:
            file = open(temporary, "xb")
        except OSError as error:
            error.filename = os.fspath(path)  # the other name says nothing to anybody
            raise
        with file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(
    path: str | os.PathLike[str],
    array: Shaped[np.ndarray, "h w *c"],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write uint8 (h, w, 3) or (h, w), or uint16 (h, w), with `metadata` as PNG text."""
    info = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        info.add_text(key, value)
    with atomic_write(path) as file:
        # Of 16 bits the lower ones are noise: level 4 takes half the time of 6, and 9 % more room.
        level = 4 if array.dtype == np.uint16 else 6
        Image.fromarray(array).save(file, format="PNG", pnginfo=info, compress_level=level)


def write_pfm(path: str | os.PathLike[str], array: Float32[np.ndarray, "h w"]) -> None:
    """Write a map as little-endian PFM."""
    height, width = array.shape
    with atomic_write(path) as file:
        file.write(f"Pf\n{width} {height}\n-1.0\n".encode("ascii"))
        upwards = array[::-1]
        for rows in bands(height, width):
            file.write(upwards[rows].astype("<f4").tobytes())


def write_npy(path: str | os.PathLike[str], array: Float32[np.ndarray, "h w"]) -> None:
    """Write a map as NPY."""
    array = np.ascontiguousarray(array)
    with atomic_write(path) as file:
        # Not np.save, which tells how many bytes were written to a full disk, but not why no more.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
