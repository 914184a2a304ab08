"""MPI Sintel: frames of an animated film with rendered depth in metres, for testing only.

Source: Butler et al., ECCV 2012; the 1064 training frames of the final pass, which MiDaS (Ranftl et
al., TPAMI 2022) tests on.
Layout: `training/final/SCENE/frame_NNNN.png` and `training/depth/SCENE/frame_NNNN.dpt`, or
`depth/SCENE/…`, where the archive of the depth was extracted beside `training`.
Maps (`read_dpt`): every pixel has depth. Sky is finite, but farther than the rest.
"""

import dataclasses
import functools
import os
import struct

import numpy as np
from jaxtyping import Float32

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import (
    NO_PAIRS,
    Part,
    Record,
    Selected,
    relative_name,
    select,
)
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

COUNTS: dict[Part, int] = {"test": 1064}
"""Images of each part as published."""
MAPS = {"depth": np.dtype(np.float32)}
_TAG = struct.pack("<f", 202021.25)


def read_dpt(path: str | os.PathLike[str]) -> Float32[np.ndarray, "h w"]:
    """Read a `.dpt` file: the number 202021.25, width, height, and depth in rows from the top.

    All little-endian: float32, int32, int32, float32. Raises UnreadableFile if it is anything else.
    """
    data = io.read_bytes(path)
    if len(data) < 12 or data[:4] != _TAG:
        raise io.UnreadableFile(path, "is no .dpt file: it does not start with 202021.25")
    width, height = struct.unpack("<ii", data[4:12])
    if width < 1 or height < 1 or len(data) != 12 + 4 * width * height:
        raise io.UnreadableFile(
            path, f"has {len(data)} bytes, which is not what {width}x{height} depth values take"
        )
    return np.frombuffer(data, "<f4", offset=12).reshape(height, width).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class SintelRecords:
    """Frames and their `.dpt` files."""

    root: str
    images: tuple[str, ...]
    depths: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many frames there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        """Read the files of one sample; UnreadableFile if one cannot be read."""
        path = self.images[index]
        return {
            "name": relative_name(path, self.root),
            "image": io.read_bytes(path),
            "maps": {"depth": read_dpt(self.depths[index])},
            "pairs": NO_PAIRS,
        }


def read_part(root: str, part: Part) -> SintelRecords | None:
    """Return the records of the folder; all of them are the part "test"."""
    if part != "test":
        return None
    folder = files.require_folder(root, "sintel")
    images = files.find(files.require_folder(folder / "training" / "final", "sintel"), {".png"})
    depth_folder = folder / "training" / "depth"
    if not depth_folder.is_dir() and (folder / "depth").is_dir():
        depth_folder = folder / "depth"
    depths = files.find(files.require_folder(depth_folder, "sintel"), {".dpt"})
    names = files.common_names(folder, {"images": images, "depth maps": depths})
    return SintelRecords(
        os.fspath(folder),
        tuple(images[name] for name in names),
        tuple(depths[name] for name in names),
    )


@SOURCES.register("sintel")
@dataclasses.dataclass(frozen=True)
class Sintel:
    """MPI Sintel from its folder; depth in metres for every pixel.

    Far depth is not capped: that is up to the protocol of an evaluation.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds `training`."""

    def __post_init__(self):
        if self.split != "test":
            raise DataError(f"sintel has no {self.split} split; it is for testing only")
        len(self)

    @property
    def pairs_per_image(self) -> int:
        """None is annotated."""
        return 0

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; UnreadableFile if its files are damaged or do not fit."""
        return self.decode(self._records[index])

    def decode(self, record: Record) -> Sample:
        """Interpret one record."""
        path = os.path.join(self.root, record["name"])
        image, depth = io.decode_image(record["image"], path), record["maps"]["depth"]
        if depth.shape != image.shape[:2]:
            raise io.UnreadableFile(
                path,
                f"{image.shape[1]}x{image.shape[0]} pixels, but its depth map has"
                f" {depth.shape[1]}x{depth.shape[0]}",
            )
        if not (depth >= 0).all():
            raise io.UnreadableFile(path, "its depth map holds negative values or NaN")
        return {"image": image, "depth": depth, "mask": depth > 0}

    @functools.cached_property
    def _records(self) -> Selected:
        return select("sintel", self.split, lambda part: read_part(self.root, part), validation=0)
