"""What a few samples of a source tell before training: how much of them has ground truth.

Labels that a wrong option makes invalid, half of each map say, do not stop training and do not show
in its numbers.
"""

import collections
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from reldepth_jax.data.cropping import Crop, OpenedPhotograph
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import UndeclaredValues
from reldepth_jax.errors import UserError
from reldepth_jax.types import Source

SAMPLES = 8
"""Of each source that are read."""
SECONDS = 5.0
"""After which none is waited for; after half of it no further one is begun."""


class Survey:
    """Reads a few samples of sources that lie in files, in a thread that begins at once."""

    def __init__(self, sources: Sequence[Source]):
        # Of a subset the whole source.
        whole = [getattr(each, "source", each) for each in sources]
        self._sources = [each for each in whole if place(each)]
        self._until = time.monotonic() + SECONDS
        self._lines: list[str] = []
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="survey")
        self._thread.start()

    def lines(self) -> list[str]:
        """Return a line for each source with depth maps that was read in time.

        Raises UserError where the meaning of values is not declared.
        """
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._failure is not None:
            raise self._failure
        return list(self._lines)

    def _run(self) -> None:
        try:
            for source in self._sources:
                line = share_line(source, self._until - SECONDS / 2)
                if line:
                    self._lines.append(line)
        except UndeclaredValues as error:
            self._failure = error
        except Exception:
            # Training meets it again, and tells it where it can be told.
            return


def _read(
    source: Any, index: int
) -> tuple[Bool[np.ndarray, "h w"], dict[str, float], dict[str, float]]:
    """Return where a sample has ground truth, and what its source tells of its maps.

    Of a data set in files the photograph is not decoded.
    """
    if not hasattr(source, "record"):
        return source[index]["mask"], {}, {}
    record = source.record(index)
    opened: OpenedPhotograph = source.interpret(record)
    mask = opened.truth(Crop(opened.size, opened.size, (0, 0), opened.size))["mask"]
    told = (getattr(source, name, None) for name in ("left_out", "doubtful"))
    left_out, doubtful = (each(record["maps"]) if each else {} for each in told)
    return mask, left_out, doubtful


def place(source: Source) -> str:
    """Return the folder that a source reads, printable; empty if it reads none."""
    return io.printable(getattr(source, "root", "") or getattr(source, "prepared", ""))


def share_line(source: Source, until: float) -> str:
    """Return which share of the pixels of a few samples has ground truth, and why others have none.

    Empty where nothing could be read before `until` (of `time.monotonic`), and for annotated pairs.
    Files that cannot be read are passed over: whoever uses them says so. Raises UndeclaredValues.
    """
    shares: list[float] = []
    reasons: collections.Counter[str] = collections.Counter()
    doubts: collections.Counter[str] = collections.Counter()
    for index in np.unique(np.linspace(0, len(source) - 1, SAMPLES).astype(int)).tolist():
        if time.monotonic() > until:
            break
        try:
            mask, left_out, doubtful = _read(source, index)
        except UndeclaredValues:
            raise
        except UserError:
            continue
        if mask.any() or not source.pairs_per_image:
            shares.append(float(mask.mean()))
            reasons.update(left_out)
            doubts.update(doubtful)
    if not shares:
        return ""
    of = [f"{total / len(shares):.0%} {reason}" for reason, total in reasons.most_common()]
    told = f"; {', '.join(of)}" if of else ""
    for value, total in doubts.items():
        told += (
            f"; {total / len(shares):.0%} have the value {value}: if that is a mark, set"
            f" --config.data.source.invalid or infinity to {value}"
        )
    spread = f" ({min(shares):.0%} to {max(shares):.0%})" if len(shares) > 1 else ""
    return (
        f"{place(source)}: ground truth at {np.mean(shares):.0%} of the pixels of {len(shares)}"
        f" samples{spread}{told}"
    )
