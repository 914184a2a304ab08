"""Ordinal metrics against loops written from their definitions, and closed forms."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import ErrorCounts


def draw(mask, count=5000, seed=0, index=0, same_row=False):
    return ordinal.heldout_pairs(mask, seed=seed, index=index, count=count, same_row=same_row)


def random_pairs(seed, n=400, levels=12):
    """Differences with ties and NaN, and relations of every kind."""
    rng = np.random.default_rng(seed)
    difference = rng.integers(-levels, levels + 1, n) / 4
    difference[rng.random(n) < 0.05] = np.nan
    return difference, rng.integers(-1, 2, n).astype(np.int8)


def three_way_by_loop(difference, relation, tau):
    """Errors over all, equal and unequal pairs as (wrong, total)."""
    counts = {"all": [0, 0], "equal": [0, 0], "unequal": [0, 0]}
    for d, truth in zip(difference, relation, strict=True):
        said = 0 if abs(d) <= tau else 1 if d > 0 else -1 if d < 0 else None
        for kind in ("all", "unequal" if truth else "equal"):
            counts[kind][0] += said != truth
            counts[kind][1] += 1
    return counts


# --- pairs


@pytest.mark.parametrize("same_row", [False, True])
def test_pairs_are_distinct_valid_pixels(same_row):
    mask = np.random.default_rng(0).random((50, 31)) < 0.3
    first, second = draw(mask, same_row=same_row)
    assert len(first) == len(second) == 5000
    assert mask.flat[first].all()
    assert mask.flat[second].all()
    assert (first != second).all()


def test_same_row_pairs_are_less_than_six_percent_of_the_height_apart():
    first, second = draw(np.ones((50, 31), bool), same_row=True)
    apart = np.abs(first // 31 - second // 31)
    assert set(apart) == {0, 1, 2}  # 3 rows are exactly 6 % of 50


@pytest.mark.parametrize("same_row", [False, True])
def test_every_allowed_pair_is_drawn_with_its_probability(same_row):
    mask = np.array([[1, 1, 0, 1], [0, 0, 1, 0], [1, 0, 1, 0]], bool)
    count = 200_000
    first, second = draw(mask, count, same_row=same_row)
    seen = np.zeros((12, 12))
    np.add.at(seen, (first, second), 1)
    # Six percent of three rows is less than one row: partners share the row.
    partners = {
        i: [j for j in np.flatnonzero(mask) if j != i and (not same_row or j // 4 == i // 4)]
        for i in np.flatnonzero(mask)
    }
    partners = {i: others for i, others in partners.items() if others}
    assert len(partners) == (5 if same_row else 6)
    expected = np.zeros((12, 12))
    for i, others in partners.items():
        expected[i, others] = count / len(partners) / len(others)
    assert (np.abs(seen - expected) <= 5 * np.sqrt(expected)).all()


def test_pairs_depend_on_seed_index_and_kind_only():
    mask = np.ones((40, 40), bool)
    again = draw(mask.copy())
    assert all(np.array_equal(a, b) for a, b in zip(draw(mask), again, strict=True))
    for other in (draw(mask, seed=1), draw(mask, index=1), draw(mask, same_row=True)):
        assert not np.array_equal(again.first, other.first)


def test_pairs_are_those_of_published_results():
    """The pairs are part of the protocol: if these numbers change, old results are void."""
    first, second = draw(np.ones((384, 384), bool), count=4, seed=0, index=7)
    assert first.tolist() == [25631, 54187, 47205, 67416]
    assert second.tolist() == [144618, 27031, 18218, 131642]


@pytest.mark.parametrize("valid", [0, 1])
@pytest.mark.parametrize("same_row", [False, True])
def test_no_pairs_without_two_valid_pixels(valid, same_row):
    mask = np.zeros((8, 8), bool)
    mask.flat[:valid] = True
    assert len(draw(mask, same_row=same_row).first) == 0


# --- relations and errors


def test_relation_follows_equation_1():
    rng = np.random.default_rng(1)
    depth_i, depth_j = rng.uniform(1, 1.06, (2, 500)).astype(np.float32)
    got = ordinal.relation(depth_i, depth_j, 0.02)
    for i, j, relation in zip(depth_i.tolist(), depth_j.tolist(), got, strict=True):
        assert relation == (1 if i / j > 1.02 else -1 if j / i > 1.02 else 0)
    assert set(got.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("depth_i", "depth_j", "expected"),
    [
        (math.inf, math.inf, 0),
        (math.inf, 1e30, 1),
        (3.0, math.inf, -1),
        (0.0, 0.0, 0),
        (1e-30, 0.0, 1),
        (0.0, 1e-30, -1),
        (3e38, 3.4e38, -1),
    ],
)
def test_relation_at_the_ends_of_the_range(depth_i, depth_j, expected):
    got = ordinal.relation(np.array([depth_i], np.float32), np.array([depth_j], np.float32), 0.02)
    assert got.tolist() == [expected]


def test_difference_of_infinite_and_missing_scores():
    score = np.array([[math.inf, math.inf, -math.inf, math.nan, 2.0, 0.5]])
    pairs = ordinal.PixelPairs(np.array([0, 0, 0, 3, 4]), np.array([1, 2, 4, 4, 5]))
    got = ordinal.difference(score, pairs)
    np.testing.assert_array_equal(got, [0, math.inf, math.inf, math.nan, 1.5])


def test_strict_error_counts_ties_and_nan_as_wrong():
    difference, relation = random_pairs(0)
    wrong = total = ties = 0
    for d, truth in zip(difference, relation, strict=True):
        if truth:
            total += 1
            wrong += not d * truth > 0
            ties += d == 0
    got = ordinal.strict_error(difference, relation)
    assert (got.wrong.item(), got.total.item()) == (wrong, total)
    half = ordinal.strict_error(difference, relation, tie=0.5)
    assert ties > 0
    assert half.wrong.item() == wrong - ties / 2


@pytest.mark.parametrize("tau", [0.0, 0.25, 0.3, 1.0, 100.0])
def test_three_way_error_agrees_with_a_loop(tau):
    difference, relation = random_pairs(1)
    expected = three_way_by_loop(difference, relation, tau)
    got = ordinal.three_way_error(difference, relation, tau)
    for counts, kind in zip(got, ("all", "equal", "unequal"), strict=True):
        assert [counts.wrong.item(), counts.total.item()] == expected[kind]


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_the_smallest_minimiser(seed):
    difference, relation = random_pairs(seed, n=60)

    def worst(tau):
        counts = three_way_by_loop(difference, relation, tau)
        return max(counts[kind][0] / counts[kind][1] for kind in ("equal", "unequal"))

    # Errors change at distances only, so a grid twice as fine as theirs misses no minimum.
    grid = np.arange(0, 4, 0.125)
    errors = np.array([worst(tau) for tau in grid])
    expected = grid[np.flatnonzero(errors == errors.min())[0]]
    assert ordinal.best_tau(difference, relation) == expected
    assert ordinal.best_tau(1000 * difference, relation) == 1000 * expected


def test_tau_without_one_kind_of_pairs():
    difference = np.array([0.5, -2.0, 3.0, np.nan])
    assert ordinal.best_tau(difference, np.array([1, -1, 1, 1], np.int8)) == 0
    assert ordinal.best_tau(difference, np.zeros(4, np.int8)) == 3
    assert ordinal.best_tau(np.zeros(0), np.zeros(0, np.int8)) == 0


def judged(score, depth, index=0):
    pairs = draw(np.ones(depth.shape, bool), index=index)
    relation = ordinal.relation(depth.flat[pairs.first], depth.flat[pairs.second], 0.02)
    return ordinal.strict_error(ordinal.difference(score, pairs), relation)


def test_true_order_has_no_error_reversed_order_all_and_chance_half():
    rng = np.random.default_rng(2)
    depth = rng.uniform(1, 100, (60, 80)).astype(np.float32)
    assert judged(np.log(depth), depth).rate == 0
    assert judged(-depth, depth).rate == 1
    chance = judged(rng.random((60, 80)), depth)
    assert abs(chance.rate - 0.5) < 4 * math.sqrt(0.25 / chance.total.item())
    assert judged(np.zeros((60, 80)), depth).rate == 1  # ties
    assert judged(np.full((60, 80), np.nan), depth).rate == 1


def test_strict_error_is_invariant_to_monotone_changes_of_the_score():
    rng = np.random.default_rng(3)
    depth, score = rng.uniform(1, 100, (2, 60, 80))
    before = judged(score, depth)
    for change in (np.log, np.sqrt, lambda z: 7 * z - 1e3, lambda z: z**3):
        assert judged(change(score), depth).wrong == before.wrong


# --- pooling and intervals


def counts(wrong, total):
    return ErrorCounts(np.array(wrong, np.float64), np.array(total, np.int64))


def test_rate_pools_pairs_so_that_images_without_pairs_change_nothing():
    some = counts([1, 8], [10, 10])
    assert some.rate == 9 / 20
    assert ErrorCounts.merge([counts([0], [0]), some, counts([0], [0])]).rate == 9 / 20
    assert math.isnan(ErrorCounts.merge([]).rate)
    assert math.isnan(counts([0], [0]).rate)


def test_mean_over_seeds_needs_the_same_pairs():
    mean = ErrorCounts.mean([counts([1, 4], [10, 20]), counts([3, 0], [10, 20])])
    assert (mean.wrong.tolist(), mean.total.tolist()) == ([2, 2], [10, 20])
    with pytest.raises(ValueError, match="same pairs"):
        ErrorCounts.mean([counts([1], [10]), counts([1], [11])])


def test_interval_has_the_spread_of_a_binomial():
    """One pair an image: a resample is n draws of a coin with the pooled rate."""
    n, rate = 400, 0.3
    wrong, total = np.zeros(n), np.ones(n, np.int64)
    wrong[: round(rate * n)] = 1
    half_width = NormalDist().inv_cdf(0.975) * math.sqrt(rate * (1 - rate) / n)
    low, high = ordinal.bootstrap_interval(wrong, total)
    assert low == pytest.approx(rate - half_width, abs=0.006)
    assert high == pytest.approx(rate + half_width, abs=0.006)
    # More pairs in the same images tell nothing new about the spread over images.
    assert ordinal.bootstrap_interval(50 * wrong, 50 * total) == (low, high)


def test_interval_covers_the_true_rate_as_often_as_it_says():
    rng = np.random.default_rng(4)
    truth, images, trials, covered = 0.2, 60, 200, 0
    for trial in range(trials):
        total = rng.integers(50, 150, images)
        wrong = rng.binomial(total, rng.beta(2, 8, images)).astype(np.float64)
        low, high = ordinal.bootstrap_interval(wrong, total, samples=300, seed=trial)
        covered += low <= truth <= high
    # 0.95 less what the bootstrap loses with 60 images, within four standard errors.
    assert 0.87 < covered / trials < 1


def test_interval_is_deterministic_and_unknown_for_one_image():
    many = counts([1, 5, 2], [10, 10, 10])
    assert many.interval == counts([1, 5, 2], [10, 10, 10]).interval
    assert many.interval[0] < many.rate < many.interval[1]
    assert counts([4, 4, 4], [10, 10, 10]).interval == (0.4, 0.4)
    for nothing in (counts([3], [10]), counts([0, 0], [0, 0]), counts([], [])):
        assert all(math.isnan(bound) for bound in nothing.interval)
