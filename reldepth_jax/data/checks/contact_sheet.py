"""The contact sheet: images beside their depth in colours, or with their pairs drawn on them."""

import os
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image, ImageDraw

from reldepth_jax.data.checks.samples import Samples
from reldepth_jax.data.images import io, pictures
from reldepth_jax.errors import UserError
from reldepth_jax.types import NO_PAIRS, Sample

_PAIRS = 12
_NEAR, _FAR, _EQUAL = (255, 200, 0), (60, 0, 120), (128, 128, 128)


def draw(rows: Sequence[tuple[Samples, int, str]], root: str) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return one row for each sample, given with its index and what is wrong with it."""
    if not rows:
        return None
    captions = [
        _caption(samples.records.places(index)["image"], note, root)
        for samples, index, note in rows
    ]
    images = [_row(samples, index) for samples, index, _ in rows]
    titles = ["as stored", "depth, or pairs (yellow: nearer)"]
    return pictures.contact_sheet(images, titles, captions)


def _caption(path: str, note: str, root: str) -> str:
    text = io.printable(os.path.relpath(path, root)) + (f": {note}" if note else "")
    return "\n".join(textwrap.wrap(text, width=90, max_lines=3, placeholder=" …"))


def _row(samples: Samples, index: int) -> list[np.ndarray]:
    try:
        _, sample = samples.read(index)
    except UserError:
        return [_image_alone(samples, index), _nothing()]
    image = pictures.thumbnail(sample["image"])
    if sample["mask"].any() or not len(sample.get("pairs", ())):
        return [image, pictures.thumbnail(np.where(sample["mask"], sample["depth"], np.nan))]
    return [image, _with_pairs(sample)]


def _with_pairs(sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
    pairs: Int32[np.ndarray, "n 5"] = sample.get("pairs", NO_PAIRS)
    picture = Image.fromarray(pictures.enlarge(pictures.thumbnail(sample["image"])))
    pen = ImageDraw.Draw(picture)
    scale = picture.width / sample["image"].shape[1]
    for *points, relation in pairs[:_PAIRS].tolist():
        ends = [((points[k + 1] + 0.5) * scale, (points[k] + 0.5) * scale) for k in (0, 2)]
        pen.line(ends, fill="white", width=2)
        for end, sign in zip(ends, (relation, -relation), strict=True):
            pen.circle(end, 5, fill={-1: _NEAR, 1: _FAR, 0: _EQUAL}[sign], outline="white")
    return np.array(picture)


def _image_alone(samples: Samples, index: int) -> UInt8[np.ndarray, "h w 3"]:
    path = samples.records.places(index)["image"]
    try:
        return pictures.thumbnail(io.decode_image(io.read_bytes(path), path))
    except UserError:
        return _nothing()


def _nothing() -> UInt8[np.ndarray, "h w 3"]:
    return np.full((144, 192, 3), pictures.INVALID, np.uint8)
