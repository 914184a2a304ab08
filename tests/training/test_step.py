"""One training step: what it changes, parts of a batch, blocks computed again."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from reldepth_jax.config import (
    Config,
    ConfigError,
    validate,
)
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.models.network import RelDepthNet, as_float, graph_definition
from reldepth_jax.samplers.uniform import UniformPairs
from reldepth_jax.training import optimizer
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import make_train_step
from reldepth_jax.types import Batch
from tests.fixtures.training import RESNET, TINY, digest

pytestmark = pytest.mark.usefixtures("strides_encoder")


def a_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)),
        "depth": jnp.asarray(rng.uniform(1, 9, (2, 32, 64)).astype(np.float32)),
        "mask": jnp.asarray(rng.random((2, 32, 64)) < 0.9),
    }


@functools.cache
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
    # Few unequal pairs in the last image: the mean of the parts' shares would be another one.
    batch["depth"] = batch["depth"].at[3, :, 4:].set(1.0)
    whole, metrics = one_step(TINY)(state, batch)
    got, in_parts = one_step(TINY, parts)(state, batch)
    for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-4), ("whdr", 1e-6)):
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
