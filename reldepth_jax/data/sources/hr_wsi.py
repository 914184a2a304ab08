"""HR-WSI: high-resolution web stereo images with disparity maps.

Source: Xian et al., CVPR 2020, "Structure-guided ranking loss for single image depth prediction";
20378 training and 400 validation images, for research use.
Layout: `train` and `val`, below `HR-WSI` or not, each with `imgs/NAME.jpg`, `gts/NAME.png` and
`valid_masks/NAME.png`. Other folders are not read, but for that of instance masks if asked for.
Maps: 8 bits, one channel or three equal ones. gts: disparity from optical flow, brighter is nearer,
0 is infinitely far, known up to an affine change. valid_masks: greater than 0 where left and right
agree. Instance masks are assumed to be maps `instance_masks/NAME.png` of 8 or 16 bits, one number
for each instance and 0 elsewhere.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from reldepth_jax.data.cropping import ChooseCrop, whole
from reldepth_jax.data.images import io
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import FileRecords, Part, Record, Selected, open_part, select
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

COUNTS: dict[Part, int] = {"train": 20378, "val": 400}
"""Images of each part as published."""
MAPS = {"gt": np.dtype(np.uint8), "valid": np.dtype(np.uint8)}


def read_part(root: str, part: Part, instance_folder: str = "") -> FileRecords | None:
    """Return the records of a part of the folder; there is no part "test".

    They have a map "instances" if the name of its folder is given.
    """
    if part == "test":
        return None
    folder = files.require_folder(root, "hr_wsi")
    if (folder / "HR-WSI").is_dir():
        folder /= "HR-WSI"
    folder = files.require_folder(folder / part, "hr_wsi")
    kinds = {
        "images": ("imgs", io.IMAGE_SUFFIXES),
        "disparity maps": ("gts", io.MAP_SUFFIXES),
        "valid masks": ("valid_masks", io.MAP_SUFFIXES),
    }
    if instance_folder:
        kinds["instance masks"] = (instance_folder, io.MAP_SUFFIXES)
    found = {
        kind: files.find(files.require_folder(folder / name, "hr_wsi"), suffixes)
        for kind, (name, suffixes) in kinds.items()
    }
    names = files.common_names(folder, found)
    images, *maps = (tuple(found[kind][name] for name in names) for kind in kinds)
    named = dict(zip((*MAPS, "instances"), maps, strict=False))
    return FileRecords(os.fspath(pathlib.Path(root)), images, named)


@SOURCES.register("hr_wsi")
@dataclasses.dataclass(frozen=True)
class HRWSI:
    """HR-WSI from its folder, or from prepared shards.

    Depth is 255 / gt, without unit, inf where gt is 0. A map of another size than its image is
    resized by nearest neighbour. There is no test split.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder `HR-WSI`, or the one that holds it."""
    prepared: str = ""
    """Folder of shards written by scripts/prepare_data.py, instead of `root`."""
    instances: bool = False
    """Read instance masks too, of training images alone; prepared shards have none."""
    instance_folder: str = "instance_masks"
    """Where they are, beside `imgs`."""

    def __post_init__(self):
        if self.instances and self.prepared:
            raise DataError("hr_wsi: prepared shards have no instance masks; give root instead")
        if self.split == "test":
            raise DataError("hr_wsi has no test split; take val, or test on another data set")
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
        """Interpret one record."""
        path = os.path.join(self.root or self.prepared, record["name"])
        photograph = Photograph(record["image"], path)
        crop = choose(*photograph.size, record["pairs"])
        maps = {}
        for name, values in record["maps"].items():
            if values.dtype != np.uint8 and (name != "instances" or values.dtype != np.uint16):
                raise io.UnreadableFile(
                    path, f"its {name} map has {values.dtype} values, not 8 bits"
                )
            files.require_fit(values, photograph.size, path, f"{name} map")
            maps[name] = crop.map(values)
        with np.errstate(divide="ignore"):
            depth = 1 / (maps["gt"].astype(np.float32) / np.float32(255))
        image, mask = crop.image(photograph), maps["valid"] > 0
        sample: Sample = {"image": image, "depth": depth, "mask": mask}
        if "instances" in maps:
            sample["instances"] = maps["instances"].astype(np.int32)
        return sample

    @functools.cached_property
    def _records(self) -> Selected:
        def read_folder(root: str, part: Part) -> FileRecords | None:
            wanted = self.instances and part == self.split == "train"
            return read_part(root, part, self.instance_folder if wanted else "")

        read = open_part("hr_wsi", self.prepared, self.root, read_folder)
        # The data set has its own validation part: nothing is held out.
        return select("hr_wsi", self.split, read, validation=0)
