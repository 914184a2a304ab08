"""NYU Depth V2, the labeled images: indoor photographs with Kinect depth in metres.

Source: Silberman et al., ECCV 2012; 1449 images, 795 to train and 654 to test.
Layout: `nyu_depth_v2_labeled.mat` (MATLAB v7.3, that is HDF5) and `splits.mat` (MATLAB v5 or v7.3).
Arrays: MATLAB stores columns first, so that HDF5 shows `images` (N, 3, 640, 480) uint8, and
`depths` and `rawDepths` (N, 640, 480) float, in metres; raw 0 is not measured, `depths` are filled
in. `trainNdxs` and `testNdxs` of the splits count from 1.
"""

import dataclasses
import io as memory
import os
import pathlib
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Shaped

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files, hdf5
from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Part, Record
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import NO_PAIRS, Split

_LABELED = "nyu_depth_v2_labeled.mat"
_SPLITS_AT = "http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat"
_SPLITS: dict[Part, str] = {"train": "trainNdxs", "test": "testNdxs"}
_SHAPES = {"images": (3, 640, 480), "depths": (640, 480), "rawDepths": (640, 480)}


@dataclasses.dataclass(frozen=True)
class LabeledRecords:
    """Records that lie in one file; it is opened for each."""

    own_images: ClassVar[bool] = False

    path: str
    numbers: tuple[int, ...]
    """Which images, counted from 1 as MATLAB and `splits.mat` do."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.numbers)

    def places(self, index: int) -> dict[str, str]:
        """Return the path of the file with the number of the image, for image and maps."""
        return dict.fromkeys(("image", "depth", "raw"), f"{self.path}#{self.numbers[index]}")

    def __getitem__(self, index: int) -> Record:
        """Read one image with its maps, rows first; UnreadableFile if the file is damaged."""
        number = self.numbers[index]
        with hdf5.open_file(self.path) as file:
            image, depth, raw = (hdf5.dataset(file, name)[number - 1].T for name in _SHAPES)
        return {
            "name": f"{_LABELED}#{number}",
            "image": hdf5.encode_png(np.ascontiguousarray(image)),
            "maps": {
                "depth": np.ascontiguousarray(depth, np.float32),
                "raw": np.ascontiguousarray(raw, np.float32),
            },
            "pairs": NO_PAIRS,
        }


def _read(root: str, part: Part) -> LabeledRecords:
    folder = files.require_folder(root, "nyu_depth_v2")
    path, splits = folder / _LABELED, folder / "splits.mat"
    count = _check_arrays(path)
    numbers = {
        name: _numbers(splits, name, values) for name, values in _read_splits(splits).items()
    }
    for name, chosen in numbers.items():
        outside = [number for number in chosen if not 1 <= number <= count]
        if outside:
            raise DataError(
                f"{io.printable(splits)}: {name} names image {outside[0]}, but {_LABELED} holds"
                f" images 1 to {count}"
            )
    chosen = [number for some in numbers.values() for number in some]
    if len(set(chosen)) < len(chosen):
        raise DataError(
            f"{io.printable(splits)}: {len(chosen) - len(set(chosen))} images are named twice in"
            f" {' and '.join(numbers)}"
        )
    return LabeledRecords(os.fspath(path), tuple(numbers[_SPLITS[part]]))


def _check_arrays(path: pathlib.Path) -> int:
    """Return how many images the file holds."""
    counts = {}
    with hdf5.open_file(path) as file:
        for name, shape in _SHAPES.items():
            found = hdf5.dataset(file, name)
            is_image = name == "images"
            fits = found.dtype == np.uint8 if is_image else found.dtype.kind == "f"
            if found.shape[1:] != shape or not fits:
                wanted = f"(N, {str(shape)[1:]} of {'uint8' if is_image else 'float'}"
                raise ValueError(f"{name} is {found.shape} of {found.dtype}, not {wanted}")
            counts[name] = len(found)
        if len(set(counts.values())) > 1:
            raise ValueError(f"holds different numbers of {counts}")
    return counts["images"]


def _read_splits(path: pathlib.Path) -> dict[str, Any]:
    """Return the arrays of `splits.mat`."""
    if not path.exists():
        raise io.UnreadableFile(path, f"no such file; it is not in {_LABELED}, but at {_SPLITS_AT}")
    if hdf5.is_hdf5(path):
        with hdf5.open_file(path) as file:
            return {name: hdf5.dataset(file, name)[()] for name in _SPLITS.values()}
    data = io.read_bytes(path)
    # Only now: it takes time to import.
    import scipy.io

    try:
        content = scipy.io.loadmat(memory.BytesIO(data), variable_names=list(_SPLITS.values()))
    except Exception as error:
        # It raises many types on damaged input.
        raise io.UnreadableFile(path, f"is not a MATLAB file that can be read ({error})") from error
    for name in _SPLITS.values():
        if not isinstance(content.get(name), np.ndarray):
            raise io.UnreadableFile(path, f"has no variable {name!r} that is an array")
    return {name: content[name] for name in _SPLITS.values()}


def _numbers(path: pathlib.Path, name: str, values: Shaped[np.ndarray, "..."]) -> list[int]:
    is_numeric = values.dtype.kind in "uif"
    if not (is_numeric and np.isfinite(values).all() and (values == np.round(values)).all()):
        raise io.UnreadableFile(path, f"{name} holds {values.dtype} values, not image numbers")
    return [int(value) for value in values.flat]


@SOURCES.register("nyu_depth_v2")
@dataclasses.dataclass(frozen=True)
class NYUDepthV2(DataSetSource):
    """NYU Depth V2 from its two files, or from prepared shards; depth in metres.

    Nothing is cropped, and far depth is not capped: that is up to the protocol of an evaluation.
    """

    data_set = DataSet(
        name="nyu_depth_v2",
        parts=("train", "test"),
        counts={"train": 795, "test": 654},
        layout=OwnFormat(_read),
        home="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        size="2.8 GB",
        maps={
            "depth": Map(np.dtype(np.float32)),
            "raw": Map(np.dtype(np.float32), "raw map", role="raw"),
        },
    )

    split: Split
    size: tuple[int, int]
    """Not used: all images are 480 x 640."""
    root: str = ""
    """Folder of the two files."""
    prepared: str = ""
    """Folder of shards written by `reldepth prepare`, instead of `root`."""
    validation: int = 45
    """Training images held out for validation (Chen et al. 2016 held out as many)."""
    depth: Literal["filled", "raw"] = "filled"
    """filled: holes are filled in, every pixel counts. raw: only what the Kinect measured."""

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Return depth; UnreadableFile if it is not possible."""
        name = "depth" if self.depth == "filled" else "raw"
        if not (np.isfinite(maps[name]) & (maps[name] >= 0)).all():
            raise io.UnreadableFile(path, f"its {name} map holds negative or non-finite values")
        depth = crop.map(maps[name])
        return {"depth": depth, "mask": depth > 0}
