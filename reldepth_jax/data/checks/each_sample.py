"""Checks of single samples, which are decoded as training does it."""

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from reldepth_jax.data.checks.findings import Finding, error, from_reader, warning
from reldepth_jax.data.checks.samples import Samples
from reldepth_jax.data.images import io
from reldepth_jax.data.images.decoding import Header
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.declaration import DataSet
from reldepth_jax.data.reading.files import UndeclaredValues
from reldepth_jax.data.reading.pair_lists import ListedRecords
from reldepth_jax.data.reading.records import Record
from reldepth_jax.metrics.ordinal import (
    PixelPairs,
    difference,
    heldout_pairs,
    location_rule,
    relation,
)
from reldepth_jax.types import Sample

PAIRS = 200
"""Pairs of each image from which polarity is judged."""
_SIGMA = 0.02
_NEARLY_ALL = 0.95
"""Valid pixels of one value from which on an image teaches little, as in training."""
_SKY_SHARE = 0.01
"""Pixels of the image from which on sky is more than specks."""
_ORIGINAL = "replace it by the original file"


class Summary(NamedTuple):
    """What the checks over all samples need to know of one."""

    digest: bytes
    """SHA-256 of the encoded image."""
    contradicting: int
    """Pairs whose lower point is the farther one."""
    compared: int
    """Pairs of points in different rows and at different depths."""
    sky: bool
    """Whether there is infinite depth."""
    unmeasured: float
    """Share of pixels without raw depth; NaN where there is no raw map."""
    truth: bool
    """Whether there is anything to learn from."""
    valid: float
    """Share of the pixels with ground truth; NaN where the truth is annotated pairs."""


def examine(samples: Samples, index: int) -> tuple[list[Finding], Summary | None]:
    """Return what is wrong with a sample, and its summary if it can be used."""
    places = samples.records.places(index)
    try:
        record, sample = samples.read(index)
    except UnreadableFile as complaint:
        return explain(samples, index, complaint), None
    header = _header(record["image"], record["name"], samples.source.displayed)
    maps = {name: record["maps"][name] for name in samples.data_set.maps}
    findings = sizes(samples, places, header, {kind: v.shape for kind, v in maps.items()})
    if header.orientation != 1 and not findings:
        message = (
            f"is displayed rotated or mirrored (EXIF orientation {header.orientation}), but labels"
            " are taken to go with the stored pixels; if they do not, rotate the pixels"
        )
        findings.append(warning("exif", places["image"], message))
    findings += contents(samples.data_set, places, maps, sample)
    return findings, _summary(index, samples.data_set, record, sample)


def explain(samples: Samples, index: int, complaint: UnreadableFile) -> list[Finding]:
    """Return why a sample cannot be used: all that is wrong with its files, taken one by one."""
    places, findings = samples.records.places(index), []
    header, maps = None, {}
    path = places["image"]
    if samples.records.own_images:
        try:
            data = io.read_bytes(path)
            io.decode_image(data, path)
            header = _header(data, path, samples.source.displayed)
        except UnreadableFile as reason:
            findings.append(from_reader("unreadable", path, reason, _ORIGINAL))
    read_map = getattr(samples.records, "read_map", None)
    for kind, path in places.items():
        if kind != "image" and read_map:
            try:
                maps[kind] = read_map(path)
            except UnreadableFile as reason:
                findings.append(from_reader("unreadable", path, reason, _ORIGINAL))
    for kind, values in maps.items():
        declared = samples.data_set.maps[kind].dtype
        if declared is not None and values.dtype != declared:
            message = f"has {values.dtype} values, not {declared}; {_ORIGINAL}"
            findings.append(error("map type", places[kind], message))
    shapes = {kind: values.shape for kind, values in maps.items() if values.ndim == 2}
    findings += sizes(samples, places, header, shapes)
    if header is not None and isinstance(samples.records, ListedRecords):
        findings += stated_size(samples.records, index, header)
    if isinstance(complaint, UndeclaredValues) and not findings:
        findings.append(error("values", places["image"], complaint.reason))
    if not findings:
        findings.append(from_reader("content", places["image"], complaint, _ORIGINAL))
    return findings


def sizes(
    samples: Samples,
    places: dict[str, str],
    header: Header | None,
    shapes: dict[str, tuple[int, ...]],
) -> list[Finding]:
    """Compare the maps' sizes with the image's."""
    findings = []
    if header is None:
        return []
    for kind, shape in shapes.items():
        if shape == header.size:
            continue
        if header.orientation >= 5 and _fits(shape, header.size[::-1]):
            findings.append(_displayed(places["image"], header, f"its {kind} map"))
        elif samples.data_set.resizes and _fits(shape, header.size):
            message = f"{_size(shape)} pixels, the image has {_size(header.size)}: it is resized"
            remedy = "by nearest neighbour; nothing to do if it was published so"
            findings.append(warning("size", places[kind], f"{message} {remedy}"))
        else:
            message = f"{_size(shape)} pixels do not go with the image's {_size(header.size)}"
            findings.append(error("size", places[kind], f"{message}; take both from one archive"))
    return findings


def stated_size(records: ListedRecords, index: int, header: Header) -> list[Finding]:
    """Compare the size that a list states with the image's."""
    if records.sizes is None:
        return []
    height, width = records.sizes[index].tolist()
    if header.size == (height, width):
        return []
    if header.orientation >= 5 and header.size == (width, height):
        return [_displayed(records.paths[index], header, "the list")]
    message = (
        f"{_size(header.size)} pixels, but the list says {width}x{height}; take image and list from"
        " one publication, without resizing"
    )
    return [error("size", records.paths[index], message)]


def contents(
    data_set: DataSet,
    places: dict[str, str],
    maps: Mapping[str, Shaped[np.ndarray, "_h _w"]],
    sample: Sample,
) -> list[Finding]:
    """Judge the values of a sample that can be decoded."""
    findings = []
    for name, declared in data_set.maps.items():
        if declared.role == "mask" and not np.isin(maps[name], (0, 255)).all():
            message = "holds values other than 0 and 255; those above 0 count as valid"
            findings.append(warning("mask", places[name], f"{message}; {_ORIGINAL}"))
        if declared.sky is not None:
            findings += sky(maps[name], declared.sky, places[name])
    if maps and not sample["mask"].any():
        message = f"leaves no valid pixel, the image teaches nothing; {_ORIGINAL}, or remove it"
        findings.append(warning("ground truth", list(places.values())[-1], message))
    elif maps and (share := _commonest(sample["depth"][sample["mask"]])) >= _NEARLY_ALL:
        message = (
            f"is the same at {share:.0%} of its valid pixels, the image teaches little;"
            f" {_ORIGINAL}, or remove it"
        )
        findings.append(warning("constant", list(places.values())[1], message))
    return findings


def sky(values: Shaped[np.ndarray, "h w"], marked: int, path: str) -> list[Finding]:
    """Return a finding if most of the sky of a map lies in the lower half."""
    is_sky = values == marked
    lower = np.count_nonzero(is_sky[len(values) // 2 :])
    total = np.count_nonzero(is_sky)
    if total < _SKY_SHARE * values.size or 2 * lower <= total:
        return []
    message = (
        f"{lower / total:.0%} of its sky ({marked}) lies in the lower half; look at the picture: is"
        " the map upside down, or inverted?"
    )
    return [warning("sky", path, message)]


def _commonest(values: Shaped[np.ndarray, "n"]) -> float:
    """Return the share of the commonest value, if that is more than half."""
    middle = np.partition(values, len(values) // 2)[len(values) // 2]
    return float(np.mean(values == middle))


def _summary(index: int, data_set: DataSet, record: Record, sample: Sample) -> Summary:
    depth, mask = sample["depth"], sample["mask"]
    annotated = sample.get("pairs")
    is_finite = mask & np.isfinite(depth)
    width = depth.shape[1]
    if annotated is not None and len(annotated):
        rows = annotated.astype(np.int64)
        pairs = PixelPairs(rows[:, 0] * width + rows[:, 1], rows[:, 2] * width + rows[:, 3])
        related = annotated[:, 4]
    else:
        # Without sky: its place is right in maps, too, in which the rest is inverted.
        pairs = heldout_pairs(is_finite, seed=0, index=index, count=PAIRS)
        flat = depth.reshape(-1)
        related = relation(flat[pairs.first], flat[pairs.second], _SIGMA)
    ruled = np.sign(difference(location_rule(*depth.shape), pairs))
    compared = (ruled != 0) & (related != 0)
    raw = [record["maps"][name] for name, its in data_set.maps.items() if its.role == "raw"]
    return Summary(
        digest=hashlib.sha256(record["image"]).digest(),
        contradicting=int(np.count_nonzero(compared & (ruled != related))),
        compared=int(np.count_nonzero(compared)),
        sky=bool((mask & np.isinf(depth)).any()),
        unmeasured=float(np.mean(raw[0] == 0)) if raw else math.nan,
        truth=bool(mask.any()) or len(pairs.first) > 0,
        valid=float(mask.mean()) if data_set.maps else math.nan,
    )


def _header(data: bytes, name: str, displayed: bool) -> Header:
    """Return what a file says, or where labels go with the display what that comes to."""
    header = io.read_header(data, name)
    height, width = header.size
    if displayed:
        return Header((width, height) if header.orientation >= 5 else (height, width), 1)
    return header


def _fits(shape: tuple[int, ...], size: tuple[int, ...]) -> bool:
    try:
        files.fit_to_image(np.broadcast_to(np.uint8(0), shape), (size[0], size[1]), "")
    except UnreadableFile:
        return False
    return True


def _displayed(path: str, header: Header, what: str) -> Finding:
    message = (
        f"stored {_size(header.size)}, and {what} fits only as it is displayed (EXIF orientation"
        f" {header.orientation}); rotate the pixels and remove the tag"
    )
    return error("exif", path, message)


def _size(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
