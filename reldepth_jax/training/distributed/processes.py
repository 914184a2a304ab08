"""One run on all devices of all processes: the batch is split, the state is on each of them.

The loss and BatchNorm see the global batch; XLA inserts what has to be exchanged. Several processes
are those of `jax.distributed`; the first of them alone touches the run directory. What one process
does here with others it does in the same order as they.
"""

import contextlib
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import SIGNALS

T = TypeVar("T")

_GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_TASKS = "SLURM_STEP_NUM_TASKS"


class Ended(UserError):
    """Another process has ended the run; its output says why."""

    def __init__(self, reason: str, code: int):
        super().__init__(reason)
        self.exit_code = code


class LostError(UserError):
    """Something done by all processes has failed: probably one of them is gone."""

    exit_code = 7


def join() -> None:
    """Join the other processes of the run, if this one was started as one of several.

    These are the tasks of a Slurm job step, or what `JAX_COORDINATOR_ADDRESS` (host:port of
    process 0), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` (0, 1, …) say. Nothing may have been
    computed before. A process that dies ends the others after at most 100 seconds, which is the
    heartbeat of `jax.distributed`.

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
        # Not asked: where Slurm runs this process it would choose a device too.
        jax.distributed.initialize(address, count, index, cluster_detection_method="deactivate")


def several() -> bool:
    """Return whether this is one of several processes."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Return whether this process alone validates, saves and records."""
    return jax.process_index() == 0


class Devices:
    """The devices of all processes, as many as there are."""

    def __init__(self, batch_size: int, parts: int = 1):
        """Raise UserError if the batch, taken in so many parts, cannot be split evenly."""
        count = jax.process_count() * jax.local_device_count()
        if batch_size % (count * parts):
            what = f"{count} devices" + (f" times train.accumulate={parts}" if parts > 1 else "")
            raise UserError(
                f"data.batch_size must be a multiple of the {what}, got {batch_size}; nearest:"
                f" {max(1, batch_size // (count * parts)) * count * parts}"
            )
        # Process by process, for each has its slots of the batch.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self.replicated = NamedSharding(mesh, PartitionSpec())

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        """Return the global batch on the devices, each with its part of the images.

        `batch` is this process's share: slots b p / n to b (p + 1) / n in process p of n.
        """
        if not several():
            return jax.device_put(batch, self._split)
        return {
            name: jax.make_array_from_process_local_data(self._split, values)
            for name, values in batch.items()
        }

    def everywhere(self, state: T) -> T:
        """Return arrays, or abstract ones, as they are to be on every device."""

        def place(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self.replicated)
            if not several():
                return jax.device_put(leaf, self.replicated)
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, self.replicated, lambda _: values)

        return jax.tree.map(place, state)

    def alone(self, state: T) -> T:
        """Return arrays, or abstract ones, for what this process computes without the others."""
        sharding = SingleDeviceSharding(jax.local_devices()[0]) if several() else self.replicated

        def place(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            return leaf.addressable_data(0) if several() else leaf

        return jax.tree.map(place, state)


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
    found = _together(lambda: multihost_utils.broadcast_one_to_all(sent))
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
        raise Ended(f"another process has ended with code {code}; its output says why", code)


def end_together(body: Callable[[], int]) -> int:
    """Return the largest exit code of all processes, once the body has ended in all.

    Raises what `body` raised. Where another process has ended the run only the first one says so.
    """
    try:
        code = body()
    except LostError:
        raise
    except Exception as error:
        with contextlib.suppress(LostError):
            _agree_at_last(code_of(error))
        if isinstance(error, Ended) and not is_first():
            return error.exit_code
        raise
    return _agree_at_last(code)


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
    return _together(
        lambda: multihost_utils.process_allgather(np.array(number, np.uint32))
    ).tolist()


def _together(act: Callable[[], T]) -> T:
    try:
        return act()
    except Exception as error:  # ValueError, RuntimeError, JaxRuntimeError: by the back end
        raise lost(error) from error
