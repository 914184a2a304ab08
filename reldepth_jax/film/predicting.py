"""Predicting films: piece by piece, so that a kill costs the piece that it fell into.

Beside the output, in `.NAME_depth.film/`, lie pieces of `PIECE` encoded frames, each with what the
next one needs of the frames before it. The next call with the same film and settings goes on after
the last complete piece. The film is joined from them when all are there; only then has it its name,
and the folder is removed.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

import reldepth_jax
from reldepth_jax.data.images import io, pictures
from reldepth_jax.data.images.decoding import MAX_PIXELS
from reldepth_jax.film import encoding, reading
from reldepth_jax.film.steady import Memory, Steadied, Steady
from reldepth_jax.inference import bookkeeping
from reldepth_jax.inference.bookkeeping import Book, OutputError, Photo
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.inference.writer import SOFTWARE, is_prediction, stretched
from reldepth_jax.types import LARGER_IS, Polarity, with_polarity

PIECE = 100
"""Frames of a piece."""
LEVELS = 8.0
"""16-bit maps without a unit span this many mean deviations to either side of the median."""
_SETTINGS = "settings.json"

Report = Callable[[int, int, str], None]
"""Called with frames done, frames in all as far as known, and the name of the film."""


class Done(NamedTuple):
    """What was predicted of a film."""

    output: pathlib.Path
    frames: int = 0
    cuts: int = 0
    undecodable: int = 0
    """Damaged packets that were left out."""
    rate: float = 0.0
    """Frames a second, of those that this call predicted; 0: none."""
    there: bool = False
    """Whether an earlier call had done it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilmWriter:
    """Writes what is made of each film `name`.

    `name_depth.mp4`: the film and its maps in colours beside it, bright is near. On request a
    folder `name_frames` with the map of each frame, numbered from 000001: 16-bit PNG, or NPZ with
    `values` (float32, at the size of the film) and `seconds`. Their text and `larger_is` say what
    they hold.
    """

    output: pathlib.Path
    alone: bool = False
    """The maps without the original."""
    smooth: bool = True
    """As `steady` says; else each frame by itself: colours by rank, values as the network's."""
    frames: Literal["png", "npz"] | None = None
    polarity: Polarity = "depth"
    """Sign of the values written; the colours stay the same."""
    largest: float = 0.0
    """Metres that a network gives at most; 0: it has no unit."""
    made_by: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Whatever else decides the result, for the manifest."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the entries of all films have in common."""
        return {
            "larger_is": LARGER_IS[self.polarity],
            "alone": self.alone,
            "smooth": self.smooth,
            "frames": self.frames or "",
            **self.made_by,
            "version": reldepth_jax.__version__,
        }

    def endings(self, film: str | os.PathLike[str]) -> list[str]:
        """Return what is appended to the name of a film, for its files."""
        maps = ["_frames/"] if self.frames else []
        return [f"_depth{encoding.ending(film)}", *maps]

    def write_frame(
        self, folder: pathlib.Path, number: int, values: Float32[np.ndarray, "h w"], seconds: float
    ) -> None:
        """Write the map of a frame; `values` grow with distance."""
        values = with_polarity(values, self.polarity)
        path = folder / f"{number + 1:06}.{self.frames}"
        if self.frames == "npz":
            with io.atomic_write(path) as file:
                np.savez_compressed(file, values=values, seconds=np.float64(seconds))
            return
        low, high, unit = float(values.min()), float(values.max()), "score"
        if self.largest:
            low, high, unit = 0.0, self.largest, "metres"
        elif self.smooth:
            low, high, unit = -LEVELS, LEVELS, "mean deviations from the median of the frame"
        if self.largest and self.polarity == "disparity":
            low, high = -high, -low
        notes = {
            "Software": f"{SOFTWARE} {reldepth_jax.__version__}",
            "larger_is": LARGER_IS[self.polarity],
            "0": f"{low:g} {unit}",
            "65535": f"{high:g} {unit}",
            "seconds": f"{seconds:.6f}",
        }
        io.write_png(path, stretched(np.clip(values, low, high), low, high), notes)


def predict_film(
    predictor: Predictor,
    path: str | os.PathLike[str],
    writer: FilmWriter,
    report: Report = lambda done, total, name: None,
    max_pixels: int = MAX_PIXELS,
) -> Done:
    """Predict a film unless that has been done, after what an interrupted call has done of it.

    Raises UnreadableFile for a film that cannot be read or whose output is in the way, UserError
    without PyAV, OutputError if the output folder is full or cannot be written to.
    """
    reading.library()
    from av.error import FFmpegError

    path = pathlib.Path(path)
    with reading.opened(path, max_pixels) as film:
        endings = writer.endings(path)
        photo = Photo(path, functools.partial(_names, path))
        with bookkeeping.opened(writer.output, writer.settings, endings) as book:
            try:
                name = book.choose(photo)
                if writer.frames and book.done(photo) and not _all_maps(writer, name, book, photo):
                    # Without it the film is not done.
                    (writer.output / (name + endings[0])).unlink()
                there = book.done(photo) or book.begin(photo) is None
            except bookkeeping.Taken as taken:
                raise io.UnreadableFile(path, str(taken)) from None
            if there:
                return Done(writer.output / (name + endings[0]), there=True)
            try:
                return _predict(predictor, film, photo, name, writer, book, endings, report)
            except (OSError, FFmpegError) as error:
                refused = OSError(error.errno or 0, error.strerror or str(error))
                raise OutputError(bookkeeping.unwritable(writer.output, refused)) from error


def _predict(
    predictor: Predictor,
    film: reading.Film,
    photo: Photo,
    name: str,
    writer: FilmWriter,
    book: Book,
    endings: Sequence[str],
    report: Report,
) -> Done:
    output = writer.output / (name + endings[0])
    folder = output.parent / f".{output.stem}.film"
    maps = writer.output / f"{name}_frames"
    with contextlib.ExitStack() as stack:
        pieces = stack.enter_context(_Pieces.taken(folder, photo, writer.settings))
        stack.enter_context(_nothing_left_of_a_bad_film(pieces, maps, writer))
        state = pieces.last
        if writer.frames:
            _make_folder(maps, photo)
            if not state.frames:
                _remove_maps(maps, writer)  # of an earlier film of that name
        steady = Steady(metric=bool(writer.largest), memory=state.memory)
        started, begun, cuts = time.monotonic(), state.frames, state.cuts
        frames = enumerate(film.frames())
        for number, _ in itertools.islice(frames, begun):
            report(number + 1, max(film.expected, begun), photo.path.name)
        count, size = begun, None
        while first := next(frames, None):
            aspect = film.pixel_aspect(first[1].turned)
            with encoding.piece(pieces.next, film.time_base, aspect) as piece:
                # Not as a list: a hundred frames of 4K are gigabytes.
                for number, frame in itertools.chain([first], itertools.islice(frames, PIECE - 1)):
                    pixels = frame.pixels()
                    size = size or pixels.shape[:2]
                    if pixels.shape[:2] != size:
                        raise io.UnreadableFile(photo.path, f"frame {number} has another size")
                    found = _mapped(predictor, steady, pixels, photo.path, writer.smooth)
                    cuts += found.cut
                    piece.add(_shown(pixels, found, predictor, writer), frame.pts)
                    if writer.frames:
                        values = predictor.preprocessing.at_image_size(found.values, size)
                        seconds = float(frame.pts * film.time_base)
                        writer.write_frame(maps, number, values, seconds)
                    count = number + 1
                    report(count, max(film.expected, count), photo.path.name)
            pieces.add(_State(count, cuts, steady.memory))
        if not count:
            raise io.UnreadableFile(photo.path, "is no film: none of its frames can be decoded")
        notes = {"comment": f"{SOFTWARE} {reldepth_jax.__version__}: bright is near, dark is far"}
        encoding.join(pieces.paths, photo.path, output, notes)
        facts = {"frame_count": count, "cuts": cuts, "undecodable": film.undecodable}
        outputs = [name + ending for ending in endings]
        book.finish(photo, {"outputs": outputs, **facts, **writer.settings})
        pieces.remove()
    seconds = time.monotonic() - started
    return Done(output, count, cuts, film.undecodable, (count - begun) / seconds)


def _make_folder(maps: pathlib.Path, photo: Photo) -> None:
    try:
        maps.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        reason = f"{io.printable(maps)} is in the way; choose another output folder"
        raise io.UnreadableFile(photo.path, reason) from None


def _maps(folder: pathlib.Path, writer: FilmWriter) -> list[pathlib.Path]:
    """Return the maps of frames that are there, in any order."""
    return [path for path in folder.glob(f"*.{writer.frames}") if path.stem.isdecimal()]


def _all_maps(writer: FilmWriter, name: str, book: Book, photo: Photo) -> bool:
    """Return whether the map of every frame of a film that is done is still there."""
    there = {int(path.stem) for path in _maps(writer.output / f"{name}_frames", writer)}
    return there.issuperset(range(1, int(book.facts(photo).get("frame_count", 0)) + 1))


def _remove_maps(folder: pathlib.Path, writer: FilmWriter) -> None:
    for path in filter(is_prediction, _maps(folder, writer)):
        path.unlink()


@contextlib.contextmanager
def _nothing_left_of_a_bad_film(
    pieces: "_Pieces", maps: pathlib.Path, writer: FilmWriter
) -> Iterator[None]:
    """Remove what was made of a film that turns out to be none: no call could go on with it."""
    try:
        yield
    except io.UnreadableFile:
        pieces.remove()
        if maps.is_dir():
            _remove_maps(maps, writer)
            with contextlib.suppress(OSError):
                maps.rmdir()  # unless something else lies there
        raise


def _names(path: pathlib.Path) -> Iterator[str]:
    yield path.stem
    yield path.name
    yield from (f"{path.name}-{number}" for number in itertools.count(2))


def _mapped(
    predictor: Predictor,
    steady: Steady,
    pixels: UInt8[np.ndarray, "h w 3"],
    path: pathlib.Path,
    smooth: bool,
) -> Steadied:
    """Return the map of a frame at the size that the network saw."""
    prepared = predictor.prepared(pixels)
    (score,) = predictor.at_network_size([prepared])
    if not np.isfinite(score).all():
        raise io.UnreadableFile(path, "the network's score is not finite")
    if not smooth:
        return Steadied(score, score, False)
    height, width = prepared.shown
    return steady(prepared.image[:height, :width], score)


def _shown(
    pixels: UInt8[np.ndarray, "h w 3"], found: Steadied, predictor: Predictor, writer: FilmWriter
) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return the frame of the output, its sides made even by repeating the last row and column."""
    size = pixels.shape[0], pixels.shape[1]
    position = predictor.preprocessing.at_image_size(found.position, size)
    colors = pictures.colors_at(position) if writer.smooth else pictures.colorize(position)
    frame = colors if writer.alone else np.concatenate([pixels, colors], axis=1)
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class _State(NamedTuple):
    """What is known after a piece."""

    frames: int = 0
    cuts: int = 0
    memory: Memory | None = None


class _Pieces:
    """The pieces of a film in their folder."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self.paths: list[pathlib.Path] = []
        """Of the complete pieces, in order."""
        self.last = _State()
        """After the last of them."""

    @classmethod
    @contextlib.contextmanager
    def taken(
        cls, folder: pathlib.Path, photo: Photo, settings: Mapping[str, Any]
    ) -> Iterator["_Pieces"]:
        """Take the folder for this process; what was made of another file is removed.

        Raises UnreadableFile if another process has it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "wb") as file:
            if not bookkeeping.lock(file, "LOCK_EX", wait=False):
                raise io.UnreadableFile(photo.path, "is being predicted by another process")
            made_of = {"input": photo.key, **bookkeeping.stamp(photo.path), **settings}
            text = json.dumps(made_of, sort_keys=True)
            written = folder / _SETTINGS
            if not (written.exists() and written.read_text(encoding="utf-8") == text):
                for each in folder.glob("*.n*"):
                    each.unlink()
                with io.atomic_write(written) as out:
                    out.write(text.encode())
            for each in folder.glob(".*.tmp"):
                each.unlink()
            pieces = cls(folder)
            pieces._read()
            yield pieces

    @property
    def next(self) -> pathlib.Path:
        """Where the next piece is written."""
        return self._folder / f"{len(self.paths):06}.nut"

    def add(self, state: _State) -> None:
        """Note that the next piece is complete, and what is known after it."""
        memory = {} if state.memory is None else state.memory._asdict()
        facts = [state.frames, state.cuts, self.next.stat().st_size]
        with io.atomic_write(self.next.with_suffix(".npz")) as file:
            np.savez(file, facts=np.array(facts, np.int64), **memory)
        self.paths.append(self.next)
        self.last = state

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self) -> None:
        while (path := self.next).exists():
            try:
                with (
                    open(path.with_suffix(".npz"), "rb") as file,
                    np.load(file, allow_pickle=False) as held,
                ):
                    frames, cuts, size = map(int, held["facts"])
                    known = "grey" in held.files
                    memory = Memory(*(held[key] for key in Memory._fields)) if known else None
            except (OSError, ValueError, KeyError, zipfile.BadZipFile):
                return  # what a kill or a full disk left
            if path.stat().st_size != size:
                return
            self.paths.append(path)
            self.last = _State(frames, cuts, memory)
