"""One real photograph with measured depth that needs no download, for testing only.

Source: Scharstein et al., "High-Resolution Stereo Datasets with Subpixel-Accurate Ground Truth",
GCPR 2014 (Middlebury 2014, Motorcycle): the left image and its disparity by structured light, a
quarter of the original size, as scikit-image ships them (`skimage.data.stereo_motorcycle`; its
docstring states the calibration). Needs pip install "reldepth-jax[photo]".

One picture is evidence that the path from a photograph to the report works, not of accuracy:
whatever it says holds for this motorcycle in this room, and there is no spread over images.
"""

import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np

from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

FOCAL = 994.978
"""Pixels."""
BASELINE = 0.193001
"""Metres between the two cameras."""
OFFSET = 31.086
"""Column of the right camera's principal point minus that of the left one's, in pixels. Without it
disparity 0 would be infinitely far, and all ratios of depths too large."""
_FILES = {"image": "motorcycle_left.png", "disparity": "motorcycle_disp.npz"}


@SOURCES.register("motorcycle")
@dataclasses.dataclass(frozen=True)
class Motorcycle:
    """The photograph with its depth in metres, 2.1 to 5.0; 7 % of the pixels are not measured.

    depth = focal length · baseline / (disparity + offset); where there is no disparity, mask is
    False and depth 0. The files are read where scikit-image was installed: it is not imported, and
    nothing can be downloaded.

    Raises DataError when made: another split than test, or no such files.
    """

    pairs_per_image = 0

    split: Split
    size: tuple[int, int]
    """Not used: the photograph comes at its own size."""

    def __post_init__(self):
        if self.split != "test":
            raise DataError(
                f"motorcycle has no {self.split} split; it is one photograph, for testing only"
            )
        _ = self._paths

    def names(self) -> list[str]:
        """Return the name of the photograph, for the fingerprint of the data."""
        return [self._paths["image"].name]

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def __getitem__(self, index: int) -> Sample:
        """Read the photograph; IndexError for another index than 0 and -1."""
        range(1)[index]
        disparity = io.read_map(self._paths["disparity"])
        mask = np.isfinite(disparity)
        scale, offset = np.float32(FOCAL * BASELINE), np.float32(OFFSET)
        depth = scale / (np.where(mask, disparity, np.float32(0)) + offset)
        return {
            "image": io.read_image(self._paths["image"]),
            "depth": np.where(mask, depth, np.float32(0)),
            "mask": mask,
        }

    @functools.cached_property
    def _paths(self) -> dict[str, pathlib.Path]:
        spec = importlib.util.find_spec("skimage")
        folders = spec.submodule_search_locations if spec else None
        if not folders:
            raise DataError(
                "motorcycle needs scikit-image, which ships the photograph;"
                ' pip install "reldepth-jax[photo]"'
            )
        folder = pathlib.Path(folders[0], "data")
        for name in _FILES.values():
            if not (folder / name).is_file():
                raise DataError(
                    f"motorcycle: this scikit-image comes without {io.printable(folder / name)};"
                    ' pip install --force-reinstall "scikit-image>=0.26"'
                )
        return {what: folder / name for what, name in _FILES.items()}
