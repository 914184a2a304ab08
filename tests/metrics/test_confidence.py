"""Ordinal confidence against loops, a grid search and samples made to be calibrated."""

import json
import math

import numpy as np
import pytest

from reldepth_jax.metrics import confidence
from reldepth_jax.metrics.confidence import Calibration


def logistic(temperature, n=20_000) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose first point is farther with probability sigmoid(difference / temperature)."""
    rng = np.random.default_rng(0)
    difference = rng.normal(size=n)
    farther = rng.random(n) < 1 / (1 + np.exp(-difference / temperature))
    return difference, np.where(farther, 1, -1).astype(np.int8)


def with_oddities(seed, n=700) -> tuple[np.ndarray, np.ndarray]:
    """Differences with ties and NaN, equal pairs among the others, few distinct values."""
    rng = np.random.default_rng(seed)
    difference = rng.integers(-12, 13, n) / 4
    difference[rng.random(n) < 0.05] = np.nan
    relation = np.where(rng.random(n) < 0.3, -np.sign(difference), np.sign(difference))
    relation = np.nan_to_num(relation).astype(np.int8)
    relation[difference == 0] = rng.integers(-1, 2, np.count_nonzero(difference == 0))
    relation[np.isnan(difference)] = 1
    return difference, relation


def nll_by_loop(difference, relation, temperature):
    total, count = 0.0, 0
    for d, truth in zip(difference, relation, strict=True):
        if truth:
            z = 0.0 if math.isnan(d) else d * truth / temperature
            total += math.log1p(math.exp(-z)) if z > -30 else -z
            count += 1
    return total / count


# --- the temperature


@pytest.mark.parametrize("pairs", [logistic(0.3, 1500), with_oddities(1)])
def test_the_temperature_is_where_a_grid_search_finds_the_least_likelihood(pairs):
    difference, relation = pairs
    used = (relation != 0) & ~np.isnan(difference)
    margin = difference[used] * relation[used]
    grid = np.geomspace(1e-3, 1e3, 40_001)
    losses = [np.logaddexp(0, -margin / t).mean() for t in grid]
    expected = grid[np.argmin(losses)]
    assert 0.01 < expected < 100
    step = math.log(grid[1] / grid[0])
    got = confidence.fit_temperature(difference, relation)
    assert abs(math.log(got / expected)) <= step


def test_the_temperature_that_made_the_pairs_is_found():
    for truth in (0.2, 3.0):
        assert confidence.fit_temperature(*logistic(truth)) == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("factor", [1e-12, 0.01, 7.0, 1e9])
def test_scores_times_a_factor_give_the_temperature_times_the_factor(factor):
    difference, relation = logistic(0.5, 500)
    unscaled = confidence.fit_temperature(difference, relation)
    scaled = confidence.fit_temperature(factor * difference, relation)
    assert scaled == pytest.approx(factor * unscaled, rel=1e-9)
    one = Calibration.of_pairs(difference, relation, unscaled)
    other = Calibration.of_pairs(factor * difference, relation, scaled)
    assert other.nll[1] == pytest.approx(one.nll[1], rel=1e-9)
    assert other.bins[1].ece == pytest.approx(one.bins[1].ece, abs=1e-9)


def test_scores_without_an_optimum_end_at_the_bounds():
    difference, _ = logistic(1.0, 100)
    order = np.sign(difference).astype(np.int8)
    mean = np.abs(difference).mean()
    assert confidence.fit_temperature(difference, order) == pytest.approx(mean / 1e3)
    assert confidence.fit_temperature(difference, -order) == pytest.approx(mean * 1e3)
    for nothing in (0 * difference, np.full(100, np.nan), np.zeros(0)):
        assert confidence.fit_temperature(nothing, order[: len(nothing)]) == 1
    assert confidence.fit_temperature(difference, 0 * order) == 1


def test_which_point_is_called_first_does_not_matter():
    difference, relation = logistic(0.5, 500)
    swap = np.where(np.random.default_rng(4).random(500) < 0.5, -1, 1).astype(np.int8)
    a = Calibration.of_pairs(difference, relation, 0.4)
    b = Calibration.of_pairs(swap * difference, swap * relation, 0.4)
    assert a.nll == pytest.approx(b.nll, rel=1e-12)
    assert a.bins[1].ece == pytest.approx(b.bins[1].ece, rel=1e-12)
    fits = [confidence.fit_temperature(s * difference, s * relation) for s in (1, swap)]
    assert fits[0] == pytest.approx(fits[1], rel=1e-12)


def test_likelihood_agrees_with_a_loop_and_does_not_overflow():
    for temperature in (0.01, 1.0, 50.0):
        pairs = with_oddities(2)
        got = confidence.negative_log_likelihood(*pairs, temperature)
        assert got == pytest.approx(nll_by_loop(*pairs, temperature), rel=1e-12)
    huge = np.array([1e300, -1e300, np.inf])
    assert confidence.negative_log_likelihood(huge, np.array([1, -1, 1], np.int8), 1e-300) == 0
    assert confidence.negative_log_likelihood(huge, np.array([1, -1, -1], np.int8), 1.0) == math.inf
    assert math.isnan(confidence.negative_log_likelihood(huge, np.zeros(3, np.int8), 1.0))


# --- calibration


def ece_by_loop(difference, relation, temperature, bins):
    """Bins start at equally spaced ranks, moved back to the first pair of the same confidence."""
    rows = []
    for d, truth in zip(difference, relation, strict=True):
        if truth:
            said = 0.5 if math.isnan(d) else 1 / (1 + math.exp(-abs(d) / temperature))
            right = 0.5 if d == 0 else float((d > 0) == (truth > 0) and not math.isnan(d))
            rows.append((said, right))
    rows.sort(key=lambda row: row[0])
    n = len(rows)
    starts = set()
    for k in range(bins):
        start = k * n // bins
        while start and rows[start - 1][0] == rows[start][0]:
            start -= 1
        starts.add(start)
    edges = [*sorted(starts), n]
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        said, right = (sum(column) / (high - low) for column in zip(*rows[low:high], strict=True))
        total += (high - low) / n * abs(said - right)
    return total, [high - low for low, high in zip(edges[:-1], edges[1:], strict=True)]


@pytest.mark.parametrize("pairs", [logistic(0.3, 700), with_oddities(3)])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_agrees_with_a_loop(pairs, bins):
    difference, relation = pairs
    got = confidence.reliability(difference, relation, 0.7, bins=bins)
    error, counts = ece_by_loop(difference, relation, 0.7, bins)
    assert got.ece == pytest.approx(error, rel=1e-9)
    assert got.count.tolist() == counts
    assert (np.diff(got.confidence) > 0).all()
    shuffled = np.random.default_rng(0).permutation(len(difference))
    again = confidence.reliability(difference[shuffled], relation[shuffled], 0.7, bins=bins)
    assert again.ece == pytest.approx(error, rel=1e-9)


def test_bins_hold_equally_many_pairs():
    counts = confidence.reliability(*logistic(1.0, 1503), 1.0).count
    assert len(counts) == 15
    assert set(counts) == {100, 101}


def test_a_sample_made_by_the_model_is_calibrated_and_another_temperature_is_not():
    pairs = logistic(0.5, 40_000)
    # 15 bins of 2667 pairs: the standard error of a share is below 0.01.
    assert confidence.reliability(*pairs, 0.5).ece < 0.012
    assert confidence.reliability(*pairs, 0.1).ece > 0.1
    assert confidence.reliability(*pairs, 3.0).ece > 0.1
    fitted = Calibration.of_pairs(*pairs, confidence.fit_temperature(*pairs))
    assert fitted.nll[1] < fitted.nll[0]
    assert fitted.bins[1].ece < fitted.bins[0].ece


def test_a_coin_is_calibrated_and_a_missing_score_is_wrong():
    relation = np.array([1, -1, 1, 0], np.int8)
    coin = confidence.reliability(np.zeros(4), relation, 1.0)
    assert (coin.count.tolist(), coin.confidence.tolist(), coin.ece) == ([3], [0.5], 0)
    assert confidence.reliability(np.full(4, np.nan), relation, 1.0).ece == 0.5
    assert math.isnan(confidence.reliability(np.zeros(4), 0 * relation, 1.0).ece)


def test_the_report_is_plain_json_also_without_numbers():
    facts = Calibration.of_pairs(np.array([np.inf]), np.array([-1], np.int8), 2.0).to_json()
    assert facts["after"]["nll"] is None
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    nothing = Calibration.of_pairs(np.zeros(0), np.zeros(0, np.int8), 1.0).to_json()
    assert nothing["before"]["ece"] is None
    facts = Calibration.of_pairs(np.array([2.0, -1.0]), np.array([1, 1], np.int8), 2.0).to_json()
    assert (facts["before"]["temperature"], facts["after"]["temperature"]) == (1.0, 2.0)
    assert facts["after"]["bins"]["count"] == [1, 1]
    assert facts["after"]["bins"]["accuracy"] == [0, 1]


# --- the map


@pytest.mark.parametrize("size", [(19, 33), (5, 3), (1, 1), (150, 170)])
def test_the_map_agrees_with_a_loop_over_partners(size):
    score = np.random.default_rng(0).normal(size=size).astype(np.float32)
    height, width = size
    rows = sorted({int((k + 0.5) * height / 8) for k in range(8)})
    columns = sorted({int((k + 0.5) * width / 8) for k in range(8)})
    expected = np.zeros(size)
    for row in rows:
        for column in columns:
            p = 1 / (1 + np.exp(-(score.astype(np.float64) - score[row, column]) / 0.4))
            expected += np.maximum(p, 1 - p)
    got = confidence.confidence_map(score, 0.4)
    assert got.shape == size
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected / len(rows) / len(columns), atol=1e-6)


def test_a_constant_score_is_a_coin_everywhere():
    for temperature in (1e-300, 0.1, 1e300):
        score = np.full((20, 30), 3e38, np.float32)
        assert (confidence.confidence_map(score, temperature) == 0.5).all()


def test_extreme_temperatures_are_sure_or_unsure_without_a_warning():
    score = np.linspace(-3e38, 3e38, 400, dtype=np.float32).reshape(20, 20)
    sure = confidence.confidence_map(score, 1e-300)
    assert sure.min() >= 1 - 0.5 / 64
    assert (confidence.confidence_map(score / np.float32(1e38), 1e300) == 0.5).all()
