"""Whole runs: continued ones, refused ones, their first weights and their length in epochs."""

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import pytest

from reldepth_jax.config import (
    Choice,
    ConfigError,
    MixedSource,
)
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import RunError, differences, save_config
from reldepth_jax.training import run as training_run
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.weights.from_run import load_run
from tests.fixtures import marked
from tests.fixtures.training import QUIET, TINY, config, digest, newest, train

pytestmark = pytest.mark.usefixtures("strides_encoder")


def final_state(workdir: pathlib.Path) -> TrainState:
    checkpoints = Checkpoints(workdir / "checkpoints", keep=10)
    restored = checkpoints.restore(new_state(TINY, abstract=True)[1], 6)
    checkpoints.close()
    return restored.state


def test_a_continued_run_equals_an_uninterrupted_one(tmp_path: pathlib.Path):
    def train(name: str, steps: int) -> int:
        config = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=steps))
        return training_run.train(config, tmp_path / name, QUIET)

    assert train("whole", 6) == 0
    assert train("parts", 4) == 0
    assert train("parts", 6) == 0
    assert digest(final_state(tmp_path / "whole")) == digest(final_state(tmp_path / "parts"))
    lines = [json.loads(s) for s in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if r["group"] == "train"] == [2, 4, 6]
    assert (tmp_path / "parts/pictures/00000006.png").exists()
    assert list((tmp_path / "parts/tensorboard").iterdir())


def test_a_changed_configuration_is_refused_with_the_difference(tmp_path: pathlib.Path):
    save_config(tmp_path, TINY)
    changed = dataclasses.replace(TINY, loss=Choice("ranking", sigma=0.5))
    with pytest.raises(RunError, match=r"loss.sigma: 0.02 -> 0.5"):
        training_run.train(changed, tmp_path, QUIET)
    harmless = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, log_every=1))
    assert differences(TINY, harmless) == []


def test_init_from_starts_from_the_other_weights(tmp_path: pathlib.Path):
    one = dataclasses.replace(TINY, train=dataclasses.replace(TINY.train, steps=1))
    training_run.train(one, tmp_path / "first", QUIET)
    # A vanishing rate: the weights after one step are those that the run started from.
    second = dataclasses.replace(
        one,
        init_from=str(tmp_path / "first"),
        optim=dataclasses.replace(TINY.optim, learning_rate=1e-30),
        train=dataclasses.replace(one.train, seed=5),
    )
    training_run.train(second, tmp_path / "second", QUIET)
    first, other = (load_run(tmp_path / name) for name in ("first", "second"))
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-25)
    wider = dataclasses.replace(
        second, model=dataclasses.replace(TINY.model, decoder_width=8), init_from=second.init_from
    )
    changed = r"holds another network: model\.decoder_width is 4 there and 8 here"
    with pytest.raises(RunError, match=changed):
        training_run.train(wider, tmp_path / "third", QUIET)


def test_a_missing_run_is_one_clear_line(tmp_path: pathlib.Path):
    with pytest.raises(RunError, match="no config.json"):
        load_run(tmp_path)
    save_config(tmp_path, TINY)
    with pytest.raises(RunError, match="no checkpoint yet"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (Choice("annotated"), "needs annotated pairs, which no training source has; "),
        (Choice("instance_guided"), "needs instance masks, which no training source gives; set "),
        (
            Choice(
                "mixture", samplers=(Choice("uniform"), Choice("instance_guided")), num_pairs=(1, 1)
            ),
            "needs instance masks",
        ),
    ],
)
def test_pairs_that_the_data_cannot_give_are_refused_before_training(
    tmp_path: pathlib.Path, pairs: Choice, message: str
):
    with pytest.raises(UserError, match=message) as caught:
        training_run.train(dataclasses.replace(TINY, pairs=pairs), tmp_path / "run", QUIET)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_age_of_a_process_is_known_without_asking_the_system():
    age = time.monotonic() - training_run._process_start()
    assert age > 1  # imports, at least


@pytest.mark.parametrize(
    ("count", "batch", "epochs", "shares", "steps"),
    [
        (23, 4, 2, (), 12),  # 46 images
        (24, 4, 2, (), 12),
        (24, 4, 0.5, (), 3),
        (1, 4, 0.1, (), 1),
        (30, 4, 2, (0.5,), 30),  # 60 images of the source are half of 120
        (30, 4, 2, (0.25, 0.25), 30),
        (30, 4, 2, (0.25,), 20),
    ],
)
def test_epochs_are_passes_over_the_source(
    count: int, batch: int, epochs: float, shares: tuple[float, ...], steps: int
):
    mix = tuple(MixedSource(source=Choice("marked"), share=share) for share in shares)
    asked = config(data__batch_size=batch, train__epochs=epochs, train__steps=7)
    asked = dataclasses.replace(asked, data=dataclasses.replace(asked.data, mix=mix))
    sizes = [count, *(1000 for _ in shares)]
    sources = [marked.Marked(split="train", size=(32, 64), count=size) for size in sizes]
    assert training_run.steps_from_epochs(asked, sources).train.steps == steps
    none = dataclasses.replace(asked, train=dataclasses.replace(asked.train, epochs=0.0))
    assert training_run.steps_from_epochs(none, sources).train.steps == 7


def test_epochs_of_a_subset_and_warm_up(tmp_path: pathlib.Path):
    small = config(data__subset=10, train__epochs=1, train__steps=1000)
    code, said = train(small, tmp_path)
    assert code == 0
    assert "3 steps in" in said
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["train"]["steps"] == 3
    # More epochs prolong the run.
    code, said = train(config(data__subset=10, train__epochs=2), tmp_path)
    assert (code, newest(tmp_path)) == (0, 5)
    assert "continuing at step 3" in said
    # 1000 steps would have held the warm-up, one epoch of 3 does not.
    late = config(data__subset=10, train__epochs=1, optim__warmup_steps=3, train__steps=1000)
    with pytest.raises(ConfigError, match=r"warmup_steps must be below train.steps \(3\)"):
        train(late, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_fewer_steps_than_are_saved_are_refused_and_change_nothing(tmp_path: pathlib.Path):
    assert train(config(), tmp_path)[0] == 0
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"step 8 is saved in .*, more than train\.steps \(4\)"):
        train(config(train__steps=4), tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    assert newest(tmp_path) == 8
