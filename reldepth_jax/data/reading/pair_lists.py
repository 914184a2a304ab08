"""Lists of annotated point pairs: text with one pair a line, as Chen et al. (2016) wrote them.

A line `y_A,x_A,y_B,x_B,relation` has the rows and columns of two points, from 1, and `>` where the
first is farther, `<` where it is nearer, `=` where both are equally far. What such lines belong to
differs between data sets, whose readers are the callers.
"""

import array
import dataclasses
import io as streams
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Record, relative_name

FEW = 10
"""Defective lines that are left out of any list; of a long one, 1 %."""

_RELATIONS = {">": 1, "<": -1, "=": 0}


class Rejected(NamedTuple):
    """A line that was left out."""

    line: int
    """From 1."""
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class ListedRecords:
    """Images with annotated pairs; picklable, and compact where there are many."""

    own_images: ClassVar[bool] = True

    root: str
    """The names of records are relative to this folder."""
    paths: tuple[str, ...]
    """Where the images are."""
    pairs: Int32[np.ndarray, "pairs 5"]
    """Those of all images, in their order, as in `types.Sample`."""
    stops: Int64[np.ndarray, "images"]
    """Where the pairs of each image end in `pairs`."""
    sizes: Int32[np.ndarray, "images 2"] | None = None
    """Height and width of each image as the list states them."""
    rejected: tuple[Rejected, ...] = ()
    """Lines of the list that were left out."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        """Read one image; IndexError outside, UnreadableFile if it is not of the stated size."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        path = self.paths[index]
        image = io.read_bytes(path)
        if self.sizes is not None:
            check_size(image, path, (int(self.sizes[index, 0]), int(self.sizes[index, 1])))
        start = self.stops[index - 1] if index else 0
        return {
            "name": relative_name(path, self.root),
            "image": image,
            "maps": {},
            "pairs": self.pairs[start : self.stops[index]].copy(),
        }

    def places(self, index: int) -> dict[str, str]:
        """Return the path of the image."""
        return {"image": self.paths[index]}


class PairList:
    """What is read from one list, line by line.

    Coordinates with a fraction are rounded down. A defective line is left out and remembered;
    `records` refuses the list where there are many.
    """

    def __init__(self, listing: str, relations: str):
        """Begin the list at the path `listing`, with the relations that may occur in it."""
        self.listing = listing
        self.relations = relations
        self.rejected: list[Rejected] = []
        self._images: list[str] = []
        # Python's own numbers would need ten times the memory.
        self._sizes, self._values = array.array("i"), array.array("i")
        self._stops = array.array("q")
        self.if_swapped = self.if_from_zero = 0
        """Rejected lines that would be valid with x before y, or counted from 0."""

    def error(self, line: int, reason: str) -> DataError:
        """Return what to raise where nothing after `line` can be understood."""
        return DataError(f"{io.printable(self.listing)}:{line}: {reason}")

    def reject(self, line: int, reason: str) -> None:
        """Leave a line out."""
        self.rejected.append(Rejected(line, reason))

    def add_image(self, path: str, size: tuple[int, int]) -> None:
        """Begin the pairs of an image of this height and width; `path` as `inner_path` gave it."""
        self._images.append(path)
        self._sizes.extend(size)
        self._stops.append(len(self._values) // 5)

    def add_pair(self, fields: tuple[int, int, int, int, int]) -> None:
        """Add a pair, as `pair` gave it, to the last image."""
        self._values.extend(fields)
        self._stops[-1] += 1

    def pair(self, fields: Sequence[str], size: tuple[int, int]) -> tuple[int, int, int, int, int]:
        """Return rows and columns, from 0, and relation of a line; ValueError: what is wrong.

        Args:
          size: height and width of the image.
        """
        relation = fields[4].strip()[:1]
        if not relation or relation not in self.relations:
            known = " or ".join(self.relations)
            raise ValueError(f"relation {quoted(fields[4])}, expected {known}")
        row, column, other_row, other_column = points = [number(field) for field in fields[:4]]
        if not _within(points, *size, first=1):
            self.if_swapped += _within(points, size[1], size[0], first=1)
            self.if_from_zero += _within(points, *size, first=0)
            raise ValueError(
                f"({row}, {column}) or ({other_row}, {other_column}) lies outside the"
                f" {size[0]} rows and {size[1]} columns"
            )
        if row == other_row and column == other_column:
            raise ValueError(f"both points are ({row}, {column})")
        return row - 1, column - 1, other_row - 1, other_column - 1, _RELATIONS[relation]

    def records(self, root: pathlib.Path, base: pathlib.Path) -> ListedRecords:
        """Return what was read, for images below `base`, with names relative to `root`.

        Raises DataError with the first defective line if nothing else is left or if more than 1 %
        (at least `FEW`) are defective, or if no image can be found.
        """
        good, bad = len(self._values) // 5, len(self.rejected)
        if bad > max(FEW, (good + bad) // 100) or bad and not good:
            hint = ""
            if 2 * self.if_swapped > bad:
                hint = "; most would be valid with rows and columns swapped: y comes before x"
            elif 2 * self.if_from_zero > bad:
                hint = "; most would be valid if counted from 0: coordinates start at 1"
            first = self.rejected[0]
            raise self.error(
                first.line, f"{first.reason} ({bad} of {good + bad} pairs are defective{hint})"
            )
        if not good:
            raise DataError(f"{io.printable(self.listing)}: holds no annotated pair")
        return ListedRecords(
            root=os.fspath(root),
            paths=tuple(files.listed_paths(base, self._images, self.listing)),
            pairs=np.array(self._values, np.int32).reshape(-1, 5),
            stops=np.array(self._stops, np.int64),
            sizes=np.array(self._sizes, np.int32).reshape(-1, 2),
            rejected=tuple(self.rejected),
        )


def read_lines(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number (from 1) and the fields of each line of a text file that is not blank.

    Fields are separated by commas; empty ones at the end are dropped. The byte-order mark and
    either kind of line end are accepted. Raises DataError for a file that is no text,
    UnreadableFile for one that cannot be read.
    """
    data = io.read_bytes(path)
    position = data.find(0)
    if position >= 0:
        line = 1 + data.count(b"\n", 0, position)
        raise DataError(f"{io.printable(path)}:{line}: holds a NUL byte; this is not plain text")
    # File names need not be UTF-8.
    text = streams.TextIOWrapper(
        streams.BytesIO(data), "utf-8-sig", errors="surrogateescape", newline="\n"
    )
    for count, line in enumerate(text, 1):
        line = line.rstrip(", \t\r\n")
        if line:
            yield count, line.split(",")


def expected(count: int, fields: Sequence[str]) -> str:
    """Return the complaint about a line with another number of fields than `count`."""
    reason = f"expected {count} fields, got {len(fields)}"
    for separator in ";\t |":
        if len(fields) < count and ",".join(fields).count(separator) > 1:
            return f"{reason} - is the separator {separator!r}?"
    return reason


def quoted(text: str) -> str:
    """Return `text` for a message: in quotes, on one line, shortened."""
    return f"'{io.printable(text[:60])}{'…' if len(text) > 60 else ''}'"


def number(text: str) -> int:
    """Return the number, rounded down; ValueError that says so if it is none."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return math.floor(float(text))
    except (ValueError, OverflowError):
        raise ValueError(f"{quoted(text)} is not a number") from None


def inner_path(written: str) -> str:
    """Return a path of a list for `files.listed_paths`; ValueError if it leads out of the data."""
    path = written.strip().replace("\\", "/")
    if ".." in path and ".." in path.split("/"):
        raise ValueError(f"{quoted(written)} leads out of the data")
    # The file system could not even look for more; names are short where there are many.
    longest = max(map(len, map(os.fsencode, path.split("/")))) if len(path) > 63 else 63
    if not path or longest > 255 or len(path) > 1000:
        raise ValueError(f"{quoted(written)} is no path")
    return path


def check_size(data: bytes, path: str, size: tuple[int, int]) -> None:
    """Raise UnreadableFile if an encoded image has not the (height, width) that a list states.

    Only the header is read.
    """
    (height, width), orientation = io.read_header(data, path)
    if (height, width) != size:
        hint = f"; EXIF orientation {orientation}" if orientation != 1 else ""
        raise io.UnreadableFile(
            path, f"stored {width}x{height}; the list says {size[1]}x{size[0]}{hint}"
        )


def require_inside(size: tuple[int, int], pairs: Int32[np.ndarray, "n 5"], path: str) -> None:
    """Raise UnreadableFile if a point lies outside an image of this (height, width)."""
    height, width = size
    limits = np.array([height, width, height, width])
    outside = ((pairs[:, :4] < 0) | (pairs[:, :4] >= limits)).any(axis=1)
    if outside.any():
        row, column, other_row, other_column = pairs[outside][0, :4].tolist()
        raise io.UnreadableFile(
            path,
            f"has {height} rows and {width} columns, but annotations (counted from 0) at"
            f" ({row}, {column}) and ({other_row}, {other_column})",
        )


def _within(points: Sequence[int], height: int, width: int, *, first: int) -> bool:
    """Return whether both points lie in the image if its first row and column have this number."""
    row, column, other_row, other_column = points
    rows, columns = height + first, width + first
    return (
        first <= row < rows
        and first <= other_row < rows
        and first <= column < columns
        and first <= other_column < columns
    )
