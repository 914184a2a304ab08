"""DA-2K: 1,000 images of eight kinds of scenes with 2,000 annotated point pairs, for tests.

Source: Yang et al., NeurIPS 2024 (Depth Anything V2), Section 6; DA-2K.md of
DepthAnything/Depth-Anything-V2.
Layout: `annotations.json` and `images/SCENE/NAME`, below `DA-2K` or not.
Annotations: {"images/SCENE/NAME": [{"point1": [row, column], "point2": [row, column],
"closer_point": "point1"}, …], …}. The order of coordinates is published; that they count from 0 is
not, and is assumed here.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np

from reldepth_jax import checked_json
from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files, pair_lists
from reldepth_jax.data.reading.declaration import DataSet, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.pair_lists import ListedRecords
from reldepth_jax.data.reading.records import Part, relative_name
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Split


def _read(root: str, part: Part) -> ListedRecords:
    """Return the records of the folder, named as in the annotations; DataError: what is wrong."""
    folder = files.require_folder(root, "da2k")
    if (folder / "DA-2K").is_dir():
        folder /= "DA-2K"
    listing = folder / "annotations.json"
    if not listing.exists():
        raise DataError(
            f"da2k: {io.printable(listing)} is missing; give the folder that DA-2K.zip gave"
        )
    try:
        return _parse(folder, listing)
    except RecursionError:
        raise DataError(f"{io.printable(listing)}: is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, DataError | io.UnreadableFile):
            raise
        raise DataError(f"{io.printable(listing)}: {error}") from None


def _parse(folder: pathlib.Path, listing: pathlib.Path) -> ListedRecords:
    content = json.loads(io.read_bytes(listing), object_pairs_hook=checked_json.unique)
    if not isinstance(content, dict) or not content:
        raise ValueError("expected an object with the paths of images")
    images, rows, stops = [], [], []
    for written, annotations in content.items():
        images.append(pair_lists.inner_path(written))
        if not isinstance(annotations, list) or not annotations:
            raise ValueError(f"{pair_lists.quoted(written)}: expected a list of annotations")
        for place, annotation in enumerate(annotations):
            try:
                first, second, relation = _pair(annotation)
            except ValueError as reason:
                raise ValueError(
                    f"{pair_lists.quoted(written)}, annotation {place}: {reason}"
                ) from None
            # As published the first point is always the nearer one: always saying so would be right
            # every time.
            if len(rows) % 2:
                first, second, relation = second, first, -relation
            rows.append((*first, *second, relation))
        stops.append(len(rows))
    return ListedRecords(
        root=os.fspath(folder),
        paths=tuple(files.listed_paths(folder, images, os.fspath(listing))),
        pairs=np.array(rows, np.int32),
        stops=np.array(stops, np.int64),
    )


def _pair(annotation: Any) -> tuple[tuple[int, int], tuple[int, int], int]:
    if not isinstance(annotation, dict):
        raise ValueError("expected an object with point1, point2 and closer_point")
    first, second = (_point(annotation, name) for name in ("point1", "point2"))
    closer = annotation.get("closer_point")
    if closer not in ("point1", "point2"):
        raise ValueError(f"closer_point is {pair_lists.quoted(str(closer))}, not a point")
    if first == second:
        raise ValueError(f"both points are {first}")
    return first, second, -1 if closer == "point1" else 1


def _point(annotation: dict[str, Any], name: str) -> tuple[int, int]:
    point = annotation.get(name)
    # To Python, true is a number.
    if (
        not isinstance(point, list)
        or len(point) != 2
        or not all(type(value) in (int, float) and 0 <= value < 2**31 for value in point)
    ):
        got = pair_lists.quoted(str(point))
        raise ValueError(f"{name} is {got}, not [row, column] from 0")
    return int(point[0]), int(point[1])


@SOURCES.register("da2k")
@dataclasses.dataclass(frozen=True)
class DA2K(DataSetSource):
    """DA-2K from its folder: annotated pairs, no depth; a test split only.

    The two points of every second pair are exchanged: in the publication the nearer one always
    comes first.
    """

    data_set = DataSet(
        name="da2k",
        parts=("test",),
        counts={},
        layout=OwnFormat(_read, check="list"),
        home="https://huggingface.co/datasets/depth-anything/DA-2K",
        size="681 MB",
        licence="Apache-2.0",
        pairs=True,
        polarity="closer_point must be the nearer one, and rows come before columns",
    )

    split: Split
    size: tuple[int, int]
    """Not used: images come at their own size."""
    root: str = ""
    """The extracted folder."""

    @property
    def pairs_per_image(self) -> int:
        """The most that an image has."""
        return int(np.diff(self._records.records.stops, prepend=0).max())

    def scene(self, index: int) -> str:
        """Return the kind of scene: "indoor", "outdoor", "non_real", …, from the image's path."""
        records = self._records.records
        name = pathlib.PurePath(relative_name(records.paths[index], records.root))
        return name.parts[1] if len(name.parts) > 2 else ""
