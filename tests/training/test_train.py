"""Optimiser, step, loop and whole runs; checkpoints have tests of their own."""

import dataclasses
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    validate,
)
from reldepth_jax.errors import UserError
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.models.network import RelDepthNet, as_float, graph_definition
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import RunError, differences, save_config
from reldepth_jax.samplers.uniform import UniformPairs
from reldepth_jax.training import optimizer
from reldepth_jax.training import run as training_run
from reldepth_jax.training.loop import NonFiniteError, Steps, fit
from reldepth_jax.training.preemption import Interrupt, catch_interrupts
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import make_train_step
from reldepth_jax.types import Batch
from reldepth_jax.weights.from_run import load_run

pytestmark = pytest.mark.usefixtures("strides_encoder")
TINY = Config(
    data=DataConfig(crop=(32, 64), batch_size=2, prefetch=1),
    model=ModelConfig(encoder=Choice("strides"), decoder_width=4, init="he"),
    pairs=Choice("uniform", num_pairs=50),
    # Constant: one compiled step for runs of any length.
    optim=OptimConfig(name="adamw", learning_rate=1e-3, schedule="constant"),
    train=TrainConfig(
        steps=6, log_every=2, eval_every=3, eval_images=2, checkpoint_every=2, keep=10
    ),
    eval=EvalConfig(num_images=2, pairs_per_image=50),
)
RESNET = dataclasses.replace(
    TINY, model=dataclasses.replace(TINY.model, encoder=Choice("resnet18"))
)
QUIET = Console(quiet=True)


def digest(state: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def a_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)),
        "depth": jnp.asarray(rng.uniform(1, 9, (2, 32, 64)).astype(np.float32)),
        "mask": jnp.asarray(rng.random((2, 32, 64)) < 0.9),
    }


def one_step(config: Config, accumulate: int = 1, *, remat: bool = False) -> Any:
    """Return the step of a network with frozen statistics and a loss that images share evenly."""
    model, _ = new_state(config, abstract=True)
    step = make_train_step(
        model,
        RankingLoss(drop_easiest=0.0, average="images"),
        UniformPairs(num_pairs=50),
        optax.sgd(0.1),
        seed=0,
        sigma=0.02,
        frozen_batch_norm="all",
        accumulate=accumulate,
        remat=remat,
    )
    return jax.jit(step)


def four_images(config: Config) -> tuple[TrainState, Batch]:
    _, state = new_state(config)
    state = state._replace(opt_state=optax.sgd(0.1).init(state.params))
    one, two = a_batch(0), a_batch(1)
    return state, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), one, two)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_of_a_batch_give_the_gradient_of_the_whole(parts: int):
    state, batch = four_images(TINY)
    whole, metrics = one_step(TINY)(state, batch)
    got, in_parts = one_step(TINY, parts)(state, batch)
    # Parts have not quite as many unequal pairs, which counts for the mean of their shares.
    for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-4), ("whdr", 1e-2)):
        assert float(in_parts[name]) == pytest.approx(float(metrics[name]), rel=tolerance)
    moved = 0.0
    for before, one, other in zip(
        *map(jax.tree.leaves, (state.params, whole.params, got.params)), strict=True
    ):
        moved = max(moved, float(jnp.abs(one - before).max()))
        np.testing.assert_allclose(other, one, atol=2e-6)
    assert moved > 1e-3


def test_blocks_computed_again_give_the_same_step():
    state, batch = four_images(RESNET)
    results, convolutions = [], []
    for remat in (False, True):
        lowered = one_step(RESNET, remat=remat).lower(state, batch)
        convolutions.append(lowered.as_text().count("stablehlo.convolution"))
        results.append(lowered.compile()(state, batch)[0])
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
    # 3x3 and 7x7 ones: the stem, 16 of ResNet-18's blocks and 28 of the decoder's stages, four of
    # which are products of matrices, from many channels to few; those of blocks and stages are
    # there a second time. The head is not computed again.
    assert convolutions[1] - convolutions[0] >= 26


def test_a_batch_must_fall_into_even_parts():
    for accumulate in (0, 3):
        train = dataclasses.replace(TINY.train, accumulate=accumulate)
        with pytest.raises(ConfigError, match=r"train\.accumulate"):
            validate(dataclasses.replace(TINY, train=train))


def test_schedule_warms_up_and_decays_as_written():
    config = OptimConfig(learning_rate=0.4, warmup_steps=10, final_lr_scale=0.1)
    schedule = optimizer.make_schedule(config, 110)
    expected = {0: 0.0, 5: 0.2, 10: 0.4, 60: 0.4 * (0.1 + 0.9 * 0.5), 110: 0.04}
    for step, rate in expected.items():
        assert schedule(step) == pytest.approx(rate, rel=1e-5)
    constant = optimizer.make_schedule(OptimConfig(learning_rate=0.4, schedule="constant"), 110)
    assert constant(0) == constant(109) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_encoder_learns_at_a_tenth_and_decay_spares_biases(name: Literal["sgd", "adamw"]):
    params = {
        part: {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.ones(1)}
        for part in ("encoder", "decoder")
    }
    config = OptimConfig(name=name, learning_rate=1.0, schedule="constant", weight_decay=0.5)
    tx = optimizer.make_optimizer(config, 10)
    grads = jax.tree.map(jnp.ones_like, params)
    updates: dict = tx.update(grads, tx.init(params), params)[0]  # pyright: ignore[reportAssignmentType]: as nested as `params`
    # SGD: gradient + decay; AdamW: the sign of the gradient (first step) + decay.
    assert updates["decoder"]["kernel"][0, 0, 0, 0] == pytest.approx(-1.5, rel=1e-4)
    assert updates["decoder"]["bias"][0] == pytest.approx(-1.0, rel=1e-4)
    assert updates["encoder"]["kernel"][0, 0, 0, 0] == pytest.approx(-0.15, rel=1e-4)
    assert updates["encoder"]["bias"][0] == pytest.approx(-0.1, rel=1e-4)


def test_gradient_clipping_limits_the_global_norm():
    config = OptimConfig(
        learning_rate=1.0, schedule="constant", weight_decay=0.0, max_grad_norm=2.0, momentum=0.0
    )
    params = {"decoder": jnp.zeros(4)}
    tx = optimizer.make_optimizer(config, 10)
    updates, _ = tx.update({"decoder": jnp.full(4, 10.0)}, tx.init(params), params)
    assert optax.tree.norm(updates) == pytest.approx(2.0, rel=1e-5)


@pytest.fixture(scope="module")
def compiled():
    model, state = new_state(TINY)
    tx = optimizer.make_optimizer(TINY.optim, TINY.train.steps)
    step = make_train_step(model, RankingLoss(), UniformPairs(num_pairs=50), tx, seed=0, sigma=0.02)
    return model, state, jax.jit(step)


def test_a_step_changes_every_parameter_and_statistic(compiled):
    _, state, step = compiled
    new, metrics = step(state, a_batch())
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.stats))
    same = {
        jax.tree_util.keystr(path)
        for (path, before), after in zip(
            leaves, jax.tree.leaves((new.params, new.stats)), strict=True
        )
        if (before == after).all()
    }
    # The ranking loss does not see an added constant: only rounding moves the last bias.
    assert same <= {"[0]['head']['conv2']['bias'].value"}
    assert int(new.step) == 1
    assert (int(new.skipped), int(new.skipped_in_a_row)) == (0, 0)
    assert metrics["finite"] == 1
    assert 0 <= metrics["whdr"] <= 1


def test_pairs_are_fresh_each_step_and_a_function_of_seed_and_step(compiled):
    _, state, step = compiled
    first, again = step(state, a_batch())[1], step(state, a_batch())[1]
    later = step(state._replace(step=state.step + 1), a_batch())[1]
    assert first["loss"] == again["loss"]
    assert first["loss"] != later["loss"]


def test_a_step_that_is_not_finite_changes_nothing_but_its_number_and_the_counters(compiled):
    _, state, step = compiled
    broken = state._replace(
        params=jax.tree.map(lambda p: p * jnp.nan if p.ndim == 1 else p, state.params),
        skipped=jnp.asarray(5, jnp.int32),
        skipped_in_a_row=jnp.asarray(2, jnp.int32),
    )
    new, metrics = step(broken, a_batch())
    assert metrics["finite"] == 0
    assert digest((new.params, new.stats, new.opt_state)) == digest(
        (broken.params, broken.stats, broken.opt_state)
    )
    assert int(new.step) == 1
    assert (int(new.skipped), int(new.skipped_in_a_row)) == (6, 3)
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (6, 3)
    counted = state._replace(skipped=new.skipped, skipped_in_a_row=new.skipped_in_a_row)
    after = step(counted, a_batch())[0]
    assert (int(after.skipped), int(after.skipped_in_a_row)) == (6, 0)


def predict(model: RelDepthNet, state: TrainState, images: jax.Array) -> jax.Array:
    graph = graph_definition(model, training=False)

    @jax.jit
    def forward(params: nnx.State, stats: nnx.State, images: jax.Array) -> jax.Array:
        return nnx.merge(graph, params, stats)(as_float(images))

    return forward(state.params, state.stats, images)


def test_forward_uses_running_statistics(compiled):
    model, state, _ = compiled
    images = a_batch()["image"]
    both, alone = predict(model, state, images), predict(model, state, images[:1])
    np.testing.assert_allclose(both[:1], alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_keeps_parameters_statistics_and_scores_in_float32():
    config = dataclasses.replace(
        RESNET, model=dataclasses.replace(RESNET.model, dtype="bfloat16", decoder_width=16)
    )
    model, state = new_state(config)
    narrow = predict(model, state, a_batch()["image"])
    wide_model, _ = new_state(
        dataclasses.replace(config, model=dataclasses.replace(config.model, dtype="float32"))
    )
    wide = predict(wide_model, state, a_batch()["image"])
    assert narrow.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.stats))} == {
        np.dtype("float32")
    }
    # bfloat16 has 8 bits of mantissa; some twenty layers of it.
    assert jnp.max(jnp.abs(narrow - wide)) < 0.05 * jnp.max(jnp.abs(wide))
    assert jnp.any(narrow != wide)


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


def test_a_signal_sets_the_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with catch_interrupts() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        assert interrupt.exit_code == 130
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_ctrl_c_ends_the_process_at_once():
    # In a process of its own: nothing can be caught of os._exit.
    program = """
        import os, signal, time
        from reldepth_jax.training.preemption import catch_interrupts
        tell = lambda reason, lost: print(reason, lost)
        with catch_interrupts(grace=60, on_abandon=tell) as interrupt:
            interrupt.unsaved = 3
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            print("goes on", interrupt.received.name)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert result.stdout.splitlines() == ["goes on SIGINT", "second Ctrl-C 3"], result.stderr
    assert result.returncode == 130


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
