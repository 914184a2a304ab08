"""Finding the files of a data set, and saying in one line what is wrong with it."""

import os
import pathlib
from collections.abc import Mapping, Sequence, Set

import numpy as np
from jaxtyping import Shaped

from reldepth_jax.data.images import geometry, io
from reldepth_jax.data.reading.listing import listing
from reldepth_jax.errors import UserError

_ASPECT_TOLERANCE = 0.02
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")


class DataError(UserError):
    """A data set that cannot be used as it is described, in one line."""


class UndeclaredValues(io.UnreadableFile):
    """A map with finite values of which nothing says what they mean."""


def require_folder(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """Return `path` if it is a folder; DataError that says what it should be if it is not."""
    folder = pathlib.Path(path)
    if not os.fspath(path):
        raise DataError(f"{what}: root is not set; give the folder of the data set")
    if folder.is_file() and folder.suffix.lower() in ARCHIVES:
        raise DataError(f"{what}: {io.printable(folder)} is an archive; extract it first")
    if not folder.is_dir():
        raise DataError(f"{what}: {io.printable(folder)} is no folder{home_hint(folder)}")
    return folder


def home_hint(folder: pathlib.Path) -> str:
    """Return what to write for a tilde that no shell has replaced; empty without one."""
    if not os.fspath(folder).startswith("~"):
        return ""
    return f"; ~ is not replaced in options, write {io.printable(folder.expanduser())}"


def find(
    folder: pathlib.Path, suffixes: Set[str], other: pathlib.Path | None = None
) -> dict[str, str]:
    """Return path by name (relative, without extension) of the files below, but not in `other`.

    DataError if two files have one name.
    """
    found: dict[str, str] = {}
    for inside in listing(folder, suffixes, other).paths:
        name, path = os.path.splitext(inside)[0], os.path.join(folder, inside)
        if name in found:
            raise DataError(
                f"two files have one name: {io.printable(found[name])}, {io.printable(path)}"
            )
        found[name] = path
    return found


def common_names(root: pathlib.Path, found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the names that every kind of file has, sorted.

    `found` holds what `find` returned for each kind ("photographs", "maps", …). DataError if there
    are none, or if a name lacks a kind; the first three are named.
    """
    kinds = list(found)
    union = sorted(set().union(*(found[kind].keys() for kind in kinds)))
    common = [name for name in union if all(name in found[kind] for kind in kinds)]
    if not common:
        counts = ", ".join(f"{kind}: {len(found[kind])} files" for kind in kinds)
        raise DataError(f"{io.printable(root)}: no name is common to all ({counts})")
    for kind in kinds:
        others = [other for other in kinds if other != kind]
        lonely = [n for n in found[kind] if not all(n in found[other] for other in others)]
        if lonely:
            first = ", ".join(map(io.printable, sorted(lonely)[:3]))
            missing = " or ".join(other.removesuffix("s") for other in others)
            raise DataError(
                f"{io.printable(root)}: {len(lonely)} of {len(found[kind])} {kind} have no"
                f" {missing}: {first}{', …' if len(lonely) > 3 else ''}"
            )
    return common


def fit_to_image(
    values: Shaped[np.ndarray, "h w"],
    size: tuple[int, int],
    path: str | os.PathLike[str],
    what: str = "",
) -> Shaped[np.ndarray, "_h _w"]:
    """Resize a map to the (height, width) of its photograph, by nearest neighbour.

    Raises UnreadableFile as `require_fit` does.
    """
    require_fit(values, size, path, what)
    return geometry.resize_map_nearest(values, size)


def require_fit(
    values: Shaped[np.ndarray, "h w"],
    size: tuple[int, int],
    path: str | os.PathLike[str],
    what: str = "",
) -> None:
    """Raise UnreadableFile where the aspect ratio of a map is not that of its photograph.

    By more than 2 %. The message names `path`; `what` says which map it is if that is the path of
    the photograph.
    """
    height, width = size
    ratio = (values.shape[1] * height) / (values.shape[0] * width)
    if not 1 / (1 + _ASPECT_TOLERANCE) <= ratio <= 1 + _ASPECT_TOLERANCE:
        raise io.UnreadableFile(
            path,
            f"{what and f'the {what} of '}{values.shape[1]}x{values.shape[0]} pixels"
            f" {'does' if what else 'do'} not go with the photograph's {width}x{height}"
            f"{_turned(values.shape[0] * height / (values.shape[1] * width))}",
        )


def _turned(ratio: float) -> str:
    """Return a hint if a map would fit, given by how much it is too tall then."""
    if not 1 / (1 + _ASPECT_TOLERANCE) <= ratio <= 1 + _ASPECT_TOLERANCE:
        return ""
    return ", but would if it were turned by 90 degrees; is one of them stored as the camera lay?"


def listed_paths(root: pathlib.Path, written: Sequence[str], listing: str) -> list[str]:
    """Return where the files that a list names lie below `root`.

    Lists hold the paths of their authors' machines. As many leading folders are dropped, the same
    number for all, as it takes to find the first file that can be found. DataError that names
    `listing` if none is found, or if a path leads out of `root`.
    """
    parts = [
        pathlib.PurePosixPath(path.replace("\\", "/").lstrip("/")).parts or ("",)
        for path in written
    ]
    for line in parts:
        if ".." in line:
            raise DataError(f"{io.printable(listing)}: {'/'.join(line)!r} leads out of the data")
    # The first files may be missing: a few are tried before giving up.
    for line in parts[:100]:
        for drop in range(len(line)):
            if os.path.isfile(root.joinpath(*line[drop:])):
                base = os.fspath(root)
                return [os.path.join(base, *names[min(drop, len(names) - 1) :]) for names in parts]
    first = io.printable(written[0]) if written else "no file"
    raise DataError(
        f"{io.printable(listing)}: none of its images is below {io.printable(root)}"
        f" (the first is {first})"
    )
