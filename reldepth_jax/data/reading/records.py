"""What a data set stores of one sample, before it is interpreted.

A reader gives records from the original folder; prepared shards (`data.prepared`) hold the same
records. How a record becomes a `Sample` is decided afterwards, by the options of the source, so
that both ways give identical samples and shards need not be made again for another option.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import held_out, not_held_out
from reldepth_jax.types import NO_PAIRS, Split

Part = Literal["train", "val", "test"]
"""A part of a data set as its authors split it."""
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Record(TypedDict):
    """One sample as it is stored."""

    name: str
    """Path of the image below the root of the data set; stands in messages."""
    image: bytes
    """The encoded file."""
    maps: dict[str, Shaped[np.ndarray, "_h _w"]]
    """Maps by name, with the values and the type of the file."""
    pairs: Int32[np.ndarray, "n 5"]
    """Annotated pairs as in `types.Sample`; none: shape (0, 5)."""


@runtime_checkable
class Records(Protocol):
    """Random access to records; picklable."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Read one; UnreadableFile if a file cannot be read."""
        ...


class StoredRecords(Records, Protocol):
    """Records of a data set's folder."""

    own_images: ClassVar[bool]
    """Whether each image is a file of its own."""

    def places(self, index: int) -> dict[str, str]:
        """Return the path of the "image" and of each map; `#number` follows in a file of many."""
        ...


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """Records whose image and maps are files, one each."""

    own_images: ClassVar[bool] = True

    root: str
    images: tuple[str, ...]
    """Paths of the images."""
    maps: dict[str, tuple[str, ...]]
    """Paths of the maps, in the order of the images."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        """Read the files of one sample; UnreadableFile if one cannot be read."""
        path = self.images[index]
        return {
            "name": relative_name(path, self.root),
            "image": io.read_bytes(path),
            "maps": {name: self.read_map(paths[index]) for name, paths in self.maps.items()},
            "pairs": NO_PAIRS,
        }

    def read_map(self, path: str) -> Shaped[np.ndarray, "..."]:
        """Read a map, with the values and the type of its file."""
        return io.read_values(path)

    def places(self, index: int) -> dict[str, str]:
        """Return the paths of the image and of each map."""
        maps = {name: paths[index] for name, paths in self.maps.items()}
        return {"image": self.images[index], **maps}


def relative_name(path: str, root: str | pathlib.Path) -> str:
    """Return `path` below `root`, with forward slashes."""
    return pathlib.PurePath(os.path.relpath(path, root)).as_posix()


@dataclasses.dataclass(frozen=True)
class Selected:
    """The records of one split: all of a part, or some of it."""

    records: Any
    """`Records` of a part."""
    positions: Int64[np.ndarray, "n"]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.positions)

    def __getitem__(self, index: int) -> Record:
        """Read one; IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.records[int(self.positions[index])]


def select(
    data_set: str, split: Split, read_part: Callable[[Part], Records | None], *, validation: int
) -> Selected:
    """Return the records of a split.

    Args:
      read_part: gives the records of a part, None if the data set comes without it.
      validation: how many of the training records validate where there is no part for that; which
        ones is a fixed choice (`selection.held_out`). Of an excerpt that has no more than these, a
        tenth, at least one. 0: none.

    Raises DataError if the split is empty or the data set has no such split.
    """
    records = read_part(split)
    positions = np.arange(len(records) if records is not None else 0)
    if split == "val" and records is None:
        records = read_part("train")
        if records is not None:
            positions = held_out(len(records), _spared(len(records), validation))
    elif split == "train" and records is not None and validation and read_part("val") is None:
        positions = not_held_out(len(records), _spared(len(records), validation))
    if records is None:
        raise DataError(f"{data_set} has no {split} split here")
    if not len(positions):
        raise DataError(
            f"{data_set}: the {split} split is empty; there are {len(records)} samples, of which"
            f" {validation} are to validate"
        )
    return Selected(records, positions)


def _spared(count: int, validation: int) -> int:
    return validation if validation < count else max(1, count // 10)
