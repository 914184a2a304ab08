"""Predicting photographs and folders of them."""

import collections
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from reldepth_jax import runtime
from reldepth_jax.data.images import io
from reldepth_jax.errors import UserError, out_of_memory
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import MANIFEST, Book, OutputError, Photo, PredictError
from reldepth_jax.inference.inputs import WHOLE, Photographs, Shard, photographs
from reldepth_jax.inference.writer import Writer, is_prediction

__all__ = ["MANIFEST", "Counts", "PredictError", "Writer", "predict_files"]


Outcome = Literal["done", "failed", "there"]
Progress = Callable[[int, int], None]
_MANY = 8
"""Shapes of images, each of which has compiled for seconds, after which a line says so."""
_GIVE_BACK = 1 << 22
"""After so many pixels memory is given back: after each large photograph, but not after each small
one, for which it would only be taken again."""


class Counts(NamedTuple):
    """How many photographs were predicted, could not be, and had been before."""

    done: int
    failed: int
    there: int = 0


def predict_files(
    predictor: Callable[[np.ndarray], np.ndarray],
    inputs: Sequence[str | os.PathLike[str]],
    writer: Writer,
    progress: Progress = lambda done, total: None,
    max_pixels: int = io.MAX_PIXELS,
    *,
    lists: Sequence[str | os.PathLike[str]] = (),
    shard: Shard = WHOLE,
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
      lists: of photographs; see `inputs.photographs`. The folders of a line are kept in the output.
      shard: of the photographs, the part that this call predicts.

    Raises PredictError if there is nothing to predict or the output folder cannot be used,
    OutputError (one) when it is full.
    """
    chosen = photographs(inputs, lists, writer, shard)
    return predict_chosen(predictor, chosen, writer, progress, max_pixels)


def predict_chosen(
    predictor: Callable[[np.ndarray], np.ndarray],
    chosen: Photographs,
    writer: Writer,
    progress: Progress,
    max_pixels: int,
) -> Counts:
    """Predict photographs that are found already; otherwise as `predict_files`."""
    counts = collections.Counter[str]()
    with bookkeeping.opened(writer.output, writer.settings, writer.endings) as book:
        predict = Job(predictor, writer, book, max_pixels)
        for number, photo in enumerate(chosen.photos(writer), 1):
            outcome, line = predict(photo)
            if line:
                print(line, file=sys.stderr)
            counts[outcome] += 1
            progress(number, len(chosen.named))
    return Counts(counts["done"], counts["failed"], counts["there"])


class Job:
    """Predicts photographs into a folder, whose book it is given, and gives memory back."""

    def __init__(
        self,
        predictor: Callable[[np.ndarray], np.ndarray],
        writer: Writer,
        book: Book,
        max_pixels: int,
    ):
        """See `predict_files`."""
        self._predictor, self._writer, self._book = predictor, writer, book
        self._max_pixels, self._pixels = max_pixels, 0
        self._shapes: set[tuple[int, int]] = set()

    def __call__(self, photo: Photo) -> tuple[Outcome, str]:
        """Predict a photograph unless that has been done; return what came of it, and a line.

        The line says why it failed, or what the user should know by now; it is mostly empty.

        Raises OutputError if nothing can be written.
        """
        line = ""
        try:
            outcome, (height, width) = _predict(
                self._predictor, photo, self._writer, self._book, self._max_pixels
            )
            pixels = height * width
            if outcome == "done":
                line = self._of_shapes((height, width))
        except Exception as error:
            if not isinstance(error, io.UnreadableFile) and not out_of_memory(error):
                raise
            line = _told(error, photo.path, self._predictor)
            outcome, pixels = "failed", _GIVE_BACK + 1
        self._pixels += pixels
        if self._pixels > _GIVE_BACK:
            runtime.give_back()
            self._pixels = 0
        return outcome, line

    def _of_shapes(self, size: tuple[int, int]) -> str:
        """Return a line when the photographs have had `_MANY` shapes and may have more."""
        preprocessing = getattr(self._predictor, "preprocessing", None)
        if preprocessing is None or preprocessing.shapes == "standard":
            return ""
        shape = preprocessing.input_size(size)
        if shape in self._shapes:
            return ""
        self._shapes.add(shape)
        if len(self._shapes) != _MANY:
            return ""
        return (
            f"{_MANY} shapes of images so far, for each of which the network is compiled;"
            " --standard-shapes compiles 17 at most, and changes the result a little"
        )


def _predict(
    predictor: Callable[[np.ndarray], np.ndarray],
    photo: Photo,
    writer: Writer,
    book: Book,
    max_pixels: int,
) -> tuple[Outcome, tuple[int, int]]:
    """Predict a photograph unless that has been done; return "done" or "there" and its size."""
    try:
        if book.done(photo):
            return "there", (0, 0)
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
        return "there", (0, 0)
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
    return "done", (score.shape[0], score.shape[1])


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
