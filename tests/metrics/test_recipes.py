"""Differences between recipes: closed forms, SciPy's tests, and how often they are wrong."""

import math

import numpy as np
import pytest
from scipy import stats

from reldepth_jax.metrics import recipes
from reldepth_jax.metrics.ordinal import ErrorCounts

SPREADS = (0.0, 0.003, 0.01, 0.05)


def counts(wrong: object, total: object) -> ErrorCounts:
    return ErrorCounts(np.array(wrong, np.float64), np.array(total, np.int64))


def test_of_one_network_each_the_interval_has_the_closed_form_of_two_images():
    """Differences +3 and -1 of 10: a resample is both, or one of them twice (1/4 each)."""
    got = recipes.difference([counts([5, 1], [10, 10])], [counts([2, 2], [10, 10])])
    assert got[:3] == pytest.approx((0.1, -0.1, 0.3))
    assert math.isnan(got.seeds_p)
    assert not got.decided


def test_a_network_that_is_better_on_every_image_is_better():
    worse = np.random.default_rng(5).integers(20, 80, 30)
    one, other = counts(worse - 10, [100] * 30), counts(worse, [100] * 30)
    assert recipes.difference([one], [other])[:3] == pytest.approx((-0.1, -0.1, -0.1))
    assert recipes.difference([one], [other]).decided
    assert recipes.difference([other], [other])[:3] == (0, 0, 0)
    assert not recipes.difference([other], [other]).decided
    twice = recipes.difference([one, one], [other, other])
    assert twice == pytest.approx((-0.1, -0.1, -0.1, 0))


def test_two_seeds_have_the_interval_of_student():
    """Rates 0.1 and 0.3 on all images: drawn again, the mean is -, 0 or + sqrt(2) deviations."""
    seeds, other = [counts([1] * 9, [10] * 9), counts([3] * 9, [10] * 9)], counts([2] * 9, [10] * 9)
    got = recipes.difference(seeds, [other, other])
    half = math.sqrt(2) * 0.1 * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
    assert got[:3] == pytest.approx((0, -half, half))
    assert got.seeds_p == pytest.approx(1)


@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 2)])
def test_the_test_over_seeds_is_that_of_welch(seeds: tuple[int, int]):
    rng = np.random.default_rng(sum(seeds))
    groups = [
        [counts(rng.integers(20 + 9 * k, 60 + 9 * k, 8), [100] * 8) for _ in range(n)]
        for k, n in enumerate(seeds)
    ]
    rates = [[each.rate for each in group] for group in groups]
    _, expected = stats.ttest_ind(*rates, equal_var=False)
    assert recipes.difference(*groups).seeds_p == pytest.approx(expected, rel=1e-9)


def test_few_images_decide_nothing():
    one, other = counts([1], [9]), counts([3], [9])
    assert not recipes.difference([one], [other]).decided
    assert not recipes.difference([one, one], [other, other]).decided


def test_networks_must_have_been_counted_on_the_same_pairs():
    one, other = counts([1, 1], [10, 10]), counts([1, 1], [10, 11])
    for pair in (([one], [other]), ([one, other], [one])):
        with pytest.raises(ValueError, match="same pairs"):
            recipes.difference(*pair)


def false_decisions(spread: float, cases: int, *, images: int, seeds: int, samples: int) -> float:
    """Return the share of comparisons of a recipe with itself that are decided.

    Errors of an image are beta distributed around 0.2, networks differ by `spread` (a standard
    deviation) everywhere and by 0.03 on each image.
    """
    rng = np.random.default_rng(round(1e4 * spread))
    total = np.full(images, 200)
    decided = 0
    for case in range(cases):
        difficulty = rng.beta(2, 8, images)
        networks = [
            counts(rng.binomial(total, np.clip(difficulty + seed + image, 0, 1)), total)
            for seed, image in zip(
                rng.normal(0, spread, 2 * seeds),
                rng.normal(0, 0.03, (2 * seeds, images)),
                strict=True,
            )
        ]
        found = recipes.difference(networks[:seeds], networks[seeds:], samples=samples, seed=case)
        decided += found.decided
    return decided / cases


@pytest.mark.parametrize("spread", SPREADS)
def test_a_recipe_is_seldom_better_than_itself(spread: float):
    # docs/evaluation.md has the rates of 2000 cases.
    assert false_decisions(spread, 100, images=60, seeds=3, samples=200) <= 0.06


def test_a_recipe_that_is_much_better_is_found():
    rng = np.random.default_rng(0)
    total = np.full(60, 200)
    difficulty = rng.beta(2, 8, 60)
    better, worse = (
        [counts(rng.binomial(total, np.clip(difficulty + shift + seed, 0, 1)), total)
         for seed in rng.normal(0, 0.003, 3)]
        for shift in (0.0, 0.03)
    )  # fmt: skip
    found = recipes.difference(better, worse)
    assert found.decided
    assert found.high < 0
