"""The moving average of the weights: against a loop; what is validated, saved and started from."""

import dataclasses
import pathlib
import shutil
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from reldepth_jax.config import Config, ConfigError, override, validate
from reldepth_jax.data.pipeline import train_batches, train_sources
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.training import run as training_run
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Batch
from reldepth_jax.weights.from_run import load_run
from tests.fixtures.training import QUIET, TINY, digest

pytestmark = pytest.mark.usefixtures("strides_encoder")
DECAY = 0.3


def with_ema(decay: float, **changes: Any) -> Config:
    return dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, ema=decay, **changes))


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.array(leaf) for leaf in jax.tree.leaves(tree)]


def steps(config: Config, count: int) -> list[TrainState]:
    """Return the states before and after each step, their arrays on the host."""
    _, state = new_state(config)
    step, states = step_function(config), []
    for _, batch in zip(
        range(count), train_batches(config, train_sources(config), start=0), strict=False
    ):
        states.append(jax.tree.map(np.array, state))
        state, _ = step(state, cast(Batch, batch))
    return [*states, jax.tree.map(np.array, state)]


def test_the_average_is_that_of_a_loop_and_changes_nothing_else():
    states = steps(with_ema(DECAY), 6)
    want = leaves((states[0].params, states[0].stats))
    for before, after in enumerate(states[1:]):
        # Early on (1 + t) / (10 + t): 0.1, 0.18, 0.25; then the decay itself.
        kept = min(DECAY, (1 + before) / (10 + before))
        weights = leaves((after.params, after.stats))
        want = [kept * old + (1 - kept) * new for old, new in zip(want, weights, strict=True)]
        for one, other in zip(leaves(after.average), want, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    plain = steps(TINY, 6)[-1]
    assert plain.average is None
    assert digest(plain.params) == digest(states[-1].params)


@pytest.fixture(scope="module")
def whole(strides_encoder: None, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a run of 6 steps with an average."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert training_run.train(with_ema(DECAY, steps=6), folder, QUIET) == 0
    return folder


def test_a_run_with_an_average_resumes_validates_and_gives_it(
    whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    judged = []
    validation = training_run.evaluate_state

    def evaluate_state(state: TrainState, *rest: Any) -> Any:
        judged.append(digest(state.result))
        return validation(state, *rest)

    monkeypatch.setattr(training_run, "evaluate_state", evaluate_state)
    parts = tmp_path / "parts"
    for number in (4, 6):
        assert training_run.train(with_ema(DECAY, steps=number), parts, QUIET) == 0
    held = []
    for folder in (whole, parts):
        like = new_state(with_ema(DECAY), abstract=True)[1]
        checkpoints = Checkpoints(folder / "checkpoints", keep=10)
        held.append(checkpoints.restore(like, 6).state)
        checkpoints.close()
    assert digest(held[0]) == digest(held[1])
    run = load_run(parts)
    assert digest((run.params, run.stats)) == digest(held[0].average) == judged[-1]
    assert digest(run.params) != digest(held[0].params)


def test_the_average_starts_from_the_weights_that_a_run_starts_from(
    whole: pathlib.Path, tmp_path: pathlib.Path
):
    still = dataclasses.replace(
        with_ema(0.9999, steps=1, seed=5),
        init_from=str(whole),
        optim=dataclasses.replace(TINY.optim, learning_rate=1e-30),
    )
    assert training_run.train(still, tmp_path / "second", QUIET) == 0
    first, second = (load_run(folder) for folder in (whole, tmp_path / "second"))
    for one, other in zip(leaves(first.params), leaves(second.params), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-25)


def test_a_decay_of_one_would_never_learn():
    with pytest.raises(ConfigError, match=r"train\.ema"):
        validate(override(Config(), {"train.ema": "1"}))


def test_checkpoints_from_before_there_was_an_average_are_restored(tmp_path: pathlib.Path):
    class Before(NamedTuple):
        step: Any
        params: Any
        stats: Any
        opt_state: Any
        skipped: Any
        skipped_in_a_row: Any

    state = new_state(TINY)[1]
    # Written by Orbax alone, as then.
    saved = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, Before(*state[:6]))
    checkpoints = Checkpoints(tmp_path, keep=10)
    checkpoints.save(3, saved, {})
    checkpoints.wait()
    shutil.rmtree(tmp_path / "00000003")
    with ocp.StandardCheckpointer() as orbax:
        orbax.save(tmp_path / "00000003", saved)
    restored = checkpoints.restore(new_state(TINY, abstract=True)[1]).state
    checkpoints.close()
    assert isinstance(restored, TrainState)
    assert restored.average is None
    assert digest(restored[:6]) == digest(tuple(saved))
