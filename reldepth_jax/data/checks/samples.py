"""What there is to examine: the samples of each part of a data set, found despite its faults.

The readers stop at the first fault. So files are paired here, by the layouts that the readers
document, and whatever has all its files is given to the reader's own records and decoding.
"""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from reldepth_jax.data.checks.findings import Finding, error, from_reader
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import FileRecords, Part, Record, Records
from reldepth_jax.errors import UserError
from reldepth_jax.types import Sample

_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
_EXTRACT = "extract the archive again, or download it again"


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of one part whose files are all there."""

    part: Part
    records: Records
    decode: Callable[[int, Record], Sample]
    """Interprets a record, given with its index, as training does."""
    places: Callable[[int], dict[str, str]]
    """Paths of the "image" and of each map of a sample; of several, a `#number` is behind it."""
    maps: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict)
    """The type that the values of each map must have."""
    read_map: Callable[[str], Shaped[np.ndarray, "_h _w"]] | None = None
    """Reads one map alone, where maps are files of their own."""
    own_images: bool = True
    """Whether images are files of their own."""
    resizes: bool = False
    """Whether maps may have another size than the image."""


class _Layout(NamedTuple):
    """Files of a data set that go together if their paths below the folders of their kind do."""

    above: tuple[str, ...]
    """Folders that all others may be in."""
    kinds: dict[str, tuple[str, Set[str]]]
    """Folder and extensions of the images, then of each map."""
    resizes: bool = False


_LAYOUTS = {
    "redweb": _Layout(
        ("ReDWeb_V1",),
        {"image": ("Imgs", io.IMAGE_SUFFIXES), "rd": ("RDs", io.MAP_SUFFIXES)},
        resizes=True,
    ),
    "hr_wsi": _Layout(
        ("HR-WSI",),
        {
            "image": ("imgs", io.IMAGE_SUFFIXES),
            "gt": ("gts", io.MAP_SUFFIXES),
            "valid": ("valid_masks", io.MAP_SUFFIXES),
        },
        resizes=True,
    ),
    "kitti": _Layout(
        ("depth_selection", "val_selection_cropped"),
        {"image": ("image", {".png"}), "depth": ("groundtruth_depth", {".png"})},
    ),
    "sintel": _Layout(
        (), {"image": ("training/final", {".png"}), "depth": ("training/depth", {".dpt"})}
    ),
    "eth3d": _Layout(
        (), {"image": ("images", {".jpg"}), "depth": ("ground_truth_depth", {".jpg"})}
    ),
}


def reader(name: str) -> Any:
    """Return the module that reads a data set."""
    return importlib.import_module(f"reldepth_jax.data.sources.{name}")


def bare_source(kind: type, part: Part, root: str, records: Records, **options: Any) -> Any:
    """Return a source with default options that has `records` instead of looking for its own."""
    # Making one as usual looks for the records at once, and stops at the first fault.
    source = object.__new__(kind)
    given = {"split": part, "size": (0, 0), "root": root} | options
    for field in dataclasses.fields(kind):
        object.__setattr__(source, field.name, given.get(field.name, field.default))
    vars(source)["_records"] = records
    return source


def archives(*folders: pathlib.Path) -> list[Finding]:
    """Return the archives that lie in folders in which something is missing."""
    return [
        error("archive", os.fspath(path), "is an archive; extract it")
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in _ARCHIVES and path.is_file()
    ]


def in_folders(
    name: str, kind: type, root: str, part: Part
) -> tuple[Samples | None, list[Finding]]:
    """Return the samples of a data set in one of the layouts above, and what is wrong with it."""
    layout, module = _LAYOUTS[name], reader(name)
    base = folder = files.require_folder(root, name)
    for inside in layout.above:
        folder = folder / inside if (folder / inside).is_dir() else folder
    if name == "hr_wsi":
        folder /= part
    places = {kind: folder / inside for kind, (inside, _) in layout.kinds.items()}
    if name == "sintel" and not places["depth"].is_dir() and (folder / "depth").is_dir():
        places["depth"] = folder / "depth"
    if name == "eth3d":
        places = dict.fromkeys(layout.kinds, folder)
    needed = places.values() if folder.is_dir() else [folder]
    missing = [place for place in needed if not place.is_dir()]
    if missing:
        reason = f"there is no such folder; {_EXTRACT}, and give the folder that it gave"
        found = [error("folder", os.fspath(place), reason) for place in missing]
        return None, found + archives(base, folder)

    findings: list[Finding] = []
    found = {}
    for kind_of_file, (inside, suffixes) in layout.kinds.items():
        paths, twice = _find(places[kind_of_file], suffixes)
        findings += twice
        if name == "eth3d":
            below = f"/{inside}/dslr_images/"
            paths = {key.replace(below, "/", 1): p for key, p in paths.items() if below in key}
        if name == "kitti" and kind_of_file == "depth":
            paths = {
                key.replace("_groundtruth_depth_", "_image_", 1): p for key, p in paths.items()
            }
        found[kind_of_file] = paths
    if findings:
        return None, findings
    findings += _without_partner(places, found)
    names = sorted(set.intersection(*(set(paths) for paths in found.values())))
    if not findings and names:
        try:
            module.read_part(root, part)
        except UserError as complaint:
            findings.append(from_reader("reader", root, complaint, "see Data sets in README"))
    kinds = {kind: tuple(paths[name] for name in names) for kind, paths in found.items()}
    images, *maps = kinds.values()
    read_map: Any = None
    if name == "eth3d":
        records: Records = module.RawRecords(os.fspath(base), images, maps[0])
    elif name == "sintel":
        records, read_map = module.SintelRecords(os.fspath(base), images, maps[0]), module.read_dpt
    else:
        records = FileRecords(os.fspath(base), images, {k: kinds[k] for k in list(kinds)[1:]})
        read_map = io.read_values
    source = bare_source(kind, part, root, records)
    return Samples(
        part,
        records,
        decode=lambda _, record: source.decode(record),
        places=lambda index: {kind: paths[index] for kind, paths in kinds.items()},
        maps=module.MAPS,
        read_map=read_map,
        resizes=layout.resizes,
    ), findings


def in_arrays(name: str, kind: type, root: str, part: Part) -> tuple[Samples | None, list[Finding]]:
    """Return the samples of a data set whose images and maps lie in files together."""
    module, folder = reader(name), files.require_folder(root, name)
    try:
        records = module.read_part(root, part)
    except UserError as complaint:
        return None, [from_reader("file", root, complaint, _EXTRACT), *archives(folder)]
    source = bare_source(kind, part, root, records)

    def places(index: int) -> dict[str, str]:
        if name == "tum":
            path = records.paths[index]
        else:
            path = f"{records.path}#{records.numbers[index]}"
        return dict.fromkeys(("image", *module.MAPS), path)

    return Samples(
        part,
        records,
        decode=lambda _, record: source.decode(record),
        places=places,
        own_images=False,
    ), []


def _find(folder: pathlib.Path, suffixes: Set[str]) -> tuple[dict[str, str], list[Finding]]:
    """Return path by name, as `files.find` does, and all the names that two files have."""
    found: dict[str, str] = {}
    findings = []
    # One extension at a time, because it stops at the first name that is there twice.
    for suffix in sorted(suffixes):
        try:
            more = files.find(folder, {suffix})
        except DataError as complaint:
            findings.append(
                from_reader("duplicate name", os.fspath(folder), complaint, "remove one of them")
            )
            continue
        for name in sorted(more.keys() & found.keys()):
            message = f"{io.printable(found[name])} has the same name; remove one of them"
            findings.append(error("duplicate name", more[name], message))
        found |= more
    return found, findings


def _without_partner(
    places: Mapping[str, pathlib.Path], found: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """Return the files whose name is missing among those of another kind."""
    union = sorted(set().union(*found.values()))
    if all(len(paths) == len(union) for paths in found.values()):
        return []
    findings = []
    stems = {kind: _stems(place) for kind, place in places.items()}
    for name in union:
        has = [kind for kind in found if name in found[kind]]
        for kind in found:
            if kind not in has:
                message = f"has no {_title(kind)} in {io.printable(places[kind])}"
                if name in stems[kind]:
                    kept = io.printable(stems[kind][name])
                    message += f": {kept} has an extension that is not read; take the original file"
                else:
                    message += f"; {_EXTRACT}, or remove it"
                findings.append(error("partner", found[has[0]][name], message))
    return findings


def _stems(folder: pathlib.Path) -> dict[str, str]:
    """Return the path of every file below, whatever its extension, by its path without that."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = pathlib.PurePath(os.path.relpath(os.path.join(parent, name), folder))
            found[path.with_suffix("").as_posix()] = path.as_posix()
    return found


def _title(kind: str) -> str:
    return "image" if kind == "image" else f"{kind} map"
