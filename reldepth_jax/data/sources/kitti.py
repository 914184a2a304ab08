"""KITTI depth: street scenes with sparse laser depth in metres, for testing only.

Source: Uhrig et al., 3DV 2017, "Sparsity invariant CNNs" (ground truth accumulated over frames).
Layout: `depth_selection/val_selection_cropped/image/DRIVE_sync_image_FRAME_image_02.png` and
`…/groundtruth_depth/DRIVE_sync_groundtruth_depth_FRAME_image_02.png`, 1000 images; or any files
that a list names.
Maps: 16 bits, metres times 256; 0 is not measured.

MiDaS (Ranftl et al., TPAMI 2022) tests on 161 images: those of the Eigen test split (2014) that are
in the official validation set, the whole folder `val` of the annotated depth, not the selection
(which drives: MiDaS issue 18). Their names are not part of this project: give them as `list`.
"""

import dataclasses
import functools
import os
import pathlib

import numpy as np

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import FileRecords, Part, Record, Selected, select
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

COUNTS: dict[Part, int] = {"test": 161}
"""Images of MiDaS' list; without a list there are 1000."""
MAPS = {"depth": np.dtype(np.uint16)}


def read_part(root: str, part: Part, listing: str = "") -> FileRecords | None:
    """Return the records of the selection, or of the pairs that `listing` names; all are "test"."""
    if part != "test":
        return None
    folder = files.require_folder(root, "kitti")
    images, maps = _listed(folder, listing) if listing else _selection(folder)
    return FileRecords(os.fspath(folder), images, {"depth": maps})


def _selection(folder: pathlib.Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    for inside in ("depth_selection", "val_selection_cropped"):
        if (folder / inside).is_dir():
            folder /= inside
    images, maps = (
        files.find(files.require_folder(folder / name, "kitti"), {".png"})
        for name in ("image", "groundtruth_depth")
    )
    maps = {name.replace("_groundtruth_depth_", "_image_", 1): path for name, path in maps.items()}
    names = files.common_names(folder, {"images": images, "depth maps": maps})
    return tuple(images[name] for name in names), tuple(maps[name] for name in names)


def _listed(folder: pathlib.Path, listing: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    text = io.read_bytes(listing).decode("utf-8-sig", "surrogateescape")
    rows = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    rows = [(number, fields) for number, fields in rows if fields]
    for number, fields in rows:
        if len(fields) != 2:
            raise DataError(
                f"{io.printable(listing)}:{number}: expected 'image_path depth_path', got"
                f" {len(fields)} fields"
            )
    if not rows:
        raise DataError(f"{io.printable(listing)}: names no image")
    images, maps = (
        tuple(files.listed_paths(folder, [fields[column] for _, fields in rows], listing))
        for column in (0, 1)
    )
    for (number, _), *paths in zip(rows, images, maps, strict=True):
        for path in paths:
            if not os.path.isfile(path):
                raise DataError(
                    f"{io.printable(listing)}:{number}: there is no file {io.printable(path)}"
                )
    return images, maps


@SOURCES.register("kitti")
@dataclasses.dataclass(frozen=True)
class Kitti:
    """KITTI depth from its folder; depth in metres, a mask for the pixels that were measured.

    Nothing is cropped, and far depth is not capped: that is up to the protocol of an evaluation.
    """

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds `depth_selection`, or that the paths of `list` start from."""
    list: str = ""
    """A text file with lines `image_path depth_path`; empty for the official selection."""

    def __post_init__(self):
        if self.split != "test":
            raise DataError(f"kitti has no {self.split} split; it is for testing only")
        len(self)

    @property
    def pairs_per_image(self) -> int:
        """None is annotated."""
        return 0

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Read one sample; UnreadableFile if its files are damaged or do not fit."""
        return self.decode(self._records[index])

    def decode(self, record: Record) -> Sample:
        """Interpret one record."""
        path = os.path.join(self.root, record["name"])
        image, values = io.decode_image(record["image"], path), record["maps"]["depth"]
        if values.dtype != np.uint16:
            raise io.UnreadableFile(path, f"its depth map has {values.dtype} values, not 16 bits")
        if values.shape != image.shape[:2]:
            raise io.UnreadableFile(
                path,
                f"{image.shape[1]}x{image.shape[0]} pixels, but its depth map has"
                f" {values.shape[1]}x{values.shape[0]}",
            )
        depth = values.astype(np.float32) / np.float32(256)
        return {"image": image, "depth": depth, "mask": values > 0}

    @functools.cached_property
    def _records(self) -> Selected:
        def read(part: Part) -> FileRecords | None:
            return read_part(self.root, part, self.list)

        return select("kitti", self.split, read, validation=0)
