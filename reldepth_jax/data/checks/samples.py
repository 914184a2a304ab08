"""What there is to examine: the samples of each part of a data set, found despite its faults.

The readers stop at the first fault. So files are paired here, by the declared layout, and whatever
has all its files is given to the source's own records and decoding.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Set
from typing import Any

import numpy as np

from reldepth_jax.data.checks.findings import Finding, error, from_reader
from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.declaration import DataSet, Folders, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Part, Record, Selected, StoredRecords
from reldepth_jax.errors import UserError
from reldepth_jax.types import Sample

_EXTRACT = "extract the archive again, or download it again"

Options = Mapping[str, Any]
"""Of the source."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of one part whose files are all there."""

    part: Part
    source: DataSetSource
    records: StoredRecords

    @classmethod
    def of(
        cls,
        source: type[DataSetSource],
        part: Part,
        root: str,
        options: Options,
        records: StoredRecords | None = None,
    ) -> "Samples":
        """Return the samples as the source reads them, by default those of its `read_part`.

        Raises UserError as that does.
        """
        # Making one as usual looks for the records at once, and stops at the first fault.
        made = object.__new__(source)
        given = {**source.data_set.doctor_options.get(part, {}), **options}
        given |= {"split": part, "size": (0, 0), "root": root}
        for field in dataclasses.fields(source):  # type: ignore[arg-type]: subclasses are dataclasses
            object.__setattr__(made, field.name, given.get(field.name, field.default))
        found: Any = made.read_part(part) if records is None else records
        vars(made)["_records"] = Selected(found, np.arange(len(found)))
        return cls(part, made, found)

    @property
    def data_set(self) -> DataSet:
        """What the source declares."""
        return self.source.data_set

    def read(self, index: int) -> tuple[Record, Sample]:
        """Read and decode one as training does; UnreadableFile."""
        record = self.source.record(index)
        return record, self.source.interpret(record).read()


def archives(*folders: pathlib.Path) -> list[Finding]:
    """Return the archives that lie in folders in which something is missing."""
    return [
        error("archive", os.fspath(path), "is an archive; extract it")
        for folder in dict.fromkeys(folders)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in files.ARCHIVES and path.is_file()
    ]


def in_folders(
    source: type[DataSetSource], layout: Folders, root: str, part: Part, options: Options
) -> tuple[Samples | None, list[Finding]]:
    """Return the samples of a part whose files lie in folders, and what is wrong with them."""
    folder = files.require_folder(root, source.data_set.name)
    base = layout.base(folder, part)
    places = layout.places(base)
    missing = [p for p in (places.values() if base.is_dir() else [base]) if not p.is_dir()]
    if missing:
        reason = f"there is no such folder; {_EXTRACT}, and give the folder that it gave"
        findings = [error("folder", os.fspath(place), reason) for place in missing]
        return None, findings + archives(folder, base)

    findings: list[Finding] = []
    found: dict[str, dict[str, str]] = {}
    for kind, place in places.items():
        paths, twice = _find(place, layout.files[kind].suffixes)
        findings += twice
        found[kind] = layout.keyed(kind, paths)
    if findings:
        return None, findings
    findings += _without_partner(places, found)
    names = sorted(set.intersection(*map(set, found.values())))
    if not findings and names:
        try:
            source.data_set.read(root, part)
        except UserError as complaint:
            findings.append(from_reader("reader", root, complaint, "see Data sets in README"))
    kinds = {kind: tuple(paths[name] for name in names) for kind, paths in found.items()}
    images = kinds.pop("image")
    records = layout.records(os.fspath(folder), images, kinds)
    return Samples.of(source, part, root, options, records), findings


def by_source(
    source: type[DataSetSource], root: str, part: Part, options: Options
) -> tuple[Samples | None, list[Finding]]:
    """Return the samples of a part that the source alone can find, and what is wrong with it."""
    folder = files.require_folder(root, source.data_set.name)
    layout = source.data_set.layout
    check, remedy = "list", _EXTRACT
    if isinstance(layout, OwnFormat):
        check, remedy = layout.check, layout.remedy
    try:
        return Samples.of(source, part, root, options), []
    except UserError as complaint:
        return None, [from_reader(check, root, complaint, remedy), *archives(folder)]


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
