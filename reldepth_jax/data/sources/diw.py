"""Depth in the Wild (DIW): 495,000 web images, in each of which people compared two points.

Source: Chen et al., NIPS 2016, Section 3; the reading of its test script, test_model_on_DIW.lua of
princeton-vl/relative_depth. For research use.
Layout: images in `DIW_train_val` and `DIW_test`, JPEG named `.thumb`; lists beside them or in
`DIW_Annotations` or `DIW_Annotations_splitted`: `DIW_test.csv`, and `DIW_train.csv` with
`DIW_val.csv` or both in one as `DIW_train_val.csv`.
Lists: two lines for each image, its path and `y_A,x_A,y_B,x_B,relation,width,height`, coordinates
from 1, `>` where the first point is farther, `<` where it is nearer. The lists of YouTube3D (Chen
et al., CVPR 2019; DIWDataset.py) have a line of titles before that, and two more fields behind each
path, the number of pairs being the last.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from reldepth_jax.data.cropping import ChooseCrop, whole
from reldepth_jax.data.images import io
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.reading import files, pair_lists
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.pair_lists import ListedRecords, PairList, Rejected
from reldepth_jax.data.reading.records import Part, Record, Selected, open_part, select
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

COUNTS: dict[Part, int] = {"test": 74_441}
"""Images of each part as published; of training and validation only the sum is, roughly."""
MAPS: dict[str, np.dtype] = {}

_PARTS: tuple[Part, ...] = ("train", "val", "test")
_FOLDERS = ("", "DIW_Annotations", "DIW_Annotations_splitted")


def read_part(root: str, part: Part) -> ListedRecords | None:
    """Return the records of the folder; "train" holds the validation images if no list has them."""
    folder = files.require_folder(root, "diw")
    if not any(find_list(folder, other)[0] for other in _PARTS):
        raise DataError(
            f"diw: {io.printable(folder)} holds none of DIW_test.csv, DIW_train.csv and"
            " DIW_train_val.csv; give the folder in which the archives were extracted"
        )
    listing, base = find_list(folder, part)
    return None if listing is None else read_list(listing, part).records(folder, base)


def find_list(folder: pathlib.Path, part: Part) -> tuple[str | None, pathlib.Path]:
    """Return the list of a part, None without one, and the folder below which its images are."""
    listing = _find(folder, f"DIW_{part}.csv")
    if part != "test" and _find(folder, "DIW_train.csv") is None:
        # This list has the validation images too: those of DIW_val.csv would be trained on.
        joined = _find(folder, "DIW_train_val.csv")
        if joined is not None:
            listing = joined if part == "train" else None
    return listing, folder


def _find(folder: pathlib.Path, name: str) -> str | None:
    paths = [folder / inside / name for inside in _FOLDERS]
    return next((os.fspath(path) for path in paths if path.exists()), None)


def read_list(listing: str, part: Part) -> PairList:
    """Return what a list of whatever part holds, with its defective lines."""
    del part  # All parts are written alike.
    found = PairList(listing, "><")
    number, path = 0, None
    for line, fields in pair_lists.read_lines(listing):
        if path is not None and (len(fields) == 7 or not _names_an_image(fields[0])):
            _add(found, number, path, line, fields)
            path = None
        elif len(fields) == 7:
            found.reject(line, "no line with the path of an image precedes this pair")
        else:
            # Before the first path of YouTube3D's lists stands a line of titles.
            if path is not None and not (number == 1 and len(fields) == 3):
                found.reject(number, "no line with a pair follows this path")
            number, path = line, fields
    if path is not None:
        found.reject(number, "no line with a pair follows this path")
    return found


def _add(found: PairList, number: int, path: list[str], line: int, fields: list[str]) -> None:
    if len(path) not in (1, 3) or len(path) == 3 and path[2].strip() != "1":
        found.reject(number, "expected the path of an image, or `path,…,1`")
        return
    try:
        image = pair_lists.inner_path(path[0])
    except ValueError as reason:
        found.reject(number, str(reason))
        return
    try:
        if len(fields) != 7:
            raise ValueError(pair_lists.expected(7, fields))
        width, height = pair_lists.number(fields[5]), pair_lists.number(fields[6])
        if min(width, height) < 1 or width * height > io.MAX_PIXELS:
            raise ValueError(f"an image of {width}x{height} pixels")
        pair = found.pair(fields, (height, width))
    except ValueError as reason:
        found.reject(line, str(reason))
        return
    found.add_image(image, (height, width))
    found.add_pair(pair)


def _names_an_image(field: str) -> bool:
    suffix = os.path.splitext(field.strip())[1].lower()
    return suffix == ".thumb" or suffix in io.IMAGE_SUFFIXES


@SOURCES.register("diw")
@dataclasses.dataclass(frozen=True)
class DIW:
    """DIW from its folder, or from prepared shards: one annotated pair an image, no depth.

    Lines of a list that are defective are left out, see `rejected`; more than 1 % of them (at least
    10) are refused when the source is made.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder in which the archives were extracted."""
    prepared: str = ""
    """Folder of shards written by scripts/prepare_data.py, instead of `root`."""
    validation: int = 1410
    """Images held out for validation where no list has them (Xian et al. (2018) take as many; which
    ones is not published)."""

    def __post_init__(self):
        len(self)

    @property
    def pairs_per_image(self) -> int:
        """One."""
        return 1

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Lines of the list that were left out; none of prepared shards."""
        records = self._records.records
        return records.rejected if isinstance(records, ListedRecords) else ()

    def __len__(self) -> int:
        """Return how many samples the split has."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; UnreadableFile if the image is damaged or not of the stated size."""
        return self.decode(self._records[index])

    def read_crop(self, index: int, choose: ChooseCrop) -> Sample:
        """Read a part of one sample."""
        return self.decode(self._records[index], choose)

    def decode(self, record: Record, choose: ChooseCrop = whole) -> Sample:
        """Interpret one record."""
        path = os.path.join(self.root or self.prepared, record["name"])
        photograph, pairs = Photograph(record["image"], path), record["pairs"]
        pair_lists.require_inside(photograph.size, pairs, path)
        crop = choose(*photograph.size, pairs)
        return pair_lists.only_pairs(crop.image(photograph), crop.pairs(pairs))

    @functools.cached_property
    def _records(self) -> Selected:
        read = open_part("diw", self.prepared, self.root, read_part)
        return select("diw", self.split, read, validation=self.validation)
