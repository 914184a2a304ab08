"""The training loop and nothing else."""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

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
from reldepth_jax.config import TrainConfig
from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import Interrupt, Stopped
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch

Metrics = dict[str, Any]


class NonFiniteError(UserError):
    """Too many steps were not finite; none of them was applied."""

    exit_code = 5


@runtime_checkable
class Batches(Protocol):
    """Where batches come from; may raise Stopped while it waits."""

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """Where numbers go."""

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Write the numbers of a step."""
        ...


def fit(
    state: TrainState,
    batches: Batches,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    config: TrainConfig,
    *,
    validate: Callable[[TrainState, int], None],
    save: Callable[[TrainState, int], None],
    poll: Callable[[int], UserError | None] = lambda bad_samples: None,
    records: Recorder,
    interrupt: Interrupt,
    console: Console,
    put: Callable[[dict[str, np.ndarray]], Batch] = jax.device_put,
) -> TrainState:
    """Train from `state.step` to `config.steps` and return the last state.

    Order: validate and save what is due on the state before the step, then fetch, step, log; so an
    interrupted run that is continued does what the uninterrupted one did. A save is due by steps,
    by minutes, after a validation, at an interruption and at the end. An interruption cuts
    validating and waiting for a batch short.

    `poll` is asked after each step, with the number of bad samples in it, whether to stop.

    Raises, after saving, what `batches` raised, what `poll` returned, and NonFiniteError when
    `config.max_skipped` steps in a row were skipped, or as many and 1 % of all.
    """
    start = int(state.step)
    saved_at, saved_step = time.monotonic(), start
    pending: list[Metrics] = []
    window_start = time.monotonic()
    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} images/s"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  whdr {task.fields[whdr]:.1%}"),
    )
    unknown = float("nan")
    failure: UserError | None = None
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        bar = progress.add_task(
            "", total=config.steps, completed=start, rate=0.0, loss=unknown, whdr=unknown
        )
        for step in range(start, config.steps + 1):
            last = step == config.steps
            validated = False
            if (last or step % config.eval_every == 0) and not interrupt and not failure:
                began = time.monotonic()
                failpoints.reach("evaluation")
                with contextlib.suppress(Stopped):
                    validate(state, step)
                    validated = True
                window_start += time.monotonic() - began
            minutes = (time.monotonic() - saved_at) / 60
            due = step % config.checkpoint_every == 0 or minutes >= config.checkpoint_minutes
            if (step > saved_step and (due or validated)) or interrupt or failure or last:
                if last:
                    failpoints.reach("final")
                save(state, step)
                saved_at, saved_step = time.monotonic(), step
                interrupt.in_flight, interrupt.unsaved = interrupt.unsaved, 0
            if interrupt or failure or last:
                break
            try:
                batch = next(batches)
            except Stopped:
                save(state, step)
                break
            except Exception:
                save(state, step)
                raise
            failpoints.reach("step" if step > start else "compile")
            bad = int(batch.pop("unreadable").sum()) if "unreadable" in batch else 0
            device_batch = put(batch)
            state, metrics = train_step(state, device_batch)
            interrupt.unsaved = step + 1 - saved_step
            pending.append({"bad_samples": np.float32(bad), **metrics})
            # One step ahead of the device, no more: a stop must not wait for a queue of them.
            jax.block_until_ready(pending[-2:-1])
            failure = poll(bad)
            logged = (step + 1) % config.log_every == 0 or step + 1 == config.steps
            # A step that another process has stopped is no step.
            if logged and not metrics.get("stop", 0):
                numbers, not_finite = _summary(pending, step + 1, config)
                failure = failure or not_finite
                seconds = time.monotonic() - window_start
                numbers["images_per_second"] = len(pending) * len(device_batch["mask"]) / seconds
                records.scalars(step + 1, "train", numbers)
                pending, window_start = [], time.monotonic()
                progress.update(
                    bar,
                    completed=step + 1,
                    rate=numbers["images_per_second"],
                    loss=numbers["loss"],
                    whdr=numbers["whdr"],
                )
    if failure:
        raise failure
    return state


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
