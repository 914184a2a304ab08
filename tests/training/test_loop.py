"""The order of the loop, and when it stops."""

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from reldepth_jax.config import (
    Config,
    TrainConfig,
)
from reldepth_jax.errors import UserError
from reldepth_jax.training.loop import NonFiniteError, Steps, fit
from reldepth_jax.training.preemption import Interrupt
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch
from tests.fixtures.training import QUIET


class CountedStep:
    """A train step that counts; `bad_steps` are not finite."""

    def __init__(self, *bad_steps: int):
        self.bad_steps = bad_steps

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        ok = int(state.step) not in self.bad_steps
        skipped = state.skipped + (not ok)
        in_a_row = jnp.zeros((), jnp.int32) if ok else state.skipped_in_a_row + 1
        number = jnp.asarray(1.0 if ok else jnp.nan)
        metrics = {
            "loss": number, "whdr": number, "grad_norm": number, "finite": jnp.asarray(float(ok)),
            "degenerate": 0.25,
            "skipped": skipped, "skipped_in_a_row": in_a_row,
        }  # fmt: skip
        new = state._replace(step=state.step + 1, skipped=skipped, skipped_in_a_row=in_a_row)
        return new, metrics


Logged = list[dict[str, float]]


def run_loop(
    config: TrainConfig,
    step: CountedStep,
    interrupt: Interrupt | None = None,
    start: int = 0,
    logged: Logged | None = None,
    events: list[tuple[str, int]] | None = None,
    poll: Callable[[int], UserError | None] = lambda unreadable: None,
):
    events = [] if events is None else events
    logged = [] if logged is None else logged

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for index in itertools.count(start):
            events.append(("batch", index))
            yield {"mask": np.ones((2, 1, 1), bool)}

    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero + start, nnx.State({}), nnx.State({}), (), zero, zero)
    final = fit(
        state, Steps(batches(), step), Config(train=config),
        validate=lambda state: events.append(("validate", int(state.step))),
        save=lambda state: events.append(("save", int(state.step))),
        poll=poll, log=lambda step, numbers: logged.append({"step": step, **numbers}),
        interrupt=interrupt or Interrupt(), console=QUIET,
    )  # fmt: skip
    return final, events


def test_the_loop_validates_saves_and_fetches_in_order():
    config = TrainConfig(steps=5, eval_every=2, checkpoint_every=2, log_every=2)
    final, events = run_loop(config, CountedStep())
    assert int(final.step) == 5
    assert events == [
        ("validate", 0), ("batch", 0), ("batch", 1),
        ("validate", 2), ("save", 2), ("batch", 2), ("batch", 3),
        ("validate", 4), ("save", 4), ("batch", 4),
        ("validate", 5), ("save", 5),
    ]  # fmt: skip


def test_a_finished_run_only_validates():
    _, events = run_loop(TrainConfig(steps=5), CountedStep(), start=5)
    assert events == [("validate", 5), ("save", 5)]


def test_an_interrupt_saves_the_step_that_was_reached():
    interrupt = Interrupt()
    interrupt.received = signal.SIGTERM
    final, events = run_loop(TrainConfig(steps=5, eval_every=5), CountedStep(), interrupt, start=2)
    assert events == [("save", 2)]
    assert int(final.step) == 2
    assert interrupt.exit_code == 143


def test_a_few_steps_that_are_not_finite_are_counted_and_left_out_of_the_means():
    logged: Logged = []
    config = TrainConfig(steps=6, log_every=3, max_skipped=3)
    final, _ = run_loop(config, CountedStep(1, 4), logged=logged)
    assert int(final.step) == 6
    assert [(line["step"], line["skipped"], line["loss"]) for line in logged] == [
        (3, 1, 1.0), (6, 2, 1.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "bad_steps", "where"),
    [
        # Below 1 %, but in a row.
        (300, (297, 298), "step 298: .* 2 steps were not finite, up to 2 in a row"),
        # Apart, but more than 1 %.
        (6, (1, 4), "step 2: .* 2 steps were not finite, up to 1 in a row"),
    ],
)
def test_too_many_steps_that_are_not_finite_stop_the_run_after_saving(
    steps: int, bad_steps: tuple[int, ...], where: str
):
    events: list[tuple[str, int]] = []
    config = TrainConfig(steps=400, log_every=steps, eval_every=400, max_skipped=2)
    with pytest.raises(NonFiniteError, match=where) as caught:
        run_loop(config, CountedStep(*bad_steps), events=events)
    assert caught.value.exit_code == 5
    assert events[-1] == ("save", steps)


def test_skipped_steps_below_one_percent_do_not_stop_a_long_run():
    final, _ = run_loop(
        TrainConfig(steps=400, log_every=400, max_skipped=2), CountedStep(50, 150, 250)
    )
    assert int(final.skipped) == 3


def test_what_polling_returns_stops_the_run_after_saving():
    events: list[tuple[str, int]] = []
    asked = iter([None, None, UserError("too many bad images")])
    with pytest.raises(UserError, match="too many bad images"):
        run_loop(TrainConfig(steps=9), CountedStep(), events=events, poll=lambda bad: next(asked))
    assert events[-1] == ("save", 3)


def test_the_loop_is_at_most_one_step_ahead_of_the_device():
    # A signal is answered after the steps that are queued: with log_every=1000 they were many.
    ready, ahead = [0], []
    numbers = itertools.count(1)

    class Queued:
        def __init__(self, number: int):
            self._number = number

        def block_until_ready(self) -> None:
            ready.append(self._number)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        number = next(numbers)
        ahead.append(number - max(ready))
        names = ("loss", "whdr", "grad_norm", "finite", "degenerate")
        metrics = dict.fromkeys(names, np.float32(1)) | {"skipped": 0, "skipped_in_a_row": 0}
        return state._replace(step=state.step + 1), metrics | {"queued": Queued(number)}

    zero = jnp.zeros((), jnp.int32)
    fit(
        TrainState(zero, nnx.State({}), nnx.State({}), (), zero, zero),
        Steps(itertools.repeat({"mask": np.ones((2, 1, 1), np.bool_)}), step),
        Config(train=TrainConfig(steps=9, log_every=1000)),
        validate=lambda state: None, save=lambda state: None,
        log=lambda step, numbers: None, interrupt=Interrupt(), console=Console(quiet=True),
    )  # fmt: skip
    assert ahead == [1, 2, 2, 2, 2, 2, 2, 2, 2]
