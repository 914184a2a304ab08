"""States of metrics, merged over the processes of a distributed run.

Each process judges one block of the images, so that appending the states in the order of the
processes gives exactly the state of a single process.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

Arrays = dict[str, np.ndarray]
State = TypeVar("State")


def process_block(count: int) -> range:
    """Return which of `count` images this process judges."""
    process, processes = jax.process_index(), jax.process_count()
    return range(count * process // processes, count * (process + 1) // processes)


def merge_over_processes(kind: type[State], parts: Sequence[State]) -> State:
    """Merge the states of this process, then those of all processes; every process must call it.

    `kind` is a dataclass of arrays with a class method `merge`, such as `ordinal.ErrorCounts`.
    """
    states: Any = kind
    own = states.merge(parts)
    arrays = {field.name: getattr(own, field.name) for field in dataclasses.fields(states)}
    return states.merge([states(**theirs) for theirs in gather(arrays)])


def gather(arrays: Arrays) -> list[Arrays]:
    """Return the arrays of every process, in their order; sizes may differ between processes.

    Every process must call it. With one process nothing is copied.
    """
    if jax.process_count() == 1:
        return [arrays]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    data = np.frombuffer(file.getvalue(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.array([len(data)])))
    # One shape for all: shorter ones are padded, the zip inside ends before that.
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [_load(row[:size].tobytes()) for row, size in zip(everyone, sizes, strict=True)]


def _load(data: bytes) -> Arrays:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)
