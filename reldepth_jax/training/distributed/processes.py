"""The processes of one run: joining them, and what they agree on.

The processes are those of `jax.distributed`; the first alone touches the run directory. What one of
them does here with the others, all do in the same order.
"""

import contextlib
import functools
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import SIGNALS

T = TypeVar("T")
P = ParamSpec("P")

_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TASKS = "SLURM_STEP_NUM_TASKS"


class Ended(UserError):
    """Another process has ended the run; its output says why."""

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.exit_code = code

    @classmethod
    def by(cls, code: int) -> "Ended":
        """Return what to raise where another process has sent an exit code."""
        return cls(f"another process has ended with code {code}; its output says why", code)


class LostError(UserError):
    """Something that all processes do has failed: probably one of them is gone."""

    exit_code = 7


def join() -> None:
    """Join the other processes of the run, if this one was started as one of several.

    These are the tasks of a Slurm job step, or what `JAX_COORDINATOR_ADDRESS` (host:port of
    process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (0, 1, …) say. Call it before anything is
    computed. A process that dies ends the others after at most 100 seconds, the heartbeat of
    `jax.distributed`.

    Raises UserError for wrong variables. JAX ends the process if the others do not come within 5
    minutes.
    """
    address, *numbers = (os.environ.get(name) for name in _GIVEN)
    if numbers == [None, None]:
        if int(os.environ.get(_TASKS, 1)) > 1:
            jax.distributed.initialize()
        return
    missing = [name for name in _GIVEN if not os.environ.get(name)]
    if missing:
        raise UserError(f"{', '.join(missing)} must be set too; see docs/multi_process.md")
    try:
        count, index = (int(number or "") for number in numbers)
    except ValueError:
        count, index = 0, 0
    if not 0 <= index < count:
        raise UserError(
            f"JAX_PROCESS_ID must be below JAX_NUM_PROCESSES and at least 0, got {numbers[1]!r} of"
            f" {numbers[0]!r}"
        )
    if count > 1:
        # Without detection: under Slurm it would choose a device too.
        jax.distributed.initialize(address, count, index, cluster_detection_method="deactivate")


def several() -> bool:
    """Return whether this is one of several processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Return whether this process alone validates, saves and records."""
    return jax.process_index() == 0


def share(state: T) -> T:
    """Return the state of the first process in all, bit by bit, as NumPy arrays.

    The others know it by shapes and dtypes only; these are kept.
    """
    if not several():
        return state
    leaves, tree = jax.tree.flatten(state)
    sizes = [int(np.prod(leaf.shape)) * np.dtype(leaf.dtype).itemsize for leaf in leaves]
    if is_first():
        # Bytes: XLA sends a sum with zeros, and -0.0 would become 0.0.
        flat = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in leaves]
        sent = np.concatenate(flat)
    else:
        sent = np.zeros(sum(sizes), np.uint8)
    found = _collective(lambda: multihost_utils.broadcast_one_to_all(sent))
    parts = np.split(np.asarray(found), np.cumsum(sizes)[:-1])
    return jax.tree.unflatten(
        tree,
        [
            part.view(leaf.dtype).reshape(leaf.shape)
            for part, leaf in zip(parts, leaves, strict=True)
        ],
    )


def agree(code: int) -> int:
    """Return the largest code of all processes; waits for all, LostError if one is gone."""
    return max(_gather(code))


def require_equal(text: str, what: str) -> None:
    """Raise UserError in all processes if `text` is not the same in all."""
    if len(set(_gather(zlib.crc32(text.encode("utf-8", "surrogateescape"))))) > 1:
        raise UserError(f"the processes of this run do not have the same {what}")


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Go on after this block only if it has succeeded in all processes.

    Raises what the block raised, Ended in the other processes.
    """
    try:
        yield
    except LostError:
        raise
    except Exception as error:
        with contextlib.suppress(LostError):
            agree(code_of(error))
        raise
    code = agree(0)
    if code:
        raise Ended.by(code)


def ended_together(body: Callable[P, int]) -> Callable[P, int]:
    """Let a function return the largest exit code of all processes, once it has ended in all.

    Raises what it raises. Where another process has ended the run only the first one says so.
    """

    @functools.wraps(body)
    def together(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            code = body(*args, **kwargs)
        except LostError:
            raise
        except Exception as error:
            with contextlib.suppress(LostError):
                _agree_at_last(code_of(error))
            if isinstance(error, Ended) and not is_first():
                return error.exit_code
            raise
        return _agree_at_last(code)

    return together


def code_of(error: Exception) -> int:
    """Return the exit code that an exception stands for."""
    return error.exit_code if isinstance(error, UserError) else 1


def lost(error: Exception) -> LostError:
    """Return what to raise when something done by all processes has failed."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return LostError(
        f"process {jax.process_index()} of {jax.process_count()}: {reason}; has another one ended?"
        " The same command continues at the last checkpoint"
    )


def _agree_at_last(code: int) -> int:
    if several():
        # All is saved but by the first process, perhaps, which must not find the others gone.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return agree(code)


def _gather(number: int) -> list[int]:
    if not several():
        return [number]
    return _collective(
        lambda: multihost_utils.process_allgather(np.array(number, np.uint32))
    ).tolist()


def _collective(act: Callable[[], T]) -> T:
    try:
        return act()
    except Exception as error:  # ValueError, RuntimeError, JaxRuntimeError: by the back end
        raise lost(error) from error
