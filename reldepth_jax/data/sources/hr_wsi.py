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

import numpy as np

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Part, Records
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import DepthIs, Split

LAYOUT = Folders(
    {
        "image": Files(("imgs",), io.IMAGE_SUFFIXES, "images"),
        "gt": Files(("gts",), io.MAP_SUFFIXES, "disparity maps"),
        "valid": Files(("valid_masks",), io.MAP_SUFFIXES, "valid masks"),
    },
    above=("HR-WSI",),
    part_folders=True,
)


@SOURCES.register("hr_wsi")
@dataclasses.dataclass(frozen=True)
class HRWSI(DataSetSource):
    """HR-WSI from its folder, or from prepared shards.

    Depth is 255 / gt, without unit, inf where gt is 0. A map of another size than its image is
    resized by nearest neighbour. There is no test split.
    """

    data_set = DataSet(
        name="hr_wsi",
        parts=("train", "val"),
        counts={"train": 20378, "val": 400},
        layout=LAYOUT,
        maps={
            "gt": Map(np.dtype(np.uint8), "gt map"),
            "valid": Map(np.dtype(np.uint8), "valid map", role="mask"),
        },
        resizes=True,
        home="https://github.com/KexianHust/Structure-Guided-Ranking-Loss",
        licence="research use",
        instead="take val, or test on another data set",
        polarity="gts must be bright where it is near; these look like depth maps or inverted ones",
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder `HR-WSI`, or the one that holds it."""
    prepared: str = ""
    """Folder of shards written by `reldepth prepare`, instead of `root`."""
    instances: bool = False
    """Read instance masks too, of training images alone; prepared shards have none."""
    instance_folder: str = "instance_masks"
    """Where they are, beside `imgs`."""

    @property
    def depth_is(self) -> DepthIs:
        """What depth is known to be."""
        return "disparity"

    def __post_init__(self) -> None:
        if self.instances and self.prepared:
            raise DataError("hr_wsi: prepared shards have no instance masks; give root instead")
        super().__post_init__()

    def read_part(self, part: Part) -> Records | None:
        """Return the records of a part, with a map "instances" if they are asked for."""
        if not (self.instances and part == self.split == "train"):
            return super().read_part(part)
        masks = Files((self.instance_folder,), io.MAP_SUFFIXES, "instance masks")
        layout = dataclasses.replace(LAYOUT, files={**LAYOUT.files, "instances": masks})
        return layout.read("hr_wsi", self.root, part)

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret disparity, valid mask and instance mask."""
        with np.errstate(divide="ignore"):
            depth = 1 / (crop.map(maps["gt"]).astype(np.float32) / np.float32(255))
        truth: Truth = {"depth": depth, "mask": crop.map(maps["valid"]) > 0}
        if "instances" in maps:
            ids = maps["instances"]
            if ids.dtype not in (np.uint8, np.uint16):
                reason = f"its instances map has {ids.dtype} values, not 8 or 16 bits"
                raise io.UnreadableFile(path, reason)
            truth["instances"] = crop.map(ids).astype(np.int32)
        return truth
