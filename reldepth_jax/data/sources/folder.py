"""The user's own data: a folder of photographs and a folder of depth or disparity maps."""

import dataclasses
import functools
import os
import pathlib
import re
from typing import Literal

import numpy as np

from reldepth_jax.data.cropping import Crop, Opened, OpenedPhotograph, Truth
from reldepth_jax.data.images import io
from reldepth_jax.data.images.photograph import Photograph
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.listing import describe, listing
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Split

_RANGE = re.compile(r"\s*(\d+(?:\.\d+)?%|\d*)\s*:\s*(\d+(?:\.\d+)?%|\d*)\s*")


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

    pairs_per_image = 0

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

    def names(self) -> list[str]:
        """Return the photographs of the split below `root`, for the fingerprint of the data."""
        chosen = self._range(self.split)
        return [os.path.relpath(self._pairs[index][0], self.root) for index in chosen]

    def remarks(self) -> list[str]:
        """Return a line for each folder in which files are left out."""
        suffixes = io.IMAGE_SUFFIXES | io.MAP_SUFFIXES
        folders = dict.fromkeys(os.path.join(self.root, each) for each in (self.images, self.maps))
        found = {folder: describe(listing(folder, suffixes).left_out) for folder in folders}
        return [f"{io.printable(folder)}: {line}" for folder, line in found.items() if line]

    def __len__(self) -> int:
        """Return how many samples the split has."""
        return len(self._range(self.split))

    def __getitem__(self, index: int) -> Sample:
        """Read one photograph with its depth.

        Raises UnreadableFile if one of the two cannot be read or their aspect ratios differ.
        """
        return self.open(index).read()

    def open(self, index: int) -> Opened:
        """Read the files of one sample; its photograph is decoded when a crop is read."""
        image_path, map_path = self._pairs[self._range(self.split)[index]]
        photograph = Photograph(io.read_bytes(image_path), image_path, displayed=True)
        values = io.read_values(map_path)
        files.require_fit(values, photograph.size, map_path)
        return OpenedPhotograph(photograph, lambda crop: self._truth(values, crop))

    def _truth(self, stored: np.ndarray, crop: Crop) -> Truth:
        values = io.as_float(crop.map(stored))
        infinite = np.isin(values, np.array(self.infinity, np.float32))
        mask = ~np.isin(values, np.array(self.invalid, np.float32))
        scaled = (values + np.float32(self.offset)) * np.float32(self.scale)
        if self.polarity == "disparity":
            with np.errstate(divide="ignore", over="ignore"):
                # Adding zero turns -0 into 0, whose reciprocal is +inf.
                scaled = 1 / (scaled + np.float32(0))
        depth = np.where(infinite, np.float32(np.inf), scaled)
        mask = (mask | infinite) & (depth > 0)
        return {"depth": np.where(mask, depth, np.float32(0)), "mask": mask}

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
        images = files.find(folders["images"], io.IMAGE_SUFFIXES, folders["maps"])
        maps = files.find(folders["maps"], io.MAP_SUFFIXES, folders["images"])
        common = files.common_names(root, {"photographs": images, "maps": maps})
        return [(images[name], maps[name]) for name in common]
