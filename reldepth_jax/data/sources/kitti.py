"""KITTI depth: street scenes with sparse laser depth in metres, for testing only.

Source: Uhrig et al., 3DV 2017, "Sparsity invariant CNNs" (ground truth accumulated over frames).
Layout: `depth_selection/val_selection_cropped/image/DRIVE_sync_image_FRAME_image_02.png` and
`…/groundtruth_depth/DRIVE_sync_groundtruth_depth_FRAME_image_02.png`, 1000 images; or any files
that a list names.
Maps: 16 bits, metres times 256; 0 is not measured.

MiDaS (Ranftl et al., TPAMI 2022) tests on 161 images: those of the Eigen test split (2014) that are
in the official validation set, the whole folder `val` of the annotated depth, not the selection
(which drives: MiDaS issue 18). Their names follow from public lists, see docs/evaluation.md; give
them as `list`.
"""

import dataclasses
import os
import pathlib

import numpy as np

from reldepth_jax.data.cropping import Crop, Truth
from reldepth_jax.data.data_set import DataSetSource, Maps
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import FileRecords, Part, Records
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Split


def _image_name(depth: str) -> str:
    return depth.replace("_groundtruth_depth_", "_image_", 1)


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
class Kitti(DataSetSource):
    """KITTI depth from its folder; depth in metres, a mask for the pixels that were measured.

    Nothing is cropped, and far depth is not capped: that is up to the protocol of an evaluation.
    """

    data_set = DataSet(
        name="kitti",
        parts=("test",),
        # Of MiDaS' list; without a list there are 1000.
        counts={"test": 161},
        layout=Folders(
            {
                "image": Files(("image",), {".png"}, "images"),
                "depth": Files(("groundtruth_depth",), {".png"}, "depth maps", _image_name),
            },
            above=("depth_selection", "val_selection_cropped"),
        ),
        maps={"depth": Map(np.dtype(np.uint16))},
        home="https://www.cvlibs.net/datasets/kitti/eval_depth_all.php",
        size="14 GB of annotated depth, and the raw drives of the listed images",
        licence="CC BY-NC-SA 3.0",
    )

    list_file = "list.txt"

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The folder that holds `depth_selection`, or that the paths of `list` start from."""
    list: str = ""
    """A text file with lines `image_path depth_path`; empty: `list.txt` in `root` if there is one,
    else the official selection."""

    def read_part(self, part: Part) -> Records | None:
        """Return the records of the selection, or those that `list` names."""
        if part != "test":
            return None
        folder = files.require_folder(self.root, "kitti")
        beside = folder / self.list_file
        listing = self.list or (os.fspath(beside) if beside.is_file() else "")
        if not listing:
            return super().read_part(part)
        images, maps = _listed(folder, listing)
        return FileRecords(os.fspath(folder), images, {"depth": maps})

    def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
        """Interpret the depth map."""
        values = crop.map(maps["depth"])
        return {"depth": values.astype(np.float32) / np.float32(256), "mask": values > 0}
