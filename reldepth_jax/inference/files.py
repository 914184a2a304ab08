"""Predicting photographs and folders of them."""

import collections
import contextlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from reldepth_jax.data.images import io
from reldepth_jax.errors import UserError
from reldepth_jax.inference.writer import Writer

MANIFEST = "predictions.json"


class PredictError(UserError):
    """Nothing can be predicted: no photographs, or an output folder that cannot be used."""


class Counts(NamedTuple):
    """How many photographs were predicted and how many could not be."""

    done: int
    failed: int


class _Photo(NamedTuple):
    path: pathlib.Path
    relative: str
    """Its path in the folder that was given, or its name."""


def predict_files(
    predictor: Callable[[np.ndarray], np.ndarray],
    inputs: Sequence[str | os.PathLike[str]],
    writer: Writer,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Counts:
    """Predict photographs and folders of them (recursively).

    A folder contributes the files with an image extension; its sub-folders are kept in the output,
    hidden files are left out. A file that is named is always tried. Each file that cannot be
    predicted is one line on stderr; the others are predicted. The output of photographs that would
    share a name keeps their extensions. `predictions.json` in the output folder lists what was
    written there, over repeated calls; files that it does not list are never overwritten.

    Args:
      predictor: uint8 RGB (h, w, 3) -> float32 score (h, w), which grows with distance.
      progress: called with (photographs done, photographs in all).

    Raises PredictError if there is nothing to predict or the output folder cannot be used.
    """
    known = _read_manifest(writer.output)
    ours = {output for entry in known for output in entry["outputs"]}
    photos = _collect(inputs, skip={os.path.abspath(writer.output / path) for path in ours})
    if not photos:
        raise PredictError(
            f"no images in {', '.join(io.printable(path) for path in inputs)};"
            f" known extensions: {' '.join(sorted(io.IMAGE_SUFFIXES))}"
        )
    try:
        writer.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PredictError(f"{io.printable(writer.output)}: {error.strerror}") from None

    entries: list[dict[str, Any]] = []
    try:
        for number, (photo, name) in enumerate(zip(photos, _names(photos, writer), strict=True), 1):
            try:
                entries.append(_predict_one(predictor, photo.path, name, writer, ours))
            except io.UnreadableFile as error:
                print(error, file=sys.stderr)
            progress(number, len(photos))
    finally:
        # Also after an interruption: what is not listed counts as someone else's.
        _write_manifest(writer.output, known, entries)
    return Counts(len(entries), len(photos) - len(entries))


def _predict_one(
    predictor: Callable[[np.ndarray], np.ndarray],
    path: pathlib.Path,
    name: str,
    writer: Writer,
    ours: set[str],
) -> dict[str, Any]:
    new = [
        writer.output / (name + ending) for ending in writer.endings if name + ending not in ours
    ]
    for file in new:
        if os.path.lexists(file):
            taken = io.printable(file)
            raise io.UnreadableFile(path, f"{taken} is in the way; choose another output folder")
    score = predictor(io.read_image(path))
    if not np.isfinite(score).all():
        raise io.UnreadableFile(path, "the network's score is not finite")
    try:
        return {"input": os.fspath(path), **writer.write(name, score)}
    except BaseException as error:
        for file in new:
            # A name that is too long to write is also too long to remove.
            with contextlib.suppress(OSError):
                file.unlink()
        if not isinstance(error, OSError):
            raise
        reason = f"its prediction cannot be written: {error.strerror}"
        raise io.UnreadableFile(path, reason) from error


def _collect(inputs: Sequence[str | os.PathLike[str]], skip: set[str]) -> list[_Photo]:
    """List each photograph once; files of a folder that are in `skip` are left out."""
    found: dict[str, _Photo] = {}
    for start in map(pathlib.Path, inputs):
        inside = (photo for photo in _walk(start) if os.path.abspath(photo.path) not in skip)
        for photo in inside if start.is_dir() else [_Photo(start, start.name)]:
            found.setdefault(os.path.abspath(photo.path), photo)
    return list(found.values())


def _walk(start: pathlib.Path) -> Iterator[_Photo]:
    for folder, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = pathlib.Path(folder, name)
            if path.suffix.lower() in io.IMAGE_SUFFIXES and not name.startswith("."):
                yield _Photo(path, path.relative_to(start).as_posix())


def _names(photos: list[_Photo], writer: Writer) -> list[str]:
    """Choose the output names: without extension, with it, or with a number, until all differ.

    Compared without case, as some file systems do, and never the name of an input.
    """

    def claims(name: str) -> set[str]:
        paths = (writer.output / (name + ending) for ending in writer.endings)
        return {os.path.abspath(path).casefold() for path in paths}

    taken = {os.path.abspath(photo.path).casefold() for photo in photos}
    stems = [os.path.splitext(photo.relative)[0] for photo in photos]
    wanted = collections.Counter(claim for stem in stems for claim in claims(stem))
    names = []
    for photo, stem in zip(photos, stems, strict=True):
        alone = all(wanted[claim] == 1 for claim in claims(stem))
        numbered = (f"{photo.relative}-{number}" for number in itertools.count(2))
        options = itertools.chain([stem] if alone else [], [photo.relative], numbered)
        name = next(name for name in options if not claims(name) & taken)
        taken |= claims(name)
        names.append(name)
    return names


def _read_manifest(output: pathlib.Path) -> list[dict[str, Any]]:
    path = output / MANIFEST
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["predictions"]
        if not all(isinstance(name, str) for entry in entries for name in entry["outputs"]):
            raise ValueError("outputs must be texts")
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise PredictError(f"{io.printable(output)} is a file; expected a folder") from None
    except (ValueError, KeyError, TypeError, OSError):
        raise PredictError(
            f"{io.printable(path)} is not a list of predictions; choose another output folder"
        ) from None
    return entries


def _write_manifest(
    output: pathlib.Path, known: list[dict[str, Any]], entries: list[dict[str, Any]]
) -> None:
    """List the new predictions and the old ones that they do not replace."""
    replaced = {path for entry in entries for path in entry["outputs"]}
    for entry in known:
        left = [path for path in entry["outputs"] if path not in replaced]
        if left:
            entries = [*entries, {**entry, "outputs": left}]
    content = json.dumps({"predictions": entries}, indent=1) + "\n"
    try:
        with io.atomic_write(output / MANIFEST) as file:
            file.write(content.encode("utf-8"))
    except OSError as error:
        raise PredictError(f"{io.printable(output / MANIFEST)}: {error.strerror}") from None
