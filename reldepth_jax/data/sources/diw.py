"""Depth in the Wild (DIW): 495,000 web images, in each of which people compared two points.

Source: Chen et al., NIPS 2016, Section 3; the reading of its test script, test_model_on_DIW.lua of
princeton-vl/relative_depth. For research use.
Layout: images in `DIW_train_val` and `DIW_test`, JPEG named `.thumb`; lists beside them, in
`DIW_Annotations` or `DIW_Annotations_splitted`, or in one of these within one of these:
`DIW_test.csv`, and `DIW_train.csv` with `DIW_val.csv` or both in one as `DIW_train_val.csv`.
Lists: two lines for each image, its path and `y_A,x_A,y_B,x_B,relation,width,height`, coordinates
from 1, `>` where the first point is farther, `<` where it is nearer. The lists of YouTube3D (Chen
et al., CVPR 2019; DIWDataset.py) have a line of titles before that, and two more fields behind each
path, the number of pairs being the last.
"""

import dataclasses
import os
import pathlib

from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import pair_lists
from reldepth_jax.data.reading.declaration import DataSet, Lists
from reldepth_jax.data.reading.pair_lists import PairList
from reldepth_jax.data.reading.records import Part
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Split

_NAMES = ("DIW_Annotations", "DIW_Annotations_splitted")
_FOLDERS = ("", *_NAMES, *(f"{one}/{other}" for one in _NAMES for other in _NAMES))


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
class DIW(DataSetSource):
    """DIW from its folder, or from prepared shards: one annotated pair an image, no depth.

    Lines of a list that are defective are left out, see `rejected`; more than 1 % of them (at least
    10) are refused when the source is made.
    """

    data_set = DataSet(
        name="diw",
        parts=("train", "val", "test"),
        # Of training and validation only the sum is published, roughly.
        counts={"test": 74_441},
        layout=Lists(
            find_list,
            read_list,
            names="DIW_test.csv, DIW_train.csv and DIW_train_val.csv",
            random_order=True,
        ),
        pairs=True,
        home="http://www-personal.umich.edu/~wfchen/depth-in-the-wild/",
        licence="research use",
        polarity="'>' must mean that the first point is farther, and rows come before columns",
    )
    pairs_per_image = 1

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder in which the archives were extracted."""
    prepared: str = ""
    """Folder of shards written by `reldepth prepare`, instead of `root`."""
    validation: int = 1410
    """Images held out for validation where no list has them (Xian et al. (2018) take as many; which
    ones is not published)."""
