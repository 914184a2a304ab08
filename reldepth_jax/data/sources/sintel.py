"""MPI Sintel: frames of an animated film with rendered depth in metres, for testing only.

Source: Butler et al., ECCV 2012; the 1064 training frames of the final pass, which MiDaS (Ranftl et
al., TPAMI 2022) tests on.
Layout: `training/final/SCENE/frame_NNNN.png` and `training/depth/SCENE/frame_NNNN.dpt`; both
without `training`, where that is the root itself or was left away; or each in the folder of its
archive.
Maps (`read_dpt`): every pixel has depth. Sky is finite, but farther than the rest.
"""

import dataclasses
import os
import struct

import numpy as np
from jaxtyping import Float32

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.data.reading.records import FileRecords
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Split

_DEPTH_ARCHIVE = "MPI-Sintel-depth-training-20150305"


def _places(archive: str, kind: str) -> tuple[str, ...]:
    return f"training/{kind}", kind, f"{archive}/training/{kind}"


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


class SintelRecords(FileRecords):
    """Frames and their `.dpt` files."""

    def read_map(self, path: str) -> Float32[np.ndarray, "h w"]:
        """Read a `.dpt` file."""
        return read_dpt(path)


@SOURCES.register("sintel")
@dataclasses.dataclass(frozen=True)
class Sintel(DataSetSource):
    """MPI Sintel from its folder; depth in metres for every pixel.

    Far depth is not capped: that is up to the protocol of an evaluation.
    """

    data_set = DataSet(
        name="sintel",
        parts=("test",),
        counts={"test": 1064},
        layout=Folders(
            {
                "image": Files(_places("MPI-Sintel-complete", "final"), {".png"}, "images"),
                "depth": Files(_places(_DEPTH_ARCHIVE, "depth"), {".dpt"}, "depth maps"),
            },
            records=SintelRecords,
        ),
        maps={"depth": Map(np.dtype(np.float32))},
        home="http://sintel.is.tue.mpg.de",
        size="5.6 GB of frames, 1.6 GB of depth",
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds `training`, or what is in it, or both archives' folders."""

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Return depth; UnreadableFile if it is not possible."""
        if not (maps["depth"] >= 0).all():
            raise io.UnreadableFile(path, "its depth map holds negative values or NaN")
        depth = crop.map(maps["depth"])
        return {"depth": depth, "mask": depth > 0}
