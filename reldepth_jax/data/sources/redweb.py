"""ReDWeb V1: web stereo images with relative-depth maps.

Source: Xian et al., CVPR 2018, Section 3.1; 3600 images, no official split, for research use.
Layout: `Imgs/NAME.jpg`, `RDs/NAME.png`, below `ReDWeb_V1` or not.
Maps: 8 bits, one channel or three equal ones, darker is nearer, 255 is sky, at infinity ("RD" maps,
Figures 1-3). They come from optical flow, hence are affine in negative disparity, not in depth.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Literal

import numpy as np

from reldepth_jax.data.cropping import ChooseCrop, whole
from reldepth_jax.data.images import io
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import FileRecords, Part, Record, Selected, open_part, select
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

COUNTS: dict[Part, int] = {"train": 3600}
"""Images of each part as published."""
MAPS = {"rd": np.dtype(np.uint8)}
SKY = 255


def read_part(root: str, part: Part) -> FileRecords | None:
    """Return the records of the folder; all of them are the part "train"."""
    if part != "train":
        return None
    folder = files.require_folder(root, "redweb")
    if (folder / "ReDWeb_V1").is_dir():
        folder /= "ReDWeb_V1"
    for name in ("Imgs", "RDs"):
        files.require_folder(folder / name, "redweb")
    images = files.find(folder / "Imgs", io.IMAGE_SUFFIXES)
    maps = files.find(folder / "RDs", io.MAP_SUFFIXES)
    names = files.common_names(folder, {"images": images, "RD maps": maps})
    return FileRecords(
        root=os.fspath(pathlib.Path(root)),
        images=tuple(images[name] for name in names),
        maps={"rd": tuple(maps[name] for name in names)},
    )


@SOURCES.register("redweb")
@dataclasses.dataclass(frozen=True)
class ReDWeb:
    """ReDWeb V1 from its folder, or from prepared shards.

    A map of another size than its image is resized by nearest neighbour. There is no test split:
    the paper tests on DIW.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder."""
    prepared: str = ""
    """Folder of shards written by scripts/prepare_data.py, instead of `root`."""
    validation: int = 360
    """Images held out for validation (MiDaS held out as many; which ones is not published). 0: all
    are trained on, as in the paper, which validates on DIW."""
    sky: Literal["infinite", "masked"] = "infinite"
    """255 is farther than everything and equal to itself (paper), or without ground truth."""
    values: Literal["rd", "disparity"] = "rd"
    """rd: depth is the RD value, whose ratios the paper's Eq. (1) compares. disparity: depth is
    255 / (255 - RD), for losses that compare values of inverse depth, as MiDaS reads these maps."""

    def __post_init__(self):
        if self.split == "test":
            raise DataError("redweb has no test split; take val, or test on diw as the paper does")
        len(self)

    @property
    def pairs_per_image(self) -> int:
        """None is annotated."""
        return 0

    def __len__(self) -> int:
        """Return how many samples the split has."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; UnreadableFile if its files are damaged or do not fit."""
        return self.decode(self._records[index])

    def read_crop(self, index: int, choose: ChooseCrop) -> Sample:
        """Read a part of one sample."""
        return self.decode(self._records[index], choose)

    def decode(self, record: Record, choose: ChooseCrop = whole) -> Sample:
        """Interpret one record by the options."""
        path = os.path.join(self.root or self.prepared, record["name"])
        photograph, rd = Photograph(record["image"], path), record["maps"]["rd"]
        if rd.dtype != np.uint8:
            raise io.UnreadableFile(path, f"its RD map has {rd.dtype} values, not 8 bits")
        files.require_fit(rd, photograph.size, path, "RD map")
        crop = choose(*photograph.size, record["pairs"])
        rd = crop.map(rd)
        depth = rd.astype(np.float32)
        if self.values == "disparity":
            with np.errstate(divide="ignore"):
                depth = np.float32(SKY) / (np.float32(SKY) - depth)
        infinite = rd == SKY
        depth[infinite] = np.inf
        mask = ~infinite if self.sky == "masked" else np.ones_like(infinite)
        return {"image": crop.image(photograph), "depth": depth, "mask": mask}

    @functools.cached_property
    def _records(self) -> Selected:
        read = open_part("redweb", self.prepared, self.root, read_part)
        return select("redweb", self.split, read, validation=self.validation)
