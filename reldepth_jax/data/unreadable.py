"""Training goes on when a few samples cannot be read: they are logged, counted and weigh nothing.

The place in the batch stays, so that the order of the others does not depend on which files a
machine can read.
"""

import contextlib
import dataclasses
import functools
import os
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Int32

from reldepth_jax import json_lines
from reldepth_jax.checked_json import fields, text, whole
from reldepth_jax.data.cropping import Crop, Opened, WholeSample, open_sample
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import has_instances, names_of, temperature_of
from reldepth_jax.errors import printable
from reldepth_jax.types import Sample, Source

T = TypeVar("T")

_LINE = fields({"source": whole(0), "index": whole(0), "error": text()})
FEW = 10
"""As many unreadable samples are skipped whatever their share, if there are others."""


@dataclasses.dataclass(frozen=True)
class SkipUnreadable:
    """A source whose unreadable samples are black, without ground truth, and marked as such."""

    source: Source
    number: int
    """Of the source in the mixture, for the log."""
    log: str
    """File to which each unreadable sample is appended once, by this process or a worker."""
    size: tuple[int, int]
    """Height and width of a stand-in."""

    @property
    def pairs_per_image(self) -> int:
        """As the source has it."""
        return self.source.pairs_per_image

    @property
    def instances(self) -> bool:
        """As the source has it; a stand-in has none."""
        return has_instances(self.source)

    @property
    def temperature(self) -> float:
        """As the source has it."""
        return temperature_of(self.source)

    def __len__(self) -> int:
        """Return how many samples there are, unreadable ones among them."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample, or return its stand-in."""
        return self.open(index).read()

    def open(self, index: int) -> Opened:
        """Open a sample, or its stand-in."""
        opened = self.attempt(index, lambda: open_sample(self.source, index))
        return _Attempt(self, index, opened or WholeSample(_black(self.size)), opened is None)

    def names(self) -> list[str] | None:
        """As the source has them."""
        return names_of(self.source)

    def attempt(self, index: int, read: Callable[[], T]) -> T | None:
        """Return what `read` returns of a sample; log the sample and return None if it cannot."""
        thread = threading.get_ident()
        self._reading[thread] = index
        try:
            return read()
        except (UnreadableFile, DataError) as error:
            self._log(index, str(error))
            return None
        finally:
            self._reading.pop(thread, None)

    def oldest(self) -> int | None:
        """Return the sample that this process is reading for the longest time, None if none."""
        return next(iter(list(self._reading.values())), None)

    def _log(self, index: int, error: str) -> None:
        with self._lock:
            if index in self._logged:
                return
            # Workers write too, and earlier sessions did.
            self._logged.update(index for number, index in read(self.log) if number == self.number)
            if index in self._logged:
                return
            self._logged.add(index)
            with contextlib.suppress(OSError):
                line = {"source": self.number, "index": index, "error": error}
                json_lines.append(self.log, line)

    def __reduce__(self):
        """Leave lock and memory behind on the way to a worker."""
        return type(self), (self.source, self.number, self.log, self.size)

    @functools.cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()

    @functools.cached_property
    def _reading(self) -> dict[int, int]:
        return {}

    @functools.cached_property
    def _logged(self) -> set[int]:
        return set()


@dataclasses.dataclass(frozen=True)
class _Attempt:
    """A sample that has been opened, or a stand-in; reading it may fail still."""

    source: SkipUnreadable
    index: int
    opened: Opened
    unreadable: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.opened.size

    @property
    def pairs(self) -> Int32[np.ndarray, "n 5"]:
        return self.opened.pairs

    def read(self, crop: Crop | None = None) -> Sample:
        sample = self.source.attempt(self.index, lambda: self.opened.read(crop))
        if sample is None:
            return {**_black(crop.shape if crop else self.source.size), "unreadable": np.True_}
        return {**sample, "unreadable": np.bool_(self.unreadable)}


def _black(size: tuple[int, int]) -> Sample:
    return {
        "image": np.zeros((*size, 3), np.uint8),
        "depth": np.zeros(size, np.float32),
        "mask": np.zeros(size, np.bool_),
    }


def read(log: str | os.PathLike[str]) -> dict[tuple[int, int], str]:
    """Return what is wrong with each unreadable sample of a log, by source and index."""
    lines = json_lines.read(log, _LINE)
    return {(line["source"], line["index"]): line["error"] for line in lines}


def too_many(log: str | os.PathLike[str], samples: int, share: float) -> str | None:
    """Return the message if too many samples are unreadable; None if training may go on."""
    unreadable = read(log)
    limit = min(max(FEW, int(share * samples)), samples - 1) if share else 0
    if len(unreadable) <= limit:
        return None
    first = "; ".join(map(printable, list(unreadable.values())[:3]))
    return (
        f"{len(unreadable)} of {samples} samples cannot be read, more than {limit}"
        f" (data.max_unreadable): {first}; all are listed in {log}, to be deleted when they are"
        " repaired"
    )
