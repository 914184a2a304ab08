"""Which photograph and which map belong together, where people name them as they like.

A place is a folder, all of whose files count and share their paths without extension, or a pattern
with `*`: what the stars stand for is the name that the files of one sample share. A star stands for
any characters, slashes among them. A pattern without a known extension leaves the extension open.
"""

import collections
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Set
from typing import NamedTuple

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.listing import describe, listing


class Place(NamedTuple):
    """Where the files of one kind are."""

    folder: pathlib.Path
    pattern: str
    """Of the paths below `folder`; empty: all."""

    @classmethod
    def of(cls, root: pathlib.Path, text: str) -> "Place":
        """Return the place that `text` names below `root`."""
        if "*" not in text:
            return cls(root / text, "")
        folder, slash, _ = text[: text.index("*")].rpartition("/")
        return cls(root / folder, text[len(folder + slash) :])

    def find(self, suffixes: Set[str], other: "Place") -> dict[str, str]:
        """Return path by shared name; DataError if two files have one name."""
        if not self.pattern:
            inside = other.folder if other.folder != self.folder else None
            try:
                return _composed(files.find(self.folder, suffixes, inside))
            except DataError as error:
                hint = "a pattern with an extension takes one kind, e.g. maps='depth/*.npy'"
                raise DataError(f"{error}; {hint}") from None
        whole = os.path.splitext(self.pattern)[1].lower() in suffixes
        matches = re.compile("(.*)".join(map(re.escape, self.pattern.split("*"))), re.DOTALL)
        found: dict[str, str] = {}
        for inside in listing(self.folder, suffixes).paths:
            match = matches.fullmatch(inside if whole else os.path.splitext(inside)[0])
            if match is None:
                continue
            name, path = " … ".join(match.groups()), os.path.join(self.folder, inside)
            if name in found:
                raise DataError(
                    f"two files have one name: {io.printable(found[name])}, {io.printable(path)}"
                )
            found[name] = path
        return _composed(found)


_READ = io.IMAGE_SUFFIXES | io.MAP_SUFFIXES


def find(
    root: pathlib.Path, images: str, maps: str, seconds: float = 0.0
) -> list[tuple[str, str, str]]:
    """Return name, photograph and map of every sample, sorted by name.

    Args:
      images, maps: places below `root`.
      seconds: greater than 0, names are times in seconds; see `nearest_in_time`.

    Raises DataError: a place that is no folder, both the same, files without partner, none at all.
    """
    places = {"images": Place.of(root, images), "maps": Place.of(root, maps)}
    for option, place in places.items():
        if not place.folder.is_dir():
            raise DataError(
                f"folder: {io.printable(place.folder)} is no folder (root, {option})"
                f"{files.home_hint(place.folder)}"
            )
    one, other = places.values()
    if one.folder.resolve() == other.folder.resolve() and one.pattern == other.pattern:
        raise DataError(
            f"folder: images and maps are the same, {io.printable(root)}; files that lie together"
            " are told apart by patterns, e.g. images='*_color.png', maps='*_depth.png'"
        )
    photographs = one.find(io.IMAGE_SUFFIXES, other)
    found = {"photographs": photographs, "maps": other.find(io.MAP_SUFFIXES, one)}
    if seconds > 0:
        return nearest_in_time(root, photographs, found["maps"], seconds)
    try:
        names = files.common_names(root, found)
    except DataError as error:
        hint = "" if set.intersection(*map(set, found.values())) else _hint(root, found)
        # Often the partners are there, in a format that is not read.
        others = [(place.folder, listing(place.folder, _READ).left_out) for place in (one, other)]
        lines = {f"; {io.printable(folder)}: {describe(left)}" for folder, left in others if left}
        raise DataError(f"{error}{hint}{''.join(sorted(lines))}") from None
    return [(name, found["photographs"][name], found["maps"][name]) for name in names]


def nearest_in_time(
    root: pathlib.Path, images: Mapping[str, str], maps: Mapping[str, str], seconds: float
) -> list[tuple[str, str, str]]:
    """Return the photographs with the map nearest in time, at most `seconds` apart, in order.

    Names are times in seconds. No map belongs to two photographs: the closest pairs come first.
    Photographs and maps without partner are left out.
    """
    times = [sorted((_time(name, path), name) for name, path in p.items()) for p in (images, maps)]
    close = []
    start = 0
    for time, name in times[0]:
        while start < len(times[1]) and times[1][start][0] < time - seconds:
            start += 1
        for other_time, other in times[1][start:]:
            if other_time > time + seconds:
                break
            close.append((abs(other_time - time), time, name, other))
    taken: set[tuple[str, str]] = set()
    pairs = []
    for _, time, name, other in sorted(close):
        if ("image", name) not in taken and ("map", other) not in taken:
            taken |= {("image", name), ("map", other)}
            pairs.append((time, name, images[name], maps[other]))
    if not pairs:
        raise DataError(
            f"{io.printable(root)}: no photograph has a map within {seconds:g} s"
            f" ({len(images)} photographs, {len(maps)} maps)"
        )
    return [(name, image, its_map) for _, name, image, its_map in sorted(pairs)]


def left_out(
    root: pathlib.Path, images: str, maps: str, taken: list[tuple[str, str, str]]
) -> list[str]:
    """Return a line for each folder of which files are not among those `taken`, with what they are.

    Hidden files do not count.
    """
    used = {os.path.realpath(path) for _, *paths in taken for path in paths}
    lines = []
    for folder in dict.fromkeys(Place.of(root, each).folder for each in (images, maps)):
        found = listing(folder, _READ)
        others: collections.Counter[str] = collections.Counter(found.left_out)
        for path in found.paths:
            if os.path.realpath(folder / path) not in used:
                others[os.path.splitext(path)[1].lower()] += 1
        if others:
            lines.append(f"{io.printable(folder)}: {describe(others)}")
    return lines


def _composed(found: dict[str, str]) -> dict[str, str]:
    """Return path by name with accents as single characters: macOS writes them as two."""
    composed = {unicodedata.normalize("NFC", name): path for name, path in found.items()}
    return composed if len(composed) == len(found) else found


def _time(name: str, path: str) -> float:
    try:
        return float(name)
    except ValueError:
        raise DataError(
            f"{io.printable(path)}: {io.printable(name)!r} is no time in seconds (folder, seconds)"
        ) from None


def _hint(root: pathlib.Path, found: Mapping[str, Mapping[str, str]]) -> str:
    """Return an example of each kind, and patterns under which names agree, if there are any."""
    if not all(found.values()):
        return ""
    relative = {
        kind: sorted(pathlib.PurePath(os.path.relpath(p, root)).as_posix() for p in paths.values())
        for kind, paths in found.items()
    }
    examples = " and ".join(io.printable(paths[0]) for paths in relative.values())
    patterns = [_pattern(paths) for paths in relative.values()]
    names = []
    for pattern, paths in zip(patterns, relative.values(), strict=True):
        start, _, end = pattern.partition("*")
        names.append({path[len(start) : len(path) - len(end)] for path in paths})
    hint = f"; the first are {examples}; what their names share can be given as a pattern"
    if (names[0] & names[1]) - {""} and all(len(paths) > 1 for paths in relative.values()):
        options = zip(("images", "maps"), patterns, strict=True)
        words = " ".join(f"--config.data.source.{name}='{each}'" for name, each in options)
        return f"{hint}: {io.printable(words)}"
    return f"{hint}, e.g. --config.data.source.images='rgb/rgb_*'"


def _pattern(paths: list[str]) -> str:
    """Return what sorted paths have in common, a star for the rest, no digit at its borders."""
    start = os.path.commonprefix(paths)
    end = os.path.commonprefix([path[len(start) :][::-1] for path in paths])[::-1]
    return start.rstrip("0123456789") + "*" + end.lstrip("0123456789")
