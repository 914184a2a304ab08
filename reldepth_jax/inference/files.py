"""Predicting photographs and folders of them."""

import collections
import contextlib
import functools
import itertools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from reldepth_jax import runtime
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.listing import describe, listing
from reldepth_jax.errors import UserError, out_of_memory
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import MANIFEST, Book, OutputError, Photo, PredictError
from reldepth_jax.inference.writer import Writer, is_prediction

__all__ = ["MANIFEST", "Counts", "PredictError", "Writer", "predict_files"]


_GIVE_BACK = 1 << 22
"""After so many pixels memory is given back: after each large photograph, but not after each small
one, for which it would only be taken again."""


class Counts(NamedTuple):
    """How many photographs were predicted, could not be, and had been before."""

    done: int
    failed: int
    there: int = 0


class _Found(NamedTuple):
    path: pathlib.Path
    relative: str
    """Its path in the folder that was given, or its name."""


def predict_files(
    predictor: Callable[[np.ndarray], np.ndarray],
    inputs: Sequence[str | os.PathLike[str]],
    writer: Writer,
    progress: Callable[[int, int], None] = lambda done, total: None,
    max_pixels: int = io.MAX_PIXELS,
) -> Counts:
    """Predict photographs and folders of them (recursively, links followed).

    A folder contributes the files with an image extension; its sub-folders are kept in the output,
    hidden files and earlier outputs are left out, and a line on stderr counts what else is, films
    too (`film.predicting`). A file
    that is named is always tried. Each file that cannot be predicted is one line on stderr; the
    others are predicted. The output of photographs that would share a name keeps their extensions.
    `bookkeeping` says how repeated and simultaneous calls go together: a photograph that an earlier
    call has predicted in the same way is not predicted again.

    Args:
      predictor: uint8 RGB (h, w, 3) -> float32 score (h, w), which grows with distance.
      progress: called with (photographs done, photographs in all).
      max_pixels: of a photograph that is tried.

    Raises PredictError if there is nothing to predict or the output folder cannot be used,
    OutputError (one) when it is full.
    """
    found, left_out = _collect(inputs, writer)
    if not found:
        raise PredictError(
            f"no images in {', '.join(io.printable(path) for path in inputs)};"
            f" {''.join(f'{line}; ' for line in left_out.values())}"
            f"known extensions: {' '.join(sorted(io.IMAGE_SUFFIXES))}"
        )
    for folder, line in left_out.items():
        print(f"{io.printable(folder)}: {line}", file=sys.stderr)
    photos = _photos(found, writer)
    counts, waiting = collections.Counter[str](), 0
    with bookkeeping.opened(writer.output, writer.settings, writer.endings) as book:
        for number, photo in enumerate(photos, 1):
            try:
                done, pixels = _predict(predictor, photo, writer, book, max_pixels)
            except Exception as error:
                if not isinstance(error, io.UnreadableFile) and not out_of_memory(error):
                    raise
                print(_told(error, photo.path, predictor), file=sys.stderr)
                done, pixels = "failed", _GIVE_BACK + 1
            counts[done] += 1
            waiting += pixels
            if waiting > _GIVE_BACK:
                runtime.give_back()
                waiting = 0
            progress(number, len(photos))
    return Counts(counts["done"], counts["failed"], counts["there"])


def _predict(
    predictor: Callable[[np.ndarray], np.ndarray],
    photo: Photo,
    writer: Writer,
    book: Book,
    max_pixels: int,
) -> tuple[str, int]:
    """Predict a photograph unless that has been done; return "done" or "there" and its pixels."""
    try:
        if book.done(photo):
            return "there", 0
        book.choose(photo)
        if photo.path.suffix.lower() == ".png" and is_prediction(photo.path):
            raise io.UnreadableFile(photo.path, "was predicted here: it is no photograph")
        image = io.read_image(photo.path, max_pixels)
        score = predictor(image)
        if not np.isfinite(score).all():
            raise io.UnreadableFile(photo.path, "the network's score is not finite")
        name = _begin(book, photo, writer)
    except bookkeeping.Taken as taken:
        raise io.UnreadableFile(photo.path, str(taken)) from None
    if name is None:
        return "there", 0
    files = [writer.output / (name + ending) for ending in writer.endings]
    new = [file for file in files if not os.path.lexists(file)]
    try:
        book.finish(photo, writer.write(name, score, image))
    except BaseException as error:
        for file in new:
            # A name that is too long to write is also too long to remove.
            with contextlib.suppress(OSError):
                file.unlink()
        if isinstance(error, UserError):
            raise io.UnreadableFile(photo.path, str(error)) from None
        if not isinstance(error, OSError):
            raise
        if error.errno in bookkeeping.FULL:
            raise OutputError(bookkeeping.unwritable(writer.output, error)) from error
        reason = f"its prediction cannot be written: {error.strerror or error}"
        raise io.UnreadableFile(photo.path, reason) from error
    return "done", score.size


def _begin(book: Book, photo: Photo, writer: Writer) -> str | None:
    try:
        return book.begin(photo)
    except OSError as error:
        raise OutputError(bookkeeping.unwritable(writer.output, error)) from error


def _told(error: Exception, path: pathlib.Path, predictor: object) -> str:
    """Return the line of a photograph that could not be predicted."""
    if isinstance(error, io.UnreadableFile):
        return str(error)
    advice = "reduce the photograph"
    preprocessing = getattr(predictor, "preprocessing", None)
    if preprocessing is not None:
        unit = preprocessing.multiple
        smaller = preprocessing.size // 2 // unit * unit
        advice += f" or, if it is the network's, try --image-size {smaller}" if smaller else ""
    return f"{io.printable(path)}: memory is exhausted; {advice}"


class _Earlier:
    """Tells the outputs of earlier calls, in whatever folders they lie."""

    def __init__(self, folder: pathlib.Path):
        self._outputs = bookkeeping.outputs_in(folder)
        self._seen: set[str] = set()

    def look_above(self, folder: pathlib.Path) -> None:
        """Take in what was predicted into the folders that `folder` lies in."""
        for parent in folder.absolute().parents:
            self._look(os.fspath(parent))

    def __call__(self, parent: str, name: str) -> bool:
        """Return whether the file `name` of a folder is one; folders come before what they hold."""
        self._look(parent)
        return name == MANIFEST or os.path.abspath(os.path.join(parent, name)) in self._outputs

    def _look(self, folder: str) -> None:
        if folder not in self._seen:
            self._seen.add(folder)
            if os.path.lexists(os.path.join(folder, MANIFEST)):
                self._outputs |= bookkeeping.outputs_in(folder)


def _collect(
    inputs: Sequence[str | os.PathLike[str]], writer: Writer
) -> tuple[list[_Found], dict[pathlib.Path, str]]:
    """List each photograph once; by folder, say how many of its files are none."""
    found: dict[str, _Found] = {}
    left_out: dict[pathlib.Path, str] = {}
    earlier = _Earlier(writer.output)
    for start in map(pathlib.Path, inputs):
        inside = [_Found(start, start.name)]
        if start.is_dir():
            earlier.look_above(start)
            listed = listing(start, io.IMAGE_SUFFIXES, skip=earlier)
            inside = [_Found(start / relative, relative) for relative in listed.paths]
            if listed.left_out:
                left_out[start] = describe(listed.left_out)
                if io.FILM_SUFFIXES & listed.left_out.keys():
                    left_out[start] += "; a film is predicted if it is named"
        for photo in inside:
            found.setdefault(os.path.abspath(photo.path), photo)
    return list(found.values()), left_out


def _photos(found: list[_Found], writer: Writer) -> list[Photo]:
    """Give each photograph the names that its outputs may have.

    Without extension, with it, or with a number; compared without case, as some file systems do,
    and never the name of an input.
    """

    def claims(name: str) -> set[str]:
        paths = (writer.output / (name + ending) for ending in writer.endings)
        return {os.path.abspath(path).casefold() for path in paths}

    inputs = {os.path.abspath(photo.path).casefold() for photo in found}
    stems = [os.path.splitext(photo.relative)[0] for photo in found]
    wanted = collections.Counter(claim for stem in stems for claim in claims(stem))

    def names(photo: _Found, stem: str) -> Iterator[str]:
        alone = all(wanted[claim] == 1 for claim in claims(stem))
        numbered = (f"{photo.relative}-{number}" for number in itertools.count(2))
        options = itertools.chain([stem] if alone else [], [photo.relative], numbered)
        return (name for name in options if not claims(name) & inputs)

    return [
        Photo(photo.path, functools.partial(names, photo, stem))
        for photo, stem in zip(found, stems, strict=True)
    ]
