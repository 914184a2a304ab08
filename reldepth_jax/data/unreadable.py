"""Training goes on when a few samples cannot be read: they are named, counted and weigh nothing.

The place in the batch stays, so that the order of the others does not depend on which files a
machine can read.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from reldepth_jax.data.cropping import ChooseCrop, cut_out, read_crop
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import has_instances
from reldepth_jax.types import Sample, Source

FEW = 10
"""So many bad samples are tolerated whatever their share, if there are others."""


@dataclasses.dataclass(frozen=True)
class Tolerant:
    """A source whose unreadable samples come out black, without ground truth and marked `bad`."""

    source: Source
    number: int
    """Of the source in the mixture, for the record."""
    log: str
    """File to which each bad sample is appended once, by this process or a worker."""
    size: tuple[int, int]
    """Height and width of what stands in for a sample."""

    @property
    def pairs_per_image(self) -> int:
        """As the source has it."""
        return self.source.pairs_per_image

    @property
    def instances(self) -> bool:
        """As the source has it; what stands in for a sample has none."""
        return has_instances(self.source)

    def __len__(self) -> int:
        """Return how many samples there are, bad ones among them."""
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        """Read a sample, or stand in for it."""
        sample = self._try(index, lambda: self.source[index])
        return self._stand_in() if sample is None else sample

    def read_crop(self, index: int, choose: ChooseCrop) -> Sample:
        """Read a part of a sample, or stand in for it."""
        sample = self._try(index, lambda: read_crop(self.source, index, choose))
        return cut_out(self._stand_in(), choose) if sample is None else sample

    def _try(self, index: int, read: Callable[[], Sample]) -> Sample | None:
        thread = threading.get_ident()
        self._reading[thread] = index
        try:
            return {**read(), "bad": np.False_}
        except (UnreadableFile, DataError) as error:
            self._note(index, str(error))
            return None
        finally:
            self._reading.pop(thread, None)

    def _stand_in(self) -> Sample:
        return {
            "image": np.zeros((*self.size, 3), np.uint8),
            "depth": np.zeros(self.size, np.float32),
            "mask": np.zeros(self.size, np.bool_),
            "bad": np.True_,
        }

    def oldest(self) -> int | None:
        """Return the sample that this process is reading for the longest time, None if none."""
        return next(iter(list(self._reading.values())), None)

    def _note(self, index: int, error: str) -> None:
        with self._lock:
            if index in self._seen:
                return
            # Others write too: workers, and the sessions before.
            self._seen.update(index for number, index in read(self.log) if number == self.number)
            if index in self._seen:
                return
            self._seen.add(index)
            line = json.dumps({"source": self.number, "index": index, "error": error})
            with contextlib.suppress(OSError), open(self.log, "a", encoding="utf-8") as file:
                file.write(line + "\n")

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
    def _seen(self) -> set[int]:
        return set()


def read(log: str | os.PathLike[str]) -> dict[tuple[int, int], str]:
    """Return what is wrong with each bad sample of a log, by source and index."""
    bad: dict[tuple[int, int], str] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in pathlib.Path(log).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                values = json.loads(line)
                bad[values["source"], values["index"]] = values["error"]
    return bad


def too_many(log: str | os.PathLike[str], samples: int, share: float) -> str | None:
    """Return what to say if more samples are bad than may be; None if training may go on."""
    bad = read(log)
    limit = min(max(FEW, int(share * samples)), samples - 1) if share else 0
    if len(bad) <= limit:
        return None
    first = "; ".join(list(bad.values())[:3])
    return (
        f"{len(bad)} of {samples} samples cannot be read, more than {limit}"
        f" (data.max_unreadable): {first}"
        f"; all are listed in {log}, which is to be deleted when they are mended"
    )
