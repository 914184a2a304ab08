"""ETH3D: indoor and outdoor photographs with laser depth in metres, for testing only.

Source: Schöps et al., CVPR 2017; the 454 training images of the high-resolution multi-view
benchmark, which MiDaS (Ranftl et al., TPAMI 2022) tests on.
Layout: `SCENE/images/dslr_images/NAME.JPG` (distorted, as photographed) and
`SCENE/ground_truth_depth/dslr_images/NAME.JPG`, which is no JPEG.
Maps: little-endian float32 without header, rows from the top, of the image's size, in metres; inf
is not measured.
"""

import dataclasses
import re

import numpy as np
from jaxtyping import Float32

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.data.reading.records import FileRecords, Record
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Split


def _key(path: str, kind: str) -> str | None:
    """Return SCENE/NAME of a path SCENE/KIND/dslr_images/NAME; None for another path."""
    found = re.fullmatch(rf"([^/]+)/{kind}/dslr_images/(.+)", path)
    return "/".join(found.groups()) if found else None


class ETH3DRecords(FileRecords):
    """Photographs, and maps whose size only the photographs tell."""

    def __getitem__(self, index: int) -> Record:
        """Read the files of one sample; UnreadableFile if one is damaged or they do not fit."""
        record, paths = super().__getitem__(index), self.places(index)
        # The header alone: these images have 24 million pixels.
        (height, width), _ = io.read_header(record["image"], paths["image"])
        values = record["maps"]["depth"]
        if values.size != width * height:
            raise io.UnreadableFile(
                paths["depth"],
                f"has {4 * values.size} bytes; float32 for {width}x{height} pixels takes"
                f" {4 * width * height}",
            )
        return {**record, "maps": {"depth": values.reshape(height, width)}}

    def read_map(self, path: str) -> Float32[np.ndarray, "n"]:
        """Read the values of a map, without their shape."""
        values = io.read_bytes(path)
        if len(values) % 4:
            raise io.UnreadableFile(path, f"has {len(values)} bytes, which are no float32 values")
        return np.frombuffer(values, "<f4").astype(np.float32)


@SOURCES.register("eth3d")
@dataclasses.dataclass(frozen=True)
class ETH3D(DataSetSource):
    """ETH3D from its folder; depth in metres, a mask for the pixels that were measured.

    Far depth is not capped: that is up to the protocol of an evaluation.
    """

    data_set = DataSet(
        name="eth3d",
        parts=("test",),
        counts={"test": 454},
        layout=Folders(
            {
                "image": Files(("",), {".jpg"}, "images", lambda path: _key(path, "images")),
                "depth": Files(
                    ("",), {".jpg"}, "depth maps", lambda path: _key(path, "ground_truth_depth")
                ),
            },
            records=ETH3DRecords,
        ),
        maps={"depth": Map(np.dtype(np.float32))},
        home="https://www.eth3d.net/datasets",
        size="5.1 GB of photographs, and depth",
        licence="CC BY-NC-SA 4.0",
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds the scenes."""

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Return depth; UnreadableFile if it is not possible."""
        if not (maps["depth"] >= 0).all():
            raise io.UnreadableFile(path, "its depth map holds negative values or NaN")
        depth = crop.map(maps["depth"])
        return {"depth": depth, "mask": np.isfinite(depth) & (depth > 0)}
