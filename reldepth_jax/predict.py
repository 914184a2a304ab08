"""From photographs to score maps at their own size: in memory, and for files and folders."""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from rich import console, progress, text

import reldepth_jax
from reldepth_jax import visualise
from reldepth_jax.conventions import Polarity
from reldepth_jax.data import io
from reldepth_jax.data.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.metrics.confidence import PARTNERS, confidence_map

MANIFEST = "predictions.json"


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Scores an image of any size at that size; larger is farther.

    Each new size of the padded image compiles the network anew.
    """

    model_fn: Callable[
        [UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]],
        Float32[np.ndarray, "b h w"],
    ]
    """The network, for heights and widths that are multiples of 32 and for images of uint8 in
    0..255 or float32 in 0..1."""
    preprocessing: Preprocessing
    """How it is shown the image; what it was trained with is best."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        """Return the score at the size of the image."""
        height, width = image.shape[:2]
        return self.preprocessing.at_image_size(self.unresized(image), (height, width))

    def unresized(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the whole image at the size that the network saw."""
        network_image, (height, width) = self.preprocessing.network_image(image)
        scores = self.model_fn(network_image[None])
        return np.asarray(scores, np.float32)[0, :height, :width]


class PredictError(UserError):
    """A request that cannot be met as a whole, in one line."""


class Counts(NamedTuple):
    """How many photographs were predicted and how many could not be."""

    done: int
    failed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writer:
    """What is written for each photograph `name`.

    `name.png`: the score as 16-bit PNG, stretched over 0..65535 (a constant score gives 0).
    `name_color.png`: colours by rank, bright is near. On request `name.npy` and `name.pfm`: the
    score itself, float32. `larger_is` in the PNG text and in the manifest tells the sign. With a
    temperature `name_confidence.png`: `confidence_map`, 0.5 to 1 as gray 0 to 255.
    """

    output: pathlib.Path
    npy: bool = False
    pfm: bool = False
    polarity: Polarity = "depth"
    """`disparity` writes the negated score: larger is nearer. The colours stay the same."""
    temperature: float | None = None
    """Of the confidence, in units of the score."""
    run: str = ""
    """Run directory or file of the network, for the record."""
    step: int = 0
    """Training step of the network, for the record."""

    @property
    def endings(self) -> list[str]:
        """What is appended to the name of a photograph, for each of its files."""
        sure = self.temperature is not None
        return [
            ".png",
            "_color.png",
            *[".npy"] * self.npy,
            *[".pfm"] * self.pfm,
            *["_confidence.png"] * sure,
        ]

    def write(self, name: str, score: Float32[np.ndarray, "h w"]) -> dict[str, Any]:
        """Write the files of one photograph; return what the manifest says of them."""
        values = -score if self.polarity == "disparity" else score
        low, high = float(values.min()), float(values.max())
        facts = {
            "larger_is": "nearer" if self.polarity == "disparity" else "farther",
            "score_minimum": low,
            "score_maximum": high,
            "run": io.printable(self.run),
            "step": self.step,
        }
        notes = {"Software": f"reldepth_jax {reldepth_jax.__version__}"}
        notes |= {key: str(value) for key, value in facts.items()}
        base = self.output / name
        base.parent.mkdir(parents=True, exist_ok=True)
        unit = (values.astype(np.float64) - low) / ((high - low) or 1.0)
        io.write_png(f"{base}.png", np.round(65535 * unit).astype(np.uint16), notes)
        colors = {"Software": notes["Software"], "colors": "by rank; bright is near, dark is far"}
        io.write_png(f"{base}_color.png", visualise.colorize(score), colors)
        if self.npy:
            io.write_npy(f"{base}.npy", values)
        if self.pfm:
            io.write_pfm(f"{base}.pfm", values)
        if self.temperature is not None:
            facts |= {"temperature": self.temperature}
            gray = np.round(510 * (confidence_map(score, self.temperature) - 0.5)).astype(np.uint8)
            sure = {
                "Software": notes["Software"],
                "confidence": "gray 0 to 255 is 0.5 to 1: mean of max(p, 1 - p),"
                " p = sigmoid((z - z') / T), over the centres z' of"
                f" {PARTNERS}x{PARTNERS} cells",
                "temperature": str(self.temperature),
            }
            io.write_png(f"{base}_confidence.png", gray, sure)
        outputs = [name + ending for ending in self.endings]
        return {"outputs": outputs, "height": score.shape[0], "width": score.shape[1], **facts}


class _Photo(NamedTuple):
    path: pathlib.Path
    relative: str
    """Where it lies in the folder that was given, or its name."""


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> text.Text:
        return text.Text(f"{task.finished_speed or task.speed or 0:.1f} photos/s")


def predict_files(
    predictor: Callable[[np.ndarray], np.ndarray],
    inputs: Sequence[str | os.PathLike[str]],
    writer: Writer,
) -> Counts:
    """Predict photographs and folders of them (recursively), with a progress bar on stderr.

    A folder contributes the files with an image extension; its sub-folders are kept in the output,
    hidden files are left out. A file that is named is always tried. Each bad file is one line on
    stderr and the rest goes on. Photographs that would share an output get their extension into
    its name. `predictions.json` in the output folder lists what was written there, over repeated
    calls; files that it does not list are never overwritten.

    Raises PredictError if nothing is there to predict or the output folder cannot be used.
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
    screen = console.Console(stderr=True)
    bar = progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        _Rate(),
        progress.TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal,
    )
    named = list(zip(photos, _names(photos, writer), strict=True))
    try:
        with bar:
            for photo, name in bar.track(named):
                try:
                    entries.append(_predict_one(predictor, photo.path, name, writer, ours))
                except io.UnreadableFile as error:
                    screen.print(str(error), markup=False, highlight=False, soft_wrap=True)
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
            # A name that is too long to write is too long to remove, too.
            with contextlib.suppress(OSError):
                file.unlink()
        if not isinstance(error, OSError):
            raise
        reason = f"its prediction cannot be written: {error.strerror}"
        raise io.UnreadableFile(path, reason) from error


def _collect(inputs: Sequence[str | os.PathLike[str]], skip: set[str]) -> list[_Photo]:
    """List each photograph once; `skip` are earlier predictions, no photographs of a folder."""
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
    """List the new predictions and whatever of the old ones they have not replaced."""
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
