"""Weighted sums of losses, from configurations and from the command line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.config import Choice, Config, from_dict, override, to_dict, validate
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Pairs

SHAPE = (2, 6, 8)
RNG = np.random.default_rng(0)
SCORE = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)
BATCH: Batch = {
    "image": jnp.zeros((*SHAPE, 3), jnp.uint8),
    "depth": jnp.asarray(RNG.uniform(1, 9, size=SHAPE), jnp.float32),
    "mask": jnp.ones(SHAPE, bool),
}
PAIRS = Pairs(
    jnp.asarray(RNG.integers(0, 48, size=(2, 30)), jnp.int32),
    jnp.asarray(RNG.integers(0, 48, size=(2, 30)), jnp.int32),
    jnp.ones((2, 30), bool),
)


def evaluate(name: str, **options: Any) -> tuple[jax.Array, jax.Array]:
    return jax.jit(jax.value_and_grad(LOSSES.create(name, **options)))(SCORE, BATCH, PAIRS)


def test_default_is_the_total_loss_of_midas():
    (first, gradient_1), (second, gradient_2) = (
        evaluate("ssi_trimmed"),
        evaluate("gradient_matching"),
    )
    value, gradient = evaluate("sum")
    np.testing.assert_allclose(value, first + 0.5 * second, rtol=1e-6)
    np.testing.assert_allclose(gradient, gradient_1 + 0.5 * gradient_2, rtol=1e-5, atol=1e-7)


def test_parts_take_options_from_the_command_line():
    losses = "ranking:drop_easiest=0 , gradient_matching:scales=1:alignment=least_squares,mae"
    config = override(
        Config(), {"loss.losses": losses, "loss.weights": "2,0.25,0", "loss.name": "sum"}
    )
    validate(config)
    again = from_dict(to_dict(config))
    assert to_dict(again) == to_dict(config)
    parts = (
        2 * evaluate("ranking", drop_easiest=0.0)[0],
        0.25 * evaluate("gradient_matching", scales=1, alignment="least_squares")[0],
    )
    for loss in (config.loss, again.loss):
        value, _ = evaluate(loss.name, **loss.options)
        np.testing.assert_allclose(value, sum(parts), rtol=1e-6)


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        (("ssi_trimed",), (1.0,), "loss.losses: 'ssi_trimed': .*Did you mean 'ssi_trimmed'"),
        (("ssi_trimmed:trm=0",), (1.0,), "'loss.trm' of loss 'ssi_trimmed'. Did you mean 'trim'"),
        (("ssi_trimmed:trim=x",), (1.0,), "loss.trim: expected a number, got 'x'"),
        (("ssi_trimmed:trim=nan",), (1.0,), "loss.trim: expected a finite number, got nan"),
        (("mae", "ssi_trimmed:trim=2"), (1.0, 1.0), r"'ssi_trimmed:trim=2': .*\[0, 1\), got 2.0"),
        (("mae:normalisation=minmx",), (1.0,), "'minmx' is not one of .*Did you mean 'minmax'"),
        (("ssi_trimmed:0.2",), (1.0,), "'0.2' is no option; write ssi_trimmed:option=value"),
        (("",), (1.0,), "loss.losses: '': loss.name: unknown loss ''"),
        (("sum",), (1.0,), "loss.losses: 'sum': a sum cannot stand in a sum"),
        (
            ("mae", "l2"),
            (1.0,),
            "loss.weights: 1 weights for 2 losses; give one for each of mae, l2",
        ),
        (("mae",), (-1.0,), "loss.weights must be at least 0, got -1.0"),
        ((), (), "give one for each of at least one loss"),
    ],
)
def test_mistakes_are_told_in_one_line_when_the_loss_is_made(losses, weights, message: str):
    with pytest.raises(UserError, match=message) as raised:
        LOSSES.create("sum", losses=losses, weights=weights)
    assert "\n" not in str(raised.value)


def test_config_with_a_sum_is_valid_and_complete():
    config = Config(loss=Choice("sum", weights=(1.0, 2.0)))
    validate(config)
    assert to_dict(config)["loss"] == {
        "name": "sum",
        "losses": ["ssi_trimmed", "gradient_matching"],
        "weights": [1.0, 2.0],
    }
