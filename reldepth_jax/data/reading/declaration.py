"""What a source declares of the data set that it reads: parts, maps, and its layout on disk.

Reading, shards, the data doctor and the contract tests follow from the declaration.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Set
from typing import Any, Literal

import numpy as np

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.pair_lists import PairList
from reldepth_jax.data.reading.records import PARTS, FileRecords, Part, StoredRecords


@dataclasses.dataclass(frozen=True)
class Map:
    """One kind of map."""

    dtype: np.dtype | None
    """Of the values as they are stored; None: any, where nothing is prepared."""
    title: str = "depth map"
    """In messages."""
    role: Literal["depth", "mask", "raw"] = "depth"
    """`mask`: 255 where there is ground truth, else 0; `raw`: depth of a sensor, 0 if none."""
    sky: int | None = None
    """The value that marks sky in the maps of many images."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Files of one kind: images, or one kind of map."""

    folders: tuple[str, ...]
    """Below the folder of the data set; the first that exists."""
    suffixes: Set[str]
    """Extensions, in lower case."""
    plural: str
    """In messages."""
    key: Callable[[str], str | None] = str
    """Returns the name that the files of one sample share, from a path below the folder without
    extension; None leaves the file out."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Files that belong together if their paths below the folders of their kind are the same."""

    files: Mapping[str, Files]
    """The "image", then each map by name."""
    above: tuple[str, ...] = ()
    """Folders that all others may be in, one in the other."""
    part_folders: bool = False
    """Whether each part has a folder of its own, named as the part."""
    records: type[FileRecords] = FileRecords

    def base(self, root: pathlib.Path, part: Part) -> pathlib.Path:
        """Return the folder in which those of `files` are."""
        for inside in self.above:
            root = root / inside if (root / inside).is_dir() else root
        return root / part if self.part_folders else root

    def places(self, base: pathlib.Path) -> dict[str, pathlib.Path]:
        """Return the folder of each kind of file."""
        found = {}
        for kind, its in self.files.items():
            folders = [base / folder for folder in its.folders]
            found[kind] = next((f for f in folders if f.is_dir()), folders[0])
        return found

    def read(self, data_set: str, root: str, part: Part) -> FileRecords:
        """Return the records of a part; DataError if folders are missing or files lack partners."""
        folder = files.require_folder(root, data_set)
        base = self.base(folder, part)
        if self.part_folders:
            files.require_folder(base, data_set)
        found = {}
        for kind, place in self.places(base).items():
            its = self.files[kind]
            paths = files.find(files.require_folder(place, data_set), its.suffixes)
            found[its.plural] = self.keyed(kind, paths)
        names = files.common_names(base, found)
        _, *kinds = self.files
        images, *maps = (tuple(paths[name] for name in names) for paths in found.values())
        return self.records(os.fspath(folder), images, dict(zip(kinds, maps, strict=True)))

    def keyed(self, kind: str, paths: Mapping[str, str]) -> dict[str, str]:
        """Return paths by the names that the files of one sample share."""
        keys = {name: self.files[kind].key(name) for name in paths}
        return {key: paths[name] for name, key in keys.items() if key is not None}


@dataclasses.dataclass(frozen=True)
class Lists:
    """A list for each part, of images and annotated pairs."""

    find: Callable[[pathlib.Path, Part], tuple[str | None, pathlib.Path]]
    """Returns the list of a part in a folder, None without one, and the folder of its images."""
    read_list: Callable[[str, Part], PairList]
    names: str = ""
    """Of the lists, for the message where there is none of any part."""
    random_order: bool = False
    """Whether the order of the points of a pair is random, so that both relations are as often."""

    def read(self, data_set: str, root: str, part: Part) -> StoredRecords | None:
        """Return the records of a part, None without its list."""
        folder = files.require_folder(root, data_set)
        if self.names and not any(self.find(folder, other)[0] for other in PARTS):
            raise DataError(
                f"{data_set}: {io.printable(folder)} holds none of {self.names}; give the folder in"
                " which the archives were extracted"
            )
        listing, base = self.find(folder, part)
        return None if listing is None else self.read_list(listing, part).records(folder, base)


@dataclasses.dataclass(frozen=True)
class OwnFormat:
    """Anything else: the source has a function that reads it."""

    function: Callable[[str, Part], Any]
    """Returns the records (`StoredRecords`) of a part of a folder."""
    check: str = "file"
    """What the doctor calls a complaint of this function."""
    remedy: str = "extract the archive again, or download it again"
    """What the doctor advises then."""

    def read(self, data_set: str, root: str, part: Part) -> Any:
        """Return the records of a part."""
        del data_set
        return self.function(root, part)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as its authors distribute it."""

    name: str
    """That of the source."""
    parts: tuple[Part, ...]
    layout: Folders | Lists | OwnFormat
    counts: Mapping[Part, int]
    """Images of each part as published, where that is known."""
    maps: Mapping[str, Map] = dataclasses.field(default_factory=dict)
    """Maps of every record, by name."""
    pairs: bool = False
    """Whether images have annotated pairs."""
    resizes: bool = False
    """Whether maps may have another size than their image, at the same aspect ratio."""
    home: str = ""
    """Address of the page where its authors offer it."""
    size: str = ""
    """Of the archives, in words, as far as it is known."""
    licence: str = ""
    """What the authors permit, where they say so."""
    instead: str = ""
    """What to do about a split that there is none of; ends the message that says so."""
    polarity: str = "depth must grow with distance"
    """What must hold of the files; ends the message that near and far are exchanged."""
    doctor_options: Mapping[Part, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Options of the source under which the doctor examines a part."""

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Type of the values of each map."""
        return {name: its.dtype for name, its in self.maps.items() if its.dtype is not None}

    def read(self, root: str, part: Part) -> Any:
        """Return the records of a part of the folder; None if there is no such part.

        Raises DataError or UnreadableFile if files are missing or damaged.
        """
        return self.layout.read(self.name, root, part) if part in self.parts else None
