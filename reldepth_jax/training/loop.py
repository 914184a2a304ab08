"""The training loop and nothing else."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from reldepth_jax import failpoints
from reldepth_jax.config import Config, TrainConfig
from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import Interrupt, Stopped
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch

Metrics = dict[str, Any]


class NonFiniteError(UserError):
    """Too many steps were not finite; none of them was applied."""

    exit_code = 5


class Steps:
    """Batches and the training step, at most one ahead of the device.

    A stop must not wait for a queue of steps. `distributed.lockstep` takes them in several
    processes.
    """

    unreadable = 0
    """Samples in the last step that could not be read."""
    ended: UserError | None = None
    """Why other processes have ended the run."""

    def __init__(
        self,
        batches: Iterator[dict[str, np.ndarray]],
        train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
        put: Callable[[dict[str, np.ndarray]], Batch] = jax.device_put,
    ):
        """`batches` may raise Stopped while it waits; `put` places a batch on the devices."""
        self.batches = batches
        self._train_step, self._put = train_step, put
        self._before: Metrics = {}

    def left_together(self) -> contextlib.AbstractContextManager[None]:
        """Return what waits for other processes at its end, of which there are none."""
        return contextlib.nullcontext()

    def take(self, state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, Metrics]:
        """Take a step, and wait for the one before."""
        self.unreadable = int(np.sum(batch.pop("unreadable", 0)))
        state, metrics = self._train_step(state, self._put(batch))
        jax.block_until_ready(self._before)
        self._before = metrics
        return state, {"bad_samples": np.float32(self.unreadable), **metrics}


def fit(
    state: TrainState,
    steps: Steps,
    config: Config,
    *,
    validate: Callable[[TrainState], None],
    save: Callable[[TrainState], None],
    poll: Callable[[int], UserError | None] = lambda unreadable: None,
    log: Callable[[int, dict[str, float]], None],
    interrupt: Interrupt,
    console: Console,
) -> TrainState:
    """Train from `state.step` to `config.train.steps` and return the last state.

    Order: validate and save what is due on the state before the step, then fetch, step, log; so an
    interrupted run that is continued does what the uninterrupted one did. A save is due by steps,
    by minutes, after a validation, at an interruption and at the end. An interruption cuts
    validating and waiting for a batch short.

    `poll` is called after each step with the number of unreadable samples, and may return why to
    stop. `log` is called with each step that is a multiple of `log_every`, and means since the one
    before.

    Raises, after saving, what reading a batch raised, what `poll` returned, and NonFiniteError when
    `max_skipped` steps in a row were skipped, or as many and 1 % of all.
    """
    train = config.train
    start = int(state.step)
    saved_at, saved_step = time.monotonic(), start
    window: list[Metrics] = []
    window_start = time.monotonic()
    failure: UserError | None = None
    with _progress(console, start, train.steps) as show:
        for step in range(start, train.steps + 1):
            last = step == train.steps
            validated = False
            if (last or step % train.eval_every == 0) and not interrupt and not failure:
                began = time.monotonic()
                failpoints.reach("evaluation")
                # Not where the last step was no step, because another process has stopped it.
                if int(state.step) == step:
                    with contextlib.suppress(Stopped):
                        validate(state)
                        validated = True
                window_start += time.monotonic() - began
            minutes = (time.monotonic() - saved_at) / 60
            due = step % train.checkpoint_every == 0 or minutes >= train.checkpoint_minutes
            if (step > saved_step and (due or validated)) or interrupt or failure or last:
                if last:
                    failpoints.reach("final")
                save(state)
                saved_at, saved_step = time.monotonic(), step
                interrupt.in_flight, interrupt.unsaved = interrupt.unsaved, 0
            if interrupt or failure or last:
                break
            try:
                batch = next(steps.batches)
            except Stopped:
                save(state)
                break
            except Exception:
                save(state)
                raise
            failpoints.reach("step" if step > start else "compile")
            state, metrics = steps.take(state, batch)
            interrupt.unsaved = step + 1 - saved_step
            window.append(metrics)
            failure = steps.ended or poll(steps.unreadable)
            logged = (step + 1) % train.log_every == 0 or step + 1 == train.steps
            if logged and int(state.step) == step + 1:
                numbers, not_finite = _summary(window, step + 1, train)
                failure = failure or not_finite
                images = len(window) * config.data.batch_size
                numbers["images_per_second"] = images / (time.monotonic() - window_start)
                log(step + 1, numbers)
                window, window_start = [], time.monotonic()
                show(step + 1, numbers)
    if failure:
        raise failure
    return state


@contextlib.contextmanager
def _progress(
    console: Console, start: int, steps: int
) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """Show a bar; yields what is called with the step and its numbers."""
    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[images_per_second]:.1f} images/s"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  whdr {task.fields[whdr]:.1%}"),
    )
    fields: dict[str, Any] = {"images_per_second": 0.0, "loss": float("nan"), "whdr": float("nan")}
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        bar = progress.add_task("", total=steps, completed=start, **fields)

        def show(step: int, numbers: dict[str, float]) -> None:
            shown: dict[str, Any] = {name: numbers[name] for name in fields}
            progress.update(bar, completed=step, **shown)

        yield show


def _summary(
    window: list[Metrics], last_step: int, config: TrainConfig
) -> tuple[dict[str, float], NonFiniteError | None]:
    """Return the means over the finite steps of a window, and why to stop; waits for the device."""
    values = jax.device_get(window)
    finite = [metrics for metrics in values if metrics["finite"]]
    numbers = {
        name: float(np.mean([metrics[name] for metrics in finite])) if finite else float("nan")
        for name in ("loss", "whdr", "grad_norm")
    }
    skipped = int(values[-1]["skipped"])
    numbers |= {
        "skipped": float(skipped),
        "bad_samples": float(sum(metrics["bad_samples"] for metrics in values)),
        "degenerate": float(np.mean([metrics["degenerate"] for metrics in values])),
    }
    longest = max(int(metrics["skipped_in_a_row"]) for metrics in values)
    if longest < config.max_skipped and skipped < max(config.max_skipped, last_step / 100):
        return numbers, None
    first = last_step - len(values) + 1
    bad = [first + index for index, metrics in enumerate(values) if not metrics["finite"]]
    example = values[bad[0] - first] if bad else values[-1]
    loss, norm = float(example["loss"]), float(example["grad_norm"])
    where = f"step {bad[0]}: loss {loss} with gradient norm {norm}" if bad else f"step {last_step}"
    return numbers, NonFiniteError(
        f"{where}; {skipped} steps were not finite, up to {longest} in a row, and none was applied."
        " Lower optim.learning_rate, set optim.max_grad_norm, or look at the data of this step"
    )
