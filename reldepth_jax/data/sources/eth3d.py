"""ETH3D: indoor and outdoor photographs with laser depth in metres, for testing only.

Source: Schöps et al., CVPR 2017; the 454 training images of the high-resolution multi-view
benchmark, which MiDaS (Ranftl et al., TPAMI 2022) tests on.
Layout: `SCENE/images/dslr_images/NAME.JPG` (distorted, as photographed) and
`SCENE/ground_truth_depth/dslr_images/NAME.JPG`, which is no JPEG.
Maps: little-endian float32 without header, rows from the top, of the image's size, in metres; inf
is not measured.
"""

import dataclasses
import functools
import io as memory
import os

import numpy as np
from PIL import Image

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

COUNTS: dict[Part, int] = {"test": 454}
"""Images of each part as published."""
MAPS = {"depth": np.dtype(np.float32)}


@dataclasses.dataclass(frozen=True)
class RawRecords:
    """Photographs, and maps whose size only the photographs tell."""

    root: str
    images: tuple[str, ...]
    depths: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> Record:
        """Read the files of one sample; UnreadableFile if one is damaged or they do not fit."""
        path, depth_path = self.images[index], self.depths[index]
        image, values = io.read_bytes(path), io.read_bytes(depth_path)
        try:
            # The header alone: these images have 24 million pixels.
            with Image.open(memory.BytesIO(image)) as header:
                width, height = header.size
        except Exception as error:
            raise io.UnreadableFile(path, "is not an image that can be read") from error
        if len(values) != 4 * width * height:
            raise io.UnreadableFile(
                depth_path,
                f"has {len(values)} bytes; float32 for {width}x{height} pixels takes"
                f" {4 * width * height}",
            )
        depth = np.frombuffer(values, "<f4").reshape(height, width).astype(np.float32)
        name = relative_name(path, self.root)
        return {"name": name, "image": image, "maps": {"depth": depth}, "pairs": NO_PAIRS}


def read_part(root: str, part: Part) -> RawRecords | None:
    """Return the records of all scenes of the folder; all of them are the part "test"."""
    if part != "test":
        return None
    folder = files.require_folder(root, "eth3d")
    found: dict[str, dict[str, str]] = {"images": {}, "depth maps": {}}
    for scene in folder.iterdir():
        for kind, inside in zip(found, ("images", "ground_truth_depth"), strict=True):
            below = files.find(scene / inside / "dslr_images", {".jpg"})
            found[kind] |= {f"{scene.name}/{name}": path for name, path in below.items()}
    if not any(found.values()):
        raise DataError(f"eth3d: there is no SCENE/images/dslr_images below {io.printable(folder)}")
    names = files.common_names(folder, found)
    images, depths = (tuple(paths[name] for name in names) for paths in found.values())
    return RawRecords(os.fspath(folder), images, depths)


@SOURCES.register("eth3d")
@dataclasses.dataclass(frozen=True)
class ETH3D:
    """ETH3D from its folder; depth in metres, a mask for the pixels that were measured.

    Far depth is not capped: that is up to the protocol of an evaluation.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds the scenes."""

    def __post_init__(self):
        if self.split != "test":
            raise DataError(f"eth3d has no {self.split} split; it is for testing only")
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
        if not (depth >= 0).all():
            raise io.UnreadableFile(path, "its depth map holds negative values or NaN")
        return {"image": image, "depth": depth, "mask": np.isfinite(depth) & (depth > 0)}

    @functools.cached_property
    def _records(self) -> Selected:
        return select("eth3d", self.split, lambda part: read_part(self.root, part), validation=0)
