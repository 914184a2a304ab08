"""The user's own data: a folder of photographs and a folder of depth or disparity maps."""

import dataclasses
import functools
import os
import pathlib
import re
from typing import Literal

import numpy as np

from reldepth_jax.conventions import Sample, Split
from reldepth_jax.data import geometry, io
from reldepth_jax.errors import UserError
from reldepth_jax.registry import SOURCES

_ASPECT_TOLERANCE = 0.02
_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?%|\d*)\s*:\s*(\d+(?:\.\d+)?%|\d*)\s*")


class DataError(UserError):
    """A data set that cannot be used as it is described, in one line."""


@SOURCES.register("folder")
@dataclasses.dataclass(frozen=True)
class Folder:
    """Photographs and maps below `root`, paired by their paths without extension.

    Formats are those of `io.read_image` and `io.read_map`. A map is in the orientation in which its
    photograph is displayed; where it has another size at the same aspect ratio (within 2 %) it is
    resized by nearest neighbour. The depth's unit is whatever `scale` makes of the file's.

    Raises DataError when made: nothing at `root`, photographs or maps without partner, no sample in
    `split`, training images that are also validation or test images.
    """

    split: Split
    size: tuple[int, int]
    """Not used: photographs come at their own size."""
    root: str = ""
    images: str = "rgb"
    """Folder of the photographs below `root`."""
    maps: str = "depth"
    """Folder of the maps below `root`."""
    polarity: Literal["depth", "disparity"] = "depth"
    """Whether larger values are farther (depth) or nearer (disparity, inverse depth)."""
    scale: float = 1.0
    """What file values are multiplied by, e.g. 0.001 from millimetres."""
    offset: float = 0.0
    """What is added to file values before that, e.g. Middlebury's `doffs` to disparities."""
    invalid: tuple[float, ...] = (0.0,)
    """File values that mean "not measured". NaN and what gives a negative depth never count."""
    infinity: tuple[float, ...] = ()
    """File values that mean "infinitely far", even if `invalid` has them too."""
    train: str = "0:80%"
    """Training samples, as a range over the sorted names: indices or percentages."""
    val: str = "80%:90%"
    test: str = "90%:100%"

    def __post_init__(self):
        if not self.scale > 0:
            raise DataError(f"folder: scale must be greater than 0, got {self.scale}")
        if not len(self):
            part = getattr(self, self.split)
            raise DataError(
                f"{io.printable(self.root)}: {self.split}={part!r} selects none of the"
                f" {len(self._pairs)} samples"
            )
        if self.split == "train":
            for other in ("val", "test"):
                common = set(self._range("train")) & set(self._range(other))
                if common:
                    raise DataError(
                        f"{io.printable(self.root)}: train={self.train!r} and"
                        f" {other}={getattr(self, other)!r} share {len(common)} of"
                        f" {len(self._pairs)} samples; set ranges that do not overlap"
                    )

    def __len__(self) -> int:
        """Return how many samples the split has."""
        return len(self._range(self.split))

    def __getitem__(self, index: int) -> Sample:
        """Read one photograph with its depth.

        Raises UnreadableFile if one of the two cannot be read or their aspect ratios differ.
        """
        image_path, map_path = self._pairs[self._range(self.split)[index]]
        image, values = io.read_image(image_path), io.read_map(map_path)
        height, width = image.shape[:2]
        ratio = (values.shape[1] * height) / (values.shape[0] * width)
        if not 1 / (1 + _ASPECT_TOLERANCE) <= ratio <= 1 + _ASPECT_TOLERANCE:
            raise io.UnreadableFile(
                map_path,
                f"{values.shape[1]}x{values.shape[0]} pixels do not go with the photograph's"
                f" {width}x{height} (as displayed)",
            )
        values = geometry.resize_map_nearest(values, (height, width))
        depth, mask = self._depth(values)
        return {"image": image, "depth": depth, "mask": mask}

    def _depth(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        infinite = np.isin(values, np.array(self.infinity, np.float32))
        mask = ~np.isin(values, np.array(self.invalid, np.float32))
        scaled = (values + np.float32(self.offset)) * np.float32(self.scale)
        if self.polarity == "disparity":
            with np.errstate(divide="ignore", over="ignore"):
                # Adding zero turns -0 into 0, whose reciprocal is +inf.
                scaled = 1 / (scaled + np.float32(0))
        depth = np.where(infinite, np.float32(np.inf), scaled)
        mask = (mask | infinite) & (depth > 0)
        return np.where(mask, depth, np.float32(0)), mask

    def _range(self, split: str) -> range:
        text = getattr(self, split)
        match = _RANGE.fullmatch(text)
        if not match:
            raise DataError(
                f"folder: {split}={text!r} is not a range; write e.g. '0:40' or '80%:90%'"
            )
        count = len(self._pairs)

        def position(part: str, default: int) -> int:
            if part.endswith("%"):
                return int(count * float(part[:-1]) / 100)
            return int(part) if part else default

        start, stop = position(match[1], 0), position(match[2], count)
        return range(count)[start:stop]

    @functools.cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        """Paths of photograph and map, sorted by name."""
        if not self.root:
            raise DataError("folder: root is not set; give the folder that holds images and maps")
        root = pathlib.Path(self.root)
        folders = {"images": root / self.images, "maps": root / self.maps}
        for option, folder in folders.items():
            if not folder.is_dir():
                raise DataError(f"folder: {io.printable(folder)} is no folder (root, {option})")
        if folders["images"].resolve() == folders["maps"].resolve():
            raise DataError(f"folder: images and maps are the same, {io.printable(root)}")
        images = _find(folders["images"], io.IMAGE_SUFFIXES, folders["maps"])
        maps = _find(folders["maps"], io.MAP_SUFFIXES, folders["images"])
        common = sorted(images.keys() & maps.keys())
        if not common:
            raise DataError(
                f"{io.printable(root)}: no photograph in {self.images} ({len(images)} files) has"
                f" the name of a map in {self.maps} ({len(maps)} files)"
            )
        for names, others, what, partner in (
            (images, maps, "photographs", "map"),
            (maps, images, "maps", "photograph"),
        ):
            lonely = sorted(names.keys() - others.keys())
            if lonely:
                first = ", ".join(map(io.printable, lonely[:3]))
                raise DataError(
                    f"{io.printable(root)}: {len(lonely)} of {len(names)} {what} have no"
                    f" {partner}: {first}{', …' if len(lonely) > 3 else ''}"
                )
        return [(images[name], maps[name]) for name in common]


def _find(folder: pathlib.Path, suffixes: frozenset[str], other: pathlib.Path) -> dict[str, str]:
    """Return path by name (relative, without extension) of the files below, but not in `other`."""
    found: dict[str, str] = {}
    base, avoid = os.fspath(folder), other.resolve()
    for parent, folders, files in os.walk(base, followlinks=False):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and pathlib.Path(parent, name).resolve() != avoid
        ]
        inside = pathlib.PurePath(os.path.relpath(parent, base)).as_posix()
        for file in files:
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in suffixes or file.startswith("."):
                continue
            path = os.path.join(parent, file)
            name = stem if inside == "." else f"{inside}/{stem}"
            if name in found:
                raise DataError(
                    f"two files have one name: {io.printable(found[name])}, {io.printable(path)}"
                )
            found[name] = path
    return found
