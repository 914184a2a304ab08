"""ReDWeb V1: web stereo images with relative-depth maps.

Source: Xian et al., CVPR 2018, Section 3.1; 3600 images, no official split, for research use.
Layout: `Imgs/NAME.jpg`, `RDs/NAME.png`, below `ReDWeb_V1` or not.
Maps: 8 bits, one channel or three equal ones, darker is nearer, 255 is sky, at infinity ("RD" maps,
Figures 1-3). They come from optical flow, hence are affine in negative disparity, not in depth.
"""

import dataclasses
from typing import Literal

import numpy as np

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import DepthIs, Split

SKY = 255


@SOURCES.register("redweb")
@dataclasses.dataclass(frozen=True)
class ReDWeb(DataSetSource):
    """ReDWeb V1 from its folder, or from prepared shards.

    A map of another size than its image is resized by nearest neighbour. There is no test split:
    the paper tests on DIW.
    """

    data_set = DataSet(
        name="redweb",
        parts=("train",),
        counts={"train": 3600},
        layout=Folders(
            {
                "image": Files(("Imgs",), io.IMAGE_SUFFIXES, "images"),
                "rd": Files(("RDs",), io.MAP_SUFFIXES, "RD maps"),
            },
            above=("ReDWeb_V1",),
        ),
        maps={"rd": Map(np.dtype(np.uint8), "RD map", sky=SKY)},
        resizes=True,
        home="https://sites.google.com/site/redwebcvpr18/",
        licence="research use",
        instead="take val, or test on diw as the paper does",
        polarity=(
            "RDs must be dark where it is near; these look like disparity maps or inverted ones"
        ),
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder."""
    prepared: str = ""
    """Folder of shards written by `reldepth prepare`, instead of `root`."""
    validation: int = 360
    """Images held out for validation (MiDaS held out as many; which ones is not published). 0: all
    are trained on, as in the paper, which validates on DIW."""
    sky: Literal["infinite", "masked"] = "infinite"
    """255 is farther than everything and equal to itself (paper), or without ground truth."""
    values: Literal["rd", "disparity"] = "rd"
    """rd: depth is the RD value, whose ratios the paper's Eq. (1) compares; its inverse means
    nothing, since one pixel of value 0 would be infinitely near. disparity: depth is
    255 / (255 - RD), for losses that compare values of inverse depth, as MiDaS reads these maps."""

    depth_hint = "values=disparity"

    @property
    def depth_is(self) -> DepthIs:
        """What depth is known to be."""
        return "relative" if self.values == "rd" else "disparity"

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret the RD map by the options."""
        rd = crop.map(maps["rd"])
        depth = rd.astype(np.float32)
        if self.values == "disparity":
            with np.errstate(divide="ignore"):
                depth = np.float32(SKY) / (np.float32(SKY) - depth)
        infinite = rd == SKY
        depth[infinite] = np.inf
        mask = ~infinite if self.sky == "masked" else np.ones_like(infinite)
        return {"depth": depth, "mask": mask}
