"""Training steps in several processes: each is taken by all of them or by none.

With its share of a batch each process sends 0, or the exit code with which it must leave; a batch
with a code in it changes nothing in any process. All read the codes where they wait for the device
anyway, one step behind it, so that they leave after the same number of exchanges, with the same
state. A process that must leave, for a signal or an error, sends its last batch again with its code
until that has come back.
"""

import contextlib
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from reldepth_jax.training.distributed import processes
from reldepth_jax.training.distributed.devices import Devices
from reldepth_jax.training.distributed.processes import Ended, LostError
from reldepth_jax.training.loop import Metrics, Steps
from reldepth_jax.training.preemption import UNFINISHED, Interrupt, Stopped
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch

HostBatch = dict[str, np.ndarray]


class StepsOfAll(Steps):
    """The steps of `loop.fit`, taken by all processes at once.

    `unreadable` counts the samples of all processes, one step late. Between two steps a process may
    take its time: the others wait. A step raises LostError if another process is gone.
    """

    def __init__(
        self,
        batches: Iterator[HostBatch],
        train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
        devices: Devices,
        state: TrainState,
        left: int,
        interrupt: Interrupt,
    ):
        """Fetch the first batch; raise Ended if one of the processes has none.

        `batches` are this process's shares; `train_step` is that of `unless_stopped`, compiled, its
        results on all devices. From `state` on `left` steps are to be taken.
        """
        with processes.agreed():
            try:
                self._sent = next(batches)
            except Stopped:
                raise Ended("stopped before the first batch", interrupt.exit_code) from None
        super().__init__(itertools.chain([self._sent], batches), train_step, devices.shard)
        self._state, self._left, self._interrupt = state, left, interrupt
        self._unread: list[Metrics] = []
        self._stop = 0

    def take(self, state: TrainState, batch: HostBatch) -> tuple[TrainState, Metrics]:
        """Take a step and wait for the one before; after the last step for that too."""
        self._sent = batch
        return self._exchange(state, 0)

    @contextlib.contextmanager
    def left_together(self) -> Iterator[None]:
        """Leave the block when all processes know that no more steps will be taken."""
        try:
            yield
        except LostError:
            raise
        except Exception as error:
            self._leave(processes.code_of(error))
            raise
        self._leave(self._interrupt.exit_code)

    def _leave(self, code: int) -> None:
        while self._left and not self._stop:
            self._exchange(self._state, code)

    def _exchange(self, state: TrainState, code: int) -> tuple[TrainState, Metrics]:
        size = len(self._sent["mask"])
        flags = {"unreadable": np.zeros(size, np.bool_), "stop": np.full(size, code, np.int32)}
        batch = self._put(flags | self._sent)
        try:
            self._state, metrics = self._train_step(state, batch)
            self._left -= 1
            self._unread.append(metrics)
            ready = self._unread[: None if not self._left else -1]
            self._unread = self._unread[len(ready) :]
            found = jax.device_get([(each["stop"], each["bad_samples"]) for each in ready])
        except Exception as error:  # of other types than JAX's own, too
            raise processes.lost(error) from error
        self.unreadable = int(sum(bad for _, bad in found))
        self._obey(max((int(stop) for stop, _ in found), default=0))
        return self._state, metrics

    def _obey(self, code: int) -> None:
        """Stop as another process does, or for its error."""
        if self._stop or not code:
            return
        self._stop = code
        if code > 128:
            self._interrupt.received = self._interrupt.received or signal.Signals(code - 128)
        elif code == UNFINISHED:
            self._interrupt.deadline = time.monotonic()
        else:
            self.ended = Ended.by(code)


def unless_stopped(
    train_step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return the step that `StepsOfAll` takes: it changes nothing if a process has sent a code."""

    def step(state: TrainState, batch: Batch, *more: Any) -> tuple[TrainState, Metrics]:
        values = cast(dict[str, Any], dict(batch))
        stop, bad = jnp.max(values.pop("stop")), jnp.sum(values.pop("unreadable"))
        new, metrics = train_step(state, cast(Batch, values), *more)
        state = jax.tree.map(lambda old, new: jnp.where(stop > 0, old, new), state, new)
        return state, metrics | {"stop": stop, "bad_samples": bad.astype(jnp.float32)}

    return step
