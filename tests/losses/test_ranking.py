"""The ranking loss against loops written from Eqs. (1)-(3), its invariances and its extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.losses.ranking import RankingLoss, pair_loss, ranking_loss
from reldepth_jax.ops.pairs import ordinal_relation
from reldepth_jax.types import Batch, Pairs
from tests.references import numpy_losses

# Float32 sums of some hundred terms against float64.
RELATIVE = 1e-5
# Of gradients that may be zero, relative to the largest.
ABSOLUTE = 1e-7

HUGE, TINY = 1e30, 1e-30


def random_pairs(
    seed: int, shape: tuple[int, int] = (3, 60)
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores of both points, relation and validity: all three relations occur."""
    rng = np.random.default_rng(seed)
    score_i, score_j = (rng.normal(size=shape).astype(np.float32) * 3 for _ in range(2))
    return score_i, score_j, rng.integers(-1, 2, size=shape), rng.uniform(size=shape) > 0.2


@functools.partial(jax.jit, static_argnames="drop_easiest")
def loss_of(score_i, score_j, relation, where, drop_easiest=0.25):
    return ranking_loss(
        jnp.asarray(score_i),
        jnp.asarray(score_j),
        jnp.asarray(relation),
        where=jnp.asarray(where),
        drop_easiest=drop_easiest,
    )


def random_maps(seed: int) -> tuple[np.ndarray, Batch, Pairs]:
    """Scores, ground truth with sky, ties, zeros and NaN where masked, and pairs."""
    rng = np.random.default_rng(seed)
    shape, n = (2, 5, 7), 80
    depth = rng.choice([0.0, 1.0, 1.5, 4.0, 4.01, np.inf], size=shape).astype(np.float32)
    mask = rng.uniform(size=shape) > 0.2
    depth[~mask] = np.nan
    score = rng.normal(size=shape).astype(np.float32)
    first, second = (jnp.asarray(rng.integers(0, 35, size=(2, n)), jnp.int32) for _ in range(2))
    batch: Batch = {
        "image": jnp.zeros((*shape, 3), jnp.uint8),
        "depth": jnp.asarray(depth),
        "mask": jnp.asarray(mask),
    }
    return score, batch, Pairs(first, second, jnp.asarray(rng.uniform(size=(2, n)) > 0.1))


@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.5])
def test_relation_agrees_with_the_equation(sigma: float):
    depths = [0.0, TINY, 0.5, 1.0, 1.01, 1.03, 2.0, HUGE, np.inf]
    pairs = [(a, b) for a in depths for b in depths]
    first, second = (jnp.array([pair[k] for pair in pairs], jnp.float32) for k in (0, 1))
    expected = [numpy_losses.relation(a, b, sigma) for a, b in pairs]
    assert ordinal_relation(first, second, sigma=sigma).tolist() == expected


def test_ratio_of_exactly_one_plus_sigma_is_equal():
    first, second = jnp.array([1.25, 1.0, 1.375]), jnp.array([1.0, 1.25, 1.0])
    assert ordinal_relation(first, second, sigma=0.25).tolist() == [0, 0, 1]


def test_relation_ignores_the_scale_of_depth():
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.uniform(1, 2, size=500), jnp.float32) for _ in range(2))
    expected = ordinal_relation(first, second)
    assert {-1, 0, 1} == set(expected.tolist())
    # A power of two scales without rounding.
    assert (ordinal_relation(first * 2.0**40, second * 2.0**40) == expected).all()


def test_negative_sigma_is_refused():
    with pytest.raises(ValueError, match="sigma must be at least 0, got -0.1"):
        ordinal_relation(jnp.ones(1), jnp.ones(1), sigma=-0.1)


@pytest.mark.parametrize("drop_easiest", [-0.1, 1.0, 25.0])
def test_share_outside_zero_to_one_is_refused(drop_easiest: float):
    score_i, score_j, relation, where = random_pairs(0)
    with pytest.raises(ValueError, match=r"drop_easiest must be in \[0, 1\), got"):
        loss_of(score_i, score_j, relation, where, drop_easiest=drop_easiest)


def test_pair_loss_agrees_with_the_equation():
    score_i, score_j, relation, _ = random_pairs(1)
    expected = [
        numpy_losses.phi(float(a), float(b), int(label))[0]
        for a, b, label in zip(score_i.flat, score_j.flat, relation.flat, strict=True)
    ]
    got = pair_loss(jnp.asarray(score_i), jnp.asarray(score_j), jnp.asarray(relation))
    np.testing.assert_allclose(got.ravel(), expected, rtol=RELATIVE)


@pytest.mark.parametrize("drop_easiest", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_agree_with_the_equations(seed: int, drop_easiest: float):
    pairs = random_pairs(seed)
    value, *gradients = numpy_losses.ranking(*pairs, drop_easiest)
    got, got_gradients = jax.value_and_grad(loss_of, argnums=(0, 1))(
        *pairs, drop_easiest=drop_easiest
    )
    np.testing.assert_allclose(got, value, rtol=RELATIVE)
    for ours, theirs in zip(got_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8])
def test_share_is_rounded_down(count: int):
    """All losses differ, so that the mean tells how many were dropped."""
    score_i = np.arange(count, dtype=np.float32)[None]
    zeros, ones = np.zeros_like(score_i), np.ones((1, count), int)
    losses = sorted(np.log1p(np.exp(-score_i[0].astype(float))))[int(count * 0.25) :]
    got = loss_of(score_i, zeros, ones, ones.astype(bool))
    np.testing.assert_allclose(got, np.mean(losses), rtol=RELATIVE)


def test_share_is_of_the_unequal_pairs_of_the_whole_batch():
    """All four easy pairs are in the first image: the second one loses none."""
    score_i = np.array([[9.0] * 4, [-1.0] * 4, [-2.0] * 4, [-3.0] * 4], np.float32)
    ones = np.ones((4, 4), int)
    gradient = jax.grad(loss_of)(score_i, np.zeros_like(score_i), ones, ones.astype(bool))
    assert (gradient[0] == 0).all()
    assert (gradient[1:] != 0).all()


def test_earlier_of_equal_losses_is_dropped():
    zeros, ones = np.zeros((1, 8), np.float32), np.ones((1, 8), int)
    gradient = jax.grad(loss_of)(zeros, zeros, ones, ones.astype(bool))
    assert (gradient[0] != 0).tolist() == [False] * 2 + [True] * 6


def test_equal_pairs_are_never_dropped():
    score_i = np.array([[0.001, 0.002, 5.0, 6.0, 7.0, 8.0]], np.float32)
    relation = np.array([[0, 0, 1, 1, 1, 1]])
    gradient = jax.grad(loss_of)(score_i, np.zeros_like(score_i), relation, np.ones((1, 6), bool))
    assert (gradient[0] != 0).tolist() == [True, True, True, True, True, False]


def test_swapping_the_points_changes_nothing():
    score_i, score_j, relation, where = random_pairs(3)
    np.testing.assert_allclose(
        loss_of(score_j, score_i, -relation, where),
        loss_of(score_i, score_j, relation, where),
        rtol=RELATIVE,
    )
    depth_i, depth_j = (jnp.exp(jnp.asarray(score) / 30) for score in (score_i, score_j))
    assert (ordinal_relation(depth_i, depth_j) == -ordinal_relation(depth_j, depth_i)).all()


def test_order_of_the_pairs_changes_nothing():
    pairs = random_pairs(4)
    order = np.random.default_rng(0).permutation(pairs[0].size)
    score_i, score_j, relation, where = (x.ravel()[order].reshape(x.shape) for x in pairs)
    shuffled = loss_of(score_i, score_j, relation, where)
    np.testing.assert_allclose(shuffled, loss_of(*pairs), rtol=RELATIVE)


def test_adding_a_constant_to_all_scores_changes_nothing():
    score_i, score_j, relation, where = random_pairs(5)
    # Binary fractions: the sums are exact.
    score_i, score_j = np.round(score_i * 16) / 16, np.round(score_j * 16) / 16
    assert loss_of(score_i + 8, score_j + 8, relation, where) == loss_of(
        score_i, score_j, relation, where
    )


def test_masking_pairs_equals_removing_them():
    score_i, score_j, relation, where = random_pairs(6, (1, 90))
    kept_i, kept_j, kept_relation = (x[where][None] for x in (score_i, score_j, relation))
    np.testing.assert_allclose(
        loss_of(score_i, score_j, relation, where),
        loss_of(kept_i, kept_j, kept_relation, np.ones(kept_i.shape, bool)),
        rtol=RELATIVE,
    )


def test_masked_pairs_may_hold_anything_and_get_no_gradient():
    score_i, score_j, relation, where = random_pairs(7)
    expected = loss_of(score_i, score_j, relation, where)
    filled = np.where(where, score_i, np.nan).astype(np.float32)
    got, gradient = jax.value_and_grad(loss_of)(filled, score_j, relation, where)
    assert got == expected
    assert (gradient[~where] == 0).all()
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("relation", [1, -1])
def test_farther_score_for_the_farther_point_is_better(relation: int):
    difference = jnp.linspace(-20, 20, 81)
    losses = pair_loss(difference, jnp.zeros(81), jnp.full(81, relation))
    assert (jnp.diff(losses) * relation < 0).all()


def test_equal_pairs_are_best_at_equal_scores():
    difference = jnp.arange(-20, 21) / 10
    losses = pair_loss(difference, jnp.zeros(41), jnp.zeros(41, jnp.int32))
    assert int(jnp.argmin(losses)) == 20
    assert losses[20] == 0


def test_nothing_valid_gives_zero_and_no_gradient():
    score_i, score_j, relation, where = random_pairs(8)
    value, gradient = jax.value_and_grad(loss_of)(score_i, score_j, relation, where & False)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("drop_easiest", [0.0, 0.25])
@pytest.mark.parametrize("scores", [(0.0, 0.0), (HUGE, -HUGE), (-HUGE, HUGE), (TINY, 0.0)])
def test_unequal_pairs_of_any_score_are_finite(scores: tuple[float, float], drop_easiest: float):
    score_i, score_j = (np.full((1, 4), score, np.float32) for score in scores)
    relation, where = np.array([[1, -1, 1, -1]]), np.ones((1, 4), bool)
    value, gradients = jax.value_and_grad(loss_of, argnums=(0, 1))(
        score_i, score_j, relation, where, drop_easiest=drop_easiest
    )
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_square_of_an_equal_pair_that_float32_holds_is_finite():
    score_i, zeros = np.full((1, 4), 1e18, np.float32), np.zeros((1, 4), np.float32)
    value, gradient = jax.value_and_grad(loss_of)(
        score_i, zeros, np.zeros((1, 4), int), np.ones((1, 4), bool)
    )
    np.testing.assert_allclose(value, 1e36, rtol=RELATIVE)
    np.testing.assert_allclose(gradient, np.full((1, 4), 5e17), rtol=RELATIVE)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("drop_easiest", [0.0, 0.25])
def test_loss_of_maps_agrees_with_the_equations(seed: int, drop_easiest: float):
    score, batch, pairs = random_maps(seed)
    value, gradient = numpy_losses.ranking_of_maps(
        score,
        np.asarray(batch["depth"]),
        np.asarray(batch["mask"]),
        *(np.asarray(x) for x in pairs[:3]),
        sigma=0.02,
        drop_easiest=drop_easiest,
    )
    loss = RankingLoss(sigma=0.02, drop_easiest=drop_easiest)
    got, got_gradient = jax.jit(jax.value_and_grad(loss))(jnp.asarray(score), batch, pairs)
    np.testing.assert_allclose(got, value, rtol=RELATIVE)
    np.testing.assert_allclose(got_gradient, gradient, rtol=RELATIVE, atol=ABSOLUTE)


def test_gradient_agrees_with_finite_differences():
    score, batch, pairs = random_maps(9)
    loss = RankingLoss()
    gradient = jax.grad(loss)(jnp.asarray(score), batch, pairs)
    # Symmetric differences of the float64 loops; far smaller steps than gaps between losses.
    step, names = 1e-6, ("depth", "mask")
    truth = [np.asarray(batch[name]) for name in names] + [np.asarray(x) for x in pairs[:3]]
    for pixel in np.ndindex(score.shape):
        values = []
        for sign in (1, -1):
            moved = score.astype(np.float64)
            moved[pixel] += sign * step
            value, _ = numpy_losses.ranking_of_maps(moved, *truth, sigma=0.02, drop_easiest=0.25)
            values.append(value)
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(gradient[pixel], slope, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("depth", [0.0, TINY, 1.0, HUGE, np.inf, np.nan])
@pytest.mark.parametrize("masked", [False, True])
def test_any_depth_gives_finite_loss_and_gradient(depth: float, masked: bool):
    """Constant maps, and the same with one pixel that differs."""
    score, batch, pairs = random_maps(10)
    for other in (depth, 2.0):
        values = jnp.full(score.shape, depth, jnp.float32).at[0, 0, 0].set(other)
        truth: Batch = {**batch, "depth": values, "mask": jnp.full(score.shape, not masked)}
        value, gradient = jax.value_and_grad(RankingLoss())(jnp.asarray(score), truth, pairs)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()
        assert not masked or value == 0


def test_perfect_order_beats_every_swap_of_two_depths():
    """The score that orders best is that of the ground truth."""
    depth = jnp.array([[[1.0, 2.0, 3.0, 5.0]]])
    first, second = jnp.array([[0, 0, 0, 1, 1, 2]]), jnp.array([[1, 2, 3, 2, 3, 3]])
    batch: Batch = {
        "image": jnp.zeros((1, 1, 4, 3), jnp.uint8),
        "depth": depth,
        "mask": jnp.ones((1, 1, 4), bool),
    }
    pairs = Pairs(first, second, jnp.ones((1, 6), bool))
    loss = RankingLoss(drop_easiest=0.0)
    right = loss(depth, batch, pairs)
    for a in range(4):
        for b in range(a):
            swapped = depth.at[0, 0, jnp.array([a, b])].set(depth[0, 0, jnp.array([b, a])])
            assert loss(swapped, batch, pairs) > right
