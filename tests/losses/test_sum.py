"""Weighted sums of losses, from configurations and from the command line."""

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.config import Choice, Config, ConfigError, from_dict, override, to_dict, validate
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


def test_terms_take_options_from_the_command_line():
    config = override(
        Config(),
        {
            "loss.terms.0.drop_easiest": "0",
            "loss.terms.1.scales": "1",
            "loss.terms.1.alignment": "least_squares",
            "loss.terms": "ranking,gradient_matching,ssi_mae",
            "loss.terms.2.name": "mae",
            "loss.weights": "2,0.25,0",
            "loss.name": "sum",
        },
    )
    validate(config)
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert to_dict(again) == to_dict(config)
    parts = (
        2 * evaluate("ranking", drop_easiest=0.0)[0],
        0.25 * evaluate("gradient_matching", scales=1, alignment="least_squares")[0],
    )
    for loss in (config.loss, again.loss):
        value, _ = evaluate(loss.name, **loss.options)
        np.testing.assert_allclose(value, sum(parts), rtol=1e-6)


def test_a_sum_may_stand_in_a_sum():
    inner = Choice("sum", terms=(Choice("mae"), Choice("mse")), weights=(1.0, 3.0))
    value, _ = evaluate("sum", terms=(inner, Choice("ranking")), weights=(2.0, 0.5))
    mae, mse, ranking = (evaluate(name)[0] for name in ("mae", "mse", "ranking"))
    np.testing.assert_allclose(value, 2 * (mae + 3 * mse) + 0.5 * ranking, rtol=1e-6)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (Choice("mae"), "^loss.terms: expected a tuple, got Choice"),
        ((3,), r"^loss.terms.0: expected Choice\(name, …\), got 3"),
        ((Choice("ssi_trimed"),), "^loss.terms.0.name: unknown .*Did you mean 'ssi_trimmed'"),
        (
            (Choice("ssi_trimmed", trm=0),),
            "'loss.terms.0.trm' of loss 'ssi_trimmed'. Did you mean 'trim'",
        ),
        (
            (Choice("mae"), Choice("ssi_trimmed", trim="x")),
            "^loss.terms.1.trim: expected a finite number, got 'x'",
        ),
        (
            (Choice("ssi_trimmed", trim=math.nan),),
            "^loss.terms.0.trim: expected a finite number, got nan",
        ),
        (
            (Choice("mae", normalisation="minmx"),),
            "^loss.terms.0.normalisation: 'minmx' is not one of .*Did you mean 'minmax'",
        ),
        (("",), "^loss.terms.0.name: unknown loss ''"),
        (
            ("ssi_trimmed:0.2",),
            "^unknown field 'loss.terms.0.0.2' of loss 'ssi_trimmed'",
        ),
    ],
)
def test_mistakes_in_terms_are_those_of_any_loss(terms: Any, message: str):
    with pytest.raises(ConfigError, match=message) as raised:
        validate(Config(loss=Choice("sum", terms=terms)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ({"terms.0.name": "ssi_trimed"}, "^loss.terms.0.name: unknown .*mean 'ssi_trimmed'"),
        ({"terms": "mae,rankin"}, "^loss.terms.1.name: unknown .*Did you mean 'ranking'"),
        ({"terms.0": "rankin"}, "^loss.terms.0: unknown .*Did you mean 'ranking'"),
        ({"terms.0.trm": "1"}, "'loss.terms.0.trm' of loss 'ssi_trimmed'. Did you mean 'trim'"),
        ({"terms.0.trim": "x"}, "^loss.terms.0.trim: expected a number, got 'x'"),
        ({"terms.2.name": "mae"}, "^loss.terms.2.name: name an item .*; items: 0, 1"),
        ({"term.0.name": "mae"}, "'loss.term.0.name' of loss 'sum'. Did you mean 'terms'"),
    ],
)
def test_mistakes_on_the_command_line_name_the_term(assignments: dict[str, str], message: str):
    assignments = {f"loss.{path}": text for path, text in assignments.items()}
    config = Config(loss=Choice("sum"))
    with pytest.raises(ConfigError, match=message) as raised:
        validate(override(config, assignments))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        (
            (Choice("mae"), Choice("ssi_trimmed", trim=2.0)),
            (1.0, 1.0),
            r"^loss.terms.1.trim must be in \[0, 1\), got 2.0",
        ),
        (
            (Choice("mae"), Choice("mse")),
            (1.0,),
            "^loss.weights: 1 weights for 2 terms; give one for each of mae, mse",
        ),
        ((Choice("mae"),), (-1.0,), "^loss.weights must be at least 0, got -1.0"),
        ((), (), "give one for each of at least one loss"),
    ],
)
def test_mistakes_are_one_line_when_the_loss_is_made(terms: Any, weights: Any, message: str):
    with pytest.raises(UserError, match=message) as raised:
        LOSSES.create("sum", terms=terms, weights=weights)
    assert "\n" not in str(raised.value)


def test_config_with_a_sum_is_valid_and_complete():
    config = Config(loss=Choice("sum", weights=(1.0, 2.0)))
    validate(config)
    values = to_dict(config)["loss"]
    assert values["weights"] == [1.0, 2.0]
    assert [term["name"] for term in values["terms"]] == ["ssi_trimmed", "gradient_matching"]
    assert values["terms"][0] == {"name": "ssi_trimmed", "trim": 0.2}
