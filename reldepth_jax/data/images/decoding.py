"""What a decoder makes of a file: checked here, once, for training, prediction and evaluation.

Pillow decodes; its limits, warnings and lists of formats belong to the user's program and are left
as they are. All functions raise ValueError, or what Pillow raises, with the reason alone: `io` adds
the path.
"""

import importlib
import importlib.util
import io as streams
import itertools
import struct
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, features

Stream = IO[bytes] | streams.BytesIO
MAX_PIXELS = 89_478_485
"""Pixels of the largest file that is decoded unless another limit is asked for; where Pillow starts
to suspect an attack."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF", "HEIC")
"""Of photographs. AVIF takes Pillow 11.3, HEIC the package pillow-heif."""
READS_AVIF = bool(features.check("avif"))
READS_HEIC = importlib.util.find_spec("pillow_heif") is not None

INSTALL_AVIF = "to read AVIF, pip install 'pillow>=11.3'"
INSTALL_HEIC = "to read HEIC, pip install 'reldepth-jax[heic]'"
DEVELOP_RAW = "develop the raw files of cameras to JPEG or TIFF"

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF orientation: what turns the stored image into the displayed one. From 5 on rows become
columns."""

_HEADS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
    **{b"P%d" % kind: "PPM" for kind in range(1, 7)},
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
}
_RAW_HEADS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM")
"""Olympus, Panasonic, Fujifilm, Sigma and Minolta; other makers' raw files are TIFF."""
_PLUGINS = {
    # Not Pillow's MPO, whose first image is the JPEG that the file begins with.
    "JPEG": "JpegImagePlugin.JpegImageFile",
    "PNG": "PngImagePlugin.PngImageFile",
    "WEBP": "WebPImagePlugin.WebPImageFile",
    "TIFF": "TiffImagePlugin.TiffImageFile",
    "BMP": "BmpImagePlugin.BmpImageFile",
    "PPM": "PpmImagePlugin.PpmImageFile",
    "GIF": "GifImagePlugin.GifImageFile",
    "AVIF": "AvifImagePlugin.AvifImageFile",
}
_PIXELS_A_BYTE = {"JPEG": 8 * 64, "PNG": 8 * 1032, "GIF": 8 * 4096 // 12}
"""The most that a file can hold: of JPEG a bit for a block of 8x8 (Huffman codes), of PNG what
deflate packs into a byte, at a bit a pixel, of GIF a string of 4096 for a code of 12 bits. Where
the data ends early, JPEG and GIF are filled up in silence. Other decoders raise then."""

_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _PHOTOMETRIC = 254, 255, 262
_REDUCED, _MASK = 1, 4
_WHITE_IS_ZERO = 0
_RANGES = (255, 4095, 65535)
"""The largest values of 16-bit files: that of 8, 12 and 16 bits."""


class Header(NamedTuple):
    """What an image file says of itself."""

    size: tuple[int, int]
    """Height and width as stored (of TIFF as displayed: Pillow turns it)."""
    orientation: int
    """EXIF orientation, 1 for none; from 5 on rows and columns are exchanged for display."""


def opened(
    file: Stream,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = MAX_PIXELS,
) -> ImageFile.ImageFile:
    """Open an image by its content, at the page that holds the photograph; nothing is decoded.

    Refused are other formats, more than `max_pixels`, a header that claims more than the file can
    hold, and a TIFF that has no more than a thumbnail to show.
    """
    kind, length = _kind(file), file.seek(0, 2)
    if kind not in formats:
        raise ValueError(f"is not an image that can be read ({', '.join(formats)})")
    file.seek(0)
    try:
        image = _plugin(kind)(file)
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        # What Pillow takes for "of another format".
        raise ValueError(
            f"is not an image that can be read ({', '.join(formats)}): its header is that of"
            f" {kind}, but damaged or of a kind that is not known"
        ) from error
    except ValueError:
        if kind != "PNG":
            raise
        # Colour profile or texts that Pillow finds too large; neither is used.
        image = _plugin(kind)(_without_notes(file))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _turn_to_photograph(image)
    check_size(*image.size, max_pixels)
    width, height = image.size
    if width * height > length * _PIXELS_A_BYTE.get(kind, max_pixels):
        raise ValueError(f"claims {width}x{height} pixels, more than its {length} bytes can hold")
    return image


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ValueError for an empty image and for one of more than `max_pixels`."""
    if width < 1 or height < 1 or width * height > max_pixels:
        limit = f"{max_pixels / 1e6:.0f} million" if max_pixels >= 1e6 else f"{max_pixels}"
        raise ValueError(f"{width}x{height} pixels; the limit is {limit}")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none, and for what means nothing."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # Damaged EXIF: viewers show the pixels as they are stored.
    return value if isinstance(value, int) and value in TURNS else 1


def header(image: Image.Image) -> Header:
    """Return what an image says of itself."""
    width, height = image.size
    return Header((height, width), orientation(image))


def to_rgb(image: Image.Image, *, displayed: bool) -> Image.Image:
    """Decode and convert as `io.read_image` does, without EXIF unless `displayed`.

    `image` itself keeps its mode and its orientation.
    """
    deep = any(";16" in str(tile.args) for tile in getattr(image, "tile", ()))
    deep = deep and not image.mode.startswith("I")
    image.load()
    # Read now: in PNG, EXIF may stand behind the pixels. Pillow has turned TIFF.
    turn = TURNS.get(orientation(image)) if displayed else None
    if image.mode == "F":
        raise ValueError("holds floating-point values, not a photograph")
    if image.mode.startswith("I"):
        image = _grey(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        # Game engines leave alpha 0 everywhere: it says nothing about what is to be seen.
        if image.getchannel("A").getextrema() != (0, 0):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image if image.mode == "RGB" else image.convert("RGB")
    if deep and int(np.asarray(image).max()) < 16:
        raise ValueError(
            "16-bit colours that use no more than a sixteenth of their range are not read; scale"
            " them to 16 bits"
        )
    return image if turn is None else image.transpose(turn)


def white_is_zero(image: Image.Image) -> bool:
    """Return whether larger values are darker, which Pillow undoes for 8 bits and no others."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _grey(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8 bits, rounded; what PNG calls transparent is white.

    Cameras of 12 bits, and programs that hold 8, leave the upper bits empty. So the range is 255 or
    4095 where no value is larger: a picture in full would be 15/16 black.
    """
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _RANGES[-1]:
        raise ValueError(f"grey values outside 0..65535: from {low} to {high}")
    top = next(top for top in _RANGES if high <= top)
    levels = (2 * 255 * np.arange(top + 1) + top) // (2 * top)
    if white_is_zero(image):
        levels = levels[::-1]
    grey = levels.astype(np.uint8).take(values)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and low < high:
        grey[values == transparent] = 255
    return Image.fromarray(grey)


def _kind(file: Stream) -> str:
    """Return the format that the first bytes of a file say; ValueError for an unknown one."""
    file.seek(0)
    head = file.read(256)
    if head[:2] in (b"II", b"MM") and head[8:10] == b"CR" or head.startswith(_RAW_HEADS):
        raise ValueError(f"is the raw file of a camera; {DEVELOP_RAW}")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _kind_of_container(head)
    for start, kind in _HEADS.items():
        if head.startswith(start):
            return kind
    text = head.lstrip()
    if text.startswith(b"<") and b"svg" not in text:
        raise ValueError("is a web page, not an image; download it again")
    return ""


def _kind_of_container(head: bytes) -> str:
    """Return which image an ISO media file holds, by the brands that it declares."""
    size = int.from_bytes(head[:4], "big")
    brands = {head[at : at + 4] for at in (8, *range(16, min(size, len(head)), 4))}
    if brands & {b"avif", b"avis"}:
        if not READS_AVIF:
            raise ValueError(f"is AVIF; {INSTALL_AVIF}")
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        if not READS_HEIC:
            raise ValueError(f"is HEIC; {INSTALL_HEIC}")
        return "HEIC"
    if b"crx " in brands:
        raise ValueError(f"is the raw file of a camera; {DEVELOP_RAW}")
    return ""


def _plugin(kind: str) -> type[ImageFile.ImageFile]:
    """Return Pillow's reader of a format.

    Not `Image.open`, which warns or raises by the user's own limit of pixels, and knows HEIC only
    after it has been told so for the whole process.
    """
    if kind == "HEIC":
        # Its images are turned already, and say so.
        return importlib.import_module("pillow_heif").HeifImageFile
    module, name = _PLUGINS[kind].split(".")
    return getattr(importlib.import_module(f"PIL.{module}"), name)


def _turn_to_photograph(image: TiffImagePlugin.TiffImageFile) -> None:
    """Turn to the first page that is neither a thumbnail nor a mask; ValueError without one."""
    thumbnail = image.size
    try:
        for page in itertools.count():
            image.seek(page)
            tags = image.tag_v2
            reduced = tags.get(_SUBFILE_TYPE, 0) & (_REDUCED | _MASK)
            if not reduced and tags.get(_OLD_SUBFILE_TYPE) != 2:
                return
    except (EOFError, SyntaxError, IndexError, TypeError, struct.error):
        width, height = thumbnail
        raise ValueError(
            f"has a thumbnail of {width}x{height} pixels and no photograph that can be read;"
            f" {DEVELOP_RAW}"
        ) from None


def _without_notes(file: Stream) -> streams.BytesIO:
    """Return a PNG without its colour profile and its texts."""
    file.seek(0)
    data = file.read()
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[at:end])
        at = end
    return streams.BytesIO(b"".join(kept))
