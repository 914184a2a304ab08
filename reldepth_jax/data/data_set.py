"""The base of sources that read a declared data set, from its folder or from prepared shards."""

import functools
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Shaped

from reldepth_jax.data.cropping import Crop, Opened, OpenedPhotograph, Truth
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.prepared import shards
from reldepth_jax.data.reading import files, pair_lists
from reldepth_jax.data.reading.declaration import DataSet
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.pair_lists import Rejected
from reldepth_jax.data.reading.records import Part, Record, Records, Selected, relative_name, select
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import DepthIs, Sample, Split


def declared(name: str) -> type["DataSetSource"]:
    """Return the source of a declared data set; DataError if it declares none."""
    source = SOURCES.get(name)
    if not (isinstance(source, type) and issubclass(source, DataSetSource)):
        raise DataError(f"{name} declares no data set")
    return source


Maps = Mapping[str, Shaped[np.ndarray, "_h _w"]]


class DataSetSource:
    """A source whose class declares its `data_set` and interprets the maps, if there are any.

    Subclasses are frozen dataclasses with the fields `split`, `size` and `root`. With a field
    `prepared`, a folder of shards, the data set can be prepared. A field `validation` is the number
    of training images that validate where the data set has no part for that.
    """

    data_set: ClassVar[DataSet]
    displayed: ClassVar[bool] = False
    """Whether maps go with photographs as they are displayed (EXIF applied), not as stored."""
    list_file: ClassVar[str] = ""
    """Of a list in the root that, if it is there, says which files of the folders count."""
    split: Split
    pairs_per_image = 0

    @property
    def depth_is(self) -> DepthIs:
        """What depth is known to be; see `types.Source`."""
        return "pairs" if self.data_set.pairs and not self.data_set.maps else "depth"

    def __post_init__(self) -> None:
        offered = {*self.data_set.parts, *(["val"] if hasattr(self, "validation") else [])}
        if self.split not in offered:
            tests = "it is for testing only" if offered == {"test"} else ""
            raise DataError(
                f"{self.data_set.name} has no {self.split} split; {self.data_set.instead or tests}"
            )
        len(self)

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret the maps of one record within a crop.

        The types and sizes of `maps` are as declared. UnreadableFile, with `path`, if values are
        not possible. By default there is no depth.
        """
        del maps, path
        return {
            "depth": np.zeros(crop.shape, np.float32),
            "mask": np.zeros(crop.shape, np.bool_),
        }

    def read_part(self, part: Part) -> Records | None:
        """Return the records of a part of the folder; None if there is no such part."""
        return self.data_set.read(getattr(self, "root", ""), part)

    def record(self, index: int) -> Record:
        """Read the files of one sample; IndexError outside, UnreadableFile if one is damaged."""
        return self._records[index]

    def __len__(self) -> int:
        """Return how many samples the split has."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; UnreadableFile if its files are damaged or do not fit."""
        return self.open(index).read()

    def open(self, index: int) -> Opened:
        """Read the files of one sample; its photograph is decoded when a crop is read."""
        return self.interpret(self.record(index))

    def interpret(self, record: Record) -> Opened:
        """Return a record as a sample whose photograph is not decoded yet."""
        root = getattr(self._records.records, "root", "") or getattr(self, "root", "")
        path = os.path.join(root or getattr(self, "prepared", ""), record["name"])
        photograph, maps = (
            Photograph(record["image"], path, displayed=self.displayed),
            record["maps"],
        )
        self._check(maps, photograph.size, path)
        pairs = record["pairs"] if self.data_set.pairs else None
        if pairs is not None:
            pair_lists.require_inside(photograph.size, pairs, path)
        return OpenedPhotograph(photograph, lambda crop: self.truth(maps, crop, path), pairs)

    def names(self) -> list[str] | None:
        """Return the path of each image below the root; None where that is not known."""
        records: Any = self._records.records
        paths = getattr(records, "images", None) or getattr(records, "paths", None)
        if paths is None:
            return None
        return [relative_name(paths[int(index)], records.root) for index in self._records.positions]

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Lines of the list that were left out; none of prepared shards."""
        return getattr(self._records.records, "rejected", ())

    @functools.cached_property
    def _records(self) -> Selected:
        name, prepared = self.data_set.name, getattr(self, "prepared", "")

        def read(part: Part) -> Records | None:
            return shards.read_part(name, prepared, part) if prepared else self.read_part(part)

        return select(name, self.split, read, validation=getattr(self, "validation", 0))

    def _check(self, maps: Maps, size: tuple[int, int], path: str) -> None:
        """Raise UnreadableFile if a map has another type than declared, or does not fit."""
        for name, values in maps.items():
            declared = self.data_set.maps.get(name)
            title = declared.title if declared else f"{name} map"
            dtype = declared and declared.dtype
            if dtype and values.dtype != dtype:
                bits = 8 * dtype.itemsize
                raise UnreadableFile(
                    path, f"its {title} has {values.dtype} values, not {bits} bits"
                )
            if self.data_set.resizes:
                files.require_fit(values, size, path, title)
            elif values.shape != size:
                raise UnreadableFile(
                    path,
                    f"{size[1]}x{size[0]} pixels, but its {title} has"
                    f" {values.shape[1]}x{values.shape[0]}",
                )
