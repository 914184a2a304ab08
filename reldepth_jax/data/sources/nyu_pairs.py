"""NYUDv2 with ordinal relations of point pairs, as Chen et al. (2016) published them.

Source: pairs, Zoran et al., ICCV 2015; lists, Chen et al., NIPS 2016, and the reading of
their test script, test_model_on_NYU.lua of princeton-vl/relative_depth. For research use.
Layout: the lists named in `LISTS`, in the folder or in `data`, and the images in folders beside
them, PNG. Test images may have depth, `N_depth.h5` beside the Nth image of the list: `/depth`,
480x640, float metres.
Lists: a line of titles; then for each image `path,…,n` and n lines `y_A,x_A,y_B,x_B,relation`,
coordinates from 1, `>` where the first point is farther, `<` nearer, `=` equally far.
"""

import dataclasses
import math
import os
import pathlib

import numpy as np
from jaxtyping import Float32

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files, hdf5, pair_lists
from reldepth_jax.data.reading.declaration import DataSet, Lists
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.pair_lists import PairList
from reldepth_jax.data.reading.records import Part, Record, Records
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import DepthIs, Split

LISTS: dict[Part, tuple[str, ...]] = {
    "train": ("750_train_from_795_NYU_MITpaper_train_imgs_800_points_resize_240_320.csv",),
    "val": (
        "45_validate_from_795_NYU_MITpaper_train_imgs_800_points_resize_240_320.csv",
        "45_NYU_validate_imgs_points_resize_240_320.csv",
    ),
    "test": ("654_NYU_MITpaper_test_imgs_orig_size_points.csv",),
}
"""Names of the list of each part; the second of val is the default of the test script."""
SIZES: dict[Part, tuple[int, int]] = {"train": (240, 320), "val": (240, 320), "test": (480, 640)}
"""Height and width of the images of each part."""


def find_list(folder: pathlib.Path, part: Part) -> tuple[str | None, pathlib.Path]:
    """Return the list of a part, None without one, and the folder below which its images are."""
    for inside in (folder, folder / "data"):
        for name in LISTS[part]:
            if (inside / name).exists():
                return os.fspath(inside / name), inside
    return None, folder


def read_list(listing: str, part: Part) -> PairList:
    """Return what the list of a part holds, with its defective lines.

    Raises DataError where a line that begins an image is defective: what follows is lost.
    """
    size = SIZES[part]
    found = PairList(listing, "><=")
    left = stated = number = 0
    lines = pair_lists.read_lines(listing)
    next(lines, None)
    for line, fields in lines:
        # Once an image's line is misread, so is all that follows: these are not left out.
        if left and len(fields) == 3:
            raise found.error(number, f"states {stated} pairs, but {stated - left} follow")
        if left:
            left -= 1
            try:
                if len(fields) != 5:
                    raise ValueError(pair_lists.expected(5, fields))
                found.add_pair(found.pair(fields, size))
            except ValueError as reason:
                found.reject(line, str(reason))
            continue
        try:
            if len(fields) != 3:
                raise ValueError(pair_lists.expected(3, fields))
            number, left = line, pair_lists.number(fields[2])
            if left < 0:
                raise ValueError(f"{left} pairs")
            found.add_image(_image_path(fields[0]), size)
        except ValueError as reason:
            raise found.error(
                line, f"{reason}; here the line of an image, `path,…,pairs`, is due"
            ) from None
        stated = left
    if left:
        raise found.error(number, f"states {stated} pairs, but {stated - left} follow")
    return found


def _image_path(written: str) -> str:
    # The scripts that read these lists are run two folders beside the data: `../../data/…`.
    path = written.strip()
    while path.startswith("../"):
        path = path.removeprefix("../")
    return pair_lists.inner_path(path)


@SOURCES.register("nyu_pairs")
@dataclasses.dataclass(frozen=True)
class NYUPairs(DataSetSource):
    """NYUDv2 with annotated pairs, and with depth for the evaluation if asked.

    Lines of a list that are defective are left out, see `rejected`; more than 1 % of them (at least
    10) are refused when the source is made.
    """

    data_set = DataSet(
        name="nyu_pairs",
        parts=("train", "val", "test"),
        counts={"train": 750, "val": 45, "test": 654},
        layout=Lists(find_list, read_list),
        pairs=True,
        resizes=True,
        home="https://github.com/princeton-vl/relative_depth",
        licence="research use",
        polarity="'>' must mean that the first point is farther, and rows come before columns",
        doctor_options={"test": {"depth": True}},
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder."""
    pairs_per_image: int = 800
    """Annotated pairs of an image that a training step uses at most."""
    depth: bool = False
    """Whether to read depth too, where an image has it. Not for training on the annotated pairs:
    where there is depth, pairs may be drawn from it."""

    @property
    def depth_is(self) -> DepthIs:
        """What depth is known to be."""
        return "depth" if self.depth else "pairs"

    def __post_init__(self) -> None:
        if self.pairs_per_image < 1:
            raise DataError(
                f"nyu_pairs: pairs_per_image must be at least 1, got {self.pairs_per_image}"
            )
        super().__post_init__()

    def read_part(self, part: Part) -> Records:
        """Return the records of the folder; DataError if it has no list of this part."""
        records = super().read_part(part)
        if records is None:
            raise DataError(
                f"nyu_pairs: {io.printable(self.root)} has no {part} split here; it would be"
                f" {' or '.join(LISTS[part])}"
            )
        return records

    def record(self, index: int) -> Record:
        """Read the files of one sample, with a map "depth" if it is asked for and there.

        Raises UnreadableFile if a file is damaged or the image is not of the size that the list
        refers to, DataError if depth is to be read and h5py is not installed.
        """
        record = super().record(index)
        folder = os.path.dirname(os.path.join(self._records.records.root, record["name"]))
        path = os.path.join(folder, f"{index + 1}_depth.h5")
        if not self.depth or not os.path.lexists(path):
            return record
        depth = _read_depth(path)
        files.require_fit(depth, SIZES[self.split], path)
        return {**record, "maps": {"depth": depth}}

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Return depth where there is some."""
        if "depth" not in maps:
            return super().truth(maps, crop, path)
        depth = crop.map(maps["depth"])
        mask = np.isfinite(depth) & (depth > 0)
        return {"depth": np.where(mask, depth, np.float32(0)), "mask": mask}


def _read_depth(path: str) -> Float32[np.ndarray, "h w"]:
    with hdf5.open_file(path) as file:
        depth = hdf5.dataset(file, "depth")
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise ValueError(f"/depth is no map of real numbers: {depth.dtype} {depth.shape}")
        # A small file may claim to hold a large map.
        if not 0 < math.prod(depth.shape) <= io.MAX_PIXELS:
            raise ValueError(f"/depth has the shape {depth.shape}")
        with np.errstate(over="ignore"):
            return depth[()].astype(np.float32)
