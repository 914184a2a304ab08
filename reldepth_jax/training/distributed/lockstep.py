"""The training loop in several processes: each step is taken by all of them or by none.

With its share of a batch each process sends 0, or the exit code with which it must leave; a batch
with a code in it changes nothing in any process. All read the codes where they wait for the device
anyway, one step behind it, so that they leave after the same number of exchanges, with the same
state. A process that must leave, for a signal or an error, sends its last batch again with its code
until that has come back.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from reldepth_jax.config import Config, TrainConfig
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.errors import UserError
from reldepth_jax.training import loop
from reldepth_jax.training.distributed import processes
from reldepth_jax.training.distributed.processes import Devices, Ended, LostError
from reldepth_jax.training.loop import Metrics
from reldepth_jax.training.preemption import UNFINISHED, Interrupt, Stopped, catch_interrupts
from reldepth_jax.training.prefetch import Fetcher
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch, Source

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def fit(
    state: TrainState,
    batches: loop.Batches,
    train_step: TrainStep,
    config: TrainConfig,
    *,
    validate: Callable[[TrainState, int], None],
    save: Callable[[TrainState, int], None],
    poll: Callable[[int], UserError | None] = lambda bad_samples: None,
    records: loop.Recorder,
    interrupt: Interrupt,
    console: Console,
    devices: Devices,
) -> TrainState:
    """Do what `loop.fit` does, in all processes at once.

    `batches` are this process's shares; `train_step` is that of `unless_stopped`, compiled, its
    results on all devices. `validate` and `save` may take their time: the others wait. `poll` is
    told the bad samples of all processes, a step later.

    Raises also Ended where another process has ended the run with an error, and LostError if one is
    gone.
    """
    steps = _Steps(state, batches, train_step, config.steps, devices, interrupt)

    def validate_agreed(state: TrainState, step: int) -> None:
        if int(state.step) != step:
            raise Stopped
        validate(state, step)

    try:
        state = loop.fit(
            state,
            steps,
            steps,
            config,
            validate=validate_agreed,
            save=lambda state, step: save(state, int(state.step)),
            poll=lambda _: steps.ended or poll(steps.bad),
            records=records,
            interrupt=interrupt,
            console=console,
            put=steps.put,
        )
    except LostError:
        raise
    except Exception as error:
        steps.leave(processes.code_of(error))
        raise
    steps.leave(interrupt.exit_code)
    return steps.state


def follow(
    config: Config,
    sources: Sequence[Source],
    devices: Devices,
    like: TrainState,
    train_step: TrainStep,
) -> int:
    """Take the steps of the first process in another one; return 0, its exit code decides.

    `like` has the arrays of the state by shape and dtype. Raises what `fit` does, and DataStopped.
    """
    name = f"process {jax.process_index()}"
    with catch_interrupts(
        grace=config.train.grace_seconds,
        on_abandon=lambda reason, _: print(f"{name}: {reason}", file=sys.stderr),
    ) as interrupt:
        # The others need this process until all have agreed to leave.
        interrupt.leaving = True
        with processes.agreed():
            pass  # the first process looks for a state
        state = devices.everywhere(processes.share(like))
        share = jax.process_index(), jax.process_count()
        fetcher = Fetcher(
            lambda step: train_batches(config, sources, start=step, share=share),
            int(state.step),
            timeout=config.data.timeout,
            interrupt=interrupt,
            warn=lambda line: print(f"{name}: {line}", file=sys.stderr),
        )
        try:
            fit(
                state,
                fetcher,
                train_step,
                config.train,
                validate=lambda state, step: None,
                save=lambda state, step: None,
                records=_Nowhere(),
                interrupt=interrupt,
                console=Console(quiet=True),
                devices=devices,
            )
        finally:
            fetcher.close()
        return 0


class _Nowhere:
    """The first process records."""

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Write nothing."""


class _Steps:
    """Batches and step for `loop.fit`."""

    bad = 0
    """Bad samples in the steps that were waited for last."""
    ended: Ended | None = None
    """What to raise because of another process."""

    def __init__(
        self,
        state: TrainState,
        batches: loop.Batches,
        train_step: TrainStep,
        steps: int,
        devices: Devices,
        interrupt: Interrupt,
    ):
        """Fetch the first batch; raise Ended if one of the processes has none."""
        self.state = state
        self._left = steps - int(state.step)
        self._batches, self._devices, self._interrupt = batches, devices, interrupt
        self._step = train_step
        self._unknown: list[Metrics] = []
        self._stop = 0
        with processes.agreed():
            self._sent = self._first()
        self._next: dict[str, np.ndarray] | None = self._sent

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._next or next(self._batches)
        self._next = None
        # `loop.fit` takes the bad ones out.
        self._sent = dict(batch)
        return batch

    def put(self, batch: dict[str, np.ndarray]) -> Batch:
        """Return the global batch on the devices."""
        return self._global(0)

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Take a step and wait for the one before, after the last one for that too."""
        try:
            self.state, metrics = self._step(state, batch)
            self._left -= 1
            self._unknown.append(metrics)
            ready = self._unknown[: None if not self._left else -1]
            self._unknown = self._unknown[len(ready) :]
            found = jax.device_get([(each["stop"], each["bad_samples"]) for each in ready])
        except Exception as error:  # of other types than JAX's own, too
            raise processes.lost(error) from error
        self.bad = int(sum(bad for _, bad in found))
        self._obey(max((int(stop) for stop, _ in found), default=0))
        return self.state, metrics

    def leave(self, code: int) -> None:
        """Return when all processes know that no more steps will be taken."""
        while self._left and not self._stop:
            self(self.state, self._global(code))

    def _first(self) -> dict[str, np.ndarray]:
        try:
            return next(self._batches)
        except Stopped:
            raise Ended("stopped before the first batch", self._interrupt.exit_code) from None

    def _global(self, code: int) -> Batch:
        size = len(self._sent["mask"])
        flags = {"unreadable": np.zeros(size, np.bool_), "stop": np.full(size, code, np.int32)}
        return self._devices.split({**flags, **self._sent})

    def _obey(self, code: int) -> None:
        if self._stop or not code:
            return
        self._stop = code
        if code > 128:
            self._interrupt.received = self._interrupt.received or signal.Signals(code - 128)
        elif code == UNFINISHED:
            self._interrupt.deadline = time.monotonic()
        else:
            self.ended = Ended(
                f"another process has ended with code {code}; its output says why", code
            )


def unless_stopped(
    train_step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return the step that `fit` takes: it changes nothing if a process has sent a code."""

    def step(state: TrainState, batch: Batch, *more: Any) -> tuple[TrainState, Metrics]:
        values = cast(dict[str, Any], dict(batch))
        stop, bad = jnp.max(values.pop("stop")), jnp.sum(values.pop("unreadable"))
        new, metrics = train_step(state, cast(Batch, values), *more)
        state = jax.tree.map(lambda old, new: jnp.where(stop > 0, old, new), state, new)
        return state, metrics | {"stop": stop, "bad_samples": bad.astype(jnp.float32)}

    return step
