"""TUM RGB-D: indoor scenes with moving people and Kinect depth in metres, for testing only.

Source: Sturm et al., IROS 2012, in the selection of Li et al., CVPR 2019 (MannequinChallenge,
archive `tum_hdf5`): 1815 images, which MiDaS (Ranftl et al., TPAMI 2022) tests on.
Layout: `NAME.h5`, each with the arrays `/gt/img_1` (h, w, 3), RGB as float from 0 to 1 or as uint8,
and `/gt/gt_depth` (h, w), float, in metres; 0 and NaN are not measured.
"""

import dataclasses
import os
from typing import ClassVar

import numpy as np
from jaxtyping import Shaped, UInt8

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files, hdf5
from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Part, Record, relative_name
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import NO_PAIRS, Split

_NOTHING = 1e-8
"""Depth up to here is not measured (Li et al.'s loader)."""


@dataclasses.dataclass(frozen=True)
class TUMRecords:
    """Records that are one HDF5 file each."""

    own_images: ClassVar[bool] = False

    root: str
    paths: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.paths)

    def places(self, index: int) -> dict[str, str]:
        """Return the path of the file for image and map."""
        return dict.fromkeys(("image", "depth"), self.paths[index])

    def __getitem__(self, index: int) -> Record:
        """Read one file; UnreadableFile if it is damaged."""
        path = self.paths[index]
        with hdf5.open_file(path) as file:
            image, depth = hdf5.dataset(file, "gt/img_1"), hdf5.dataset(file, "gt/gt_depth")
            if len(depth.shape) != 2 or image.shape != (*depth.shape, 3) or not depth.size:
                raise ValueError(
                    f"gt/img_1 is {image.shape} and gt/gt_depth {depth.shape},"
                    " not (h, w, 3) and (h, w)"
                )
            if depth.size > io.MAX_PIXELS:
                raise ValueError(f"has more than {io.MAX_PIXELS / 1e6:.0f} million pixels")
            if depth.dtype.kind != "f":
                raise ValueError(f"gt/gt_depth holds {depth.dtype} values, not metres as float")
            pixels = _bytes_of(image[()])
            with np.errstate(over="ignore"):
                values = depth[()].astype(np.float32)
        return {
            "name": relative_name(path, self.root),
            "image": hdf5.encode_png(pixels),
            "maps": {"depth": values},
            "pairs": NO_PAIRS,
        }


def _bytes_of(image: Shaped[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return 0 … 255, rounded where the array holds 0 … 1; its dtype tells which."""
    if image.dtype == np.uint8:
        return image
    if image.dtype.kind != "f":
        raise ValueError(f"gt/img_1 holds {image.dtype} values, neither uint8 nor float")
    with np.errstate(over="ignore"):
        rounded = np.rint(image.astype(np.float32) * 255)
    if not ((rounded >= 0) & (rounded <= 255)).all():
        raise ValueError("gt/img_1 holds float values outside 0 … 1")
    return rounded.astype(np.uint8)


def _read(root: str, part: Part) -> TUMRecords:
    folder = files.require_folder(root, "tum")
    found = files.find(folder, {".h5"})
    if not found:
        raise DataError(f"tum: there is no .h5 file below {io.printable(folder)}")
    return TUMRecords(os.fspath(folder), tuple(found[name] for name in sorted(found)))


@SOURCES.register("tum")
@dataclasses.dataclass(frozen=True)
class TUM(DataSetSource):
    """TUM RGB-D from its folder; depth in metres, a mask for the pixels that were measured.

    Far depth is not capped: that is up to the protocol of an evaluation.
    """

    data_set = DataSet(
        name="tum",
        parts=("test",),
        counts={"test": 1815},
        layout=OwnFormat(_read),
        maps={"depth": Map(np.dtype(np.float32))},
        home="https://github.com/google/mannequinchallenge",
        licence="CC BY 4.0",
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds the .h5 files."""

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Return depth; UnreadableFile if it is not possible."""
        if (maps["depth"] < 0).any() or np.isinf(maps["depth"]).any():
            raise io.UnreadableFile(path, "gt/gt_depth holds negative or infinite values")
        depth = crop.map(maps["depth"])
        return {"depth": depth, "mask": depth > _NOTHING}
