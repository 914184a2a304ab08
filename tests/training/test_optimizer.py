"""Optimiser and schedule."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
import pytest

from reldepth_jax.config import (
    OptimConfig,
)
from reldepth_jax.training import optimizer


def test_schedule_warms_up_and_decays_as_written():
    config = OptimConfig(learning_rate=0.4, warmup_steps=9, final_lr_scale=0.1)
    schedule = optimizer.make_schedule(config, 109)
    # The first step learns too.
    expected = {0: 0.04, 4: 0.2, 8: 0.36, 9: 0.4, 59: 0.4 * (0.1 + 0.9 * 0.5), 109: 0.04}
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
