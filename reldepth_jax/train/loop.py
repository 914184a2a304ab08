"""The training loop and nothing else."""

import time
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

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

from reldepth_jax.config import TrainConfig
from reldepth_jax.conventions import Batch
from reldepth_jax.errors import UserError
from reldepth_jax.train.interrupt import Interrupt
from reldepth_jax.train.state import TrainState
from reldepth_jax.train.step import Metrics


class NonFiniteError(UserError):
    """The loss or its gradient is not finite; the step was not applied."""


@runtime_checkable
class Recorder(Protocol):
    """Where numbers go."""

    def scalars(self, step: int, group: str, values: dict[str, float]) -> None:
        """Write the numbers of a step."""
        ...


def fit(
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]],
    config: TrainConfig,
    *,
    validate: Callable[[TrainState, int], None],
    save: Callable[[TrainState, int], None],
    records: Recorder,
    interrupt: Interrupt,
    console: Console,
) -> TrainState:
    """Train from `state.step` to `config.steps` and return the last state.

    Order: validate and save what is due on the state before the step, then fetch, step, log; so an
    interrupted run that is continued does what the uninterrupted one did. A save is due by steps,
    by minutes, at an interruption and at the end.

    Raises NonFiniteError when a logged window holds a step that is not finite; by then the state
    before that window may have been saved, never a non-finite one.
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
    with Progress(*columns, console=console, speed_estimate_period=120) as progress:
        bar = progress.add_task(
            "", total=config.steps, completed=start, rate=0.0, loss=unknown, whdr=unknown
        )
        for step in range(start, config.steps + 1):
            if step == config.steps or step % config.eval_every == 0:
                began = time.monotonic()
                validate(state, step)
                window_start += time.monotonic() - began
            minutes = (time.monotonic() - saved_at) / 60
            due = step % config.checkpoint_every == 0 or minutes >= config.checkpoint_minutes
            if (step > saved_step and due) or interrupt or step == config.steps:
                save(state, step)
                saved_at, saved_step = time.monotonic(), step
            if interrupt or step == config.steps:
                break
            batch = jax.device_put(next(batches))
            state, metrics = train_step(state, batch)
            pending.append(metrics)
            if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                numbers = _mean(pending, step + 1)
                seconds = time.monotonic() - window_start
                numbers["images_per_second"] = len(pending) * len(batch["mask"]) / seconds
                records.scalars(step + 1, "train", numbers)
                pending, window_start = [], time.monotonic()
                progress.update(
                    bar,
                    completed=step + 1,
                    rate=numbers["images_per_second"],
                    loss=numbers["loss"],
                    whdr=numbers["whdr"],
                )
    return state


def _mean(window: list[Metrics], last_step: int) -> dict[str, float]:
    """Return the means of a window; waits for the device."""
    values = jax.device_get(window)
    bad = [i for i, metrics in enumerate(values) if not metrics["finite"]]
    if bad:
        step = last_step - len(values) + 1 + bad[0]
        loss, norm = float(values[bad[0]]["loss"]), float(values[bad[0]]["grad_norm"])
        raise NonFiniteError(
            f"step {step}: loss {loss} with gradient norm {norm}; the step was not applied. Lower"
            " optim.learning_rate, set optim.max_grad_norm, or look at the data of this step"
        )
    names = [name for name in values[0] if name != "finite"]
    return {name: float(np.mean([metrics[name] for metrics in values])) for name in names}
