"""Metric-depth errors against loops written from their equations, closed forms and invariances."""

import math
import statistics

import numpy as np
import pytest

from reldepth_jax.metrics.alignment import align_inverse_depth
from reldepth_jax.metrics.depth import MEASURES, DepthErrors

DELTAS = ("delta1", "delta2", "delta3")
ROOTS = ("rmse", "rmse_log", "si_rmse")


def scene(seed, height=6, width=8):
    """Prediction and depth in metres, and a mask; depth has sky, holes and nonsense in it."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 10, (height, width))
    prediction = depth * rng.lognormal(0.1, 0.3, depth.shape)
    mask = rng.random(depth.shape) < 0.7
    depth.flat[[0, 9, 18, 27]] = math.inf, 0, -1, math.nan
    mask.flat[[0, 9, 18, 27]] = True
    return prediction, depth, mask


def counted_pairs(prediction, depth, mask):
    return [
        (float(p), float(g))
        for p, g, counts in zip(prediction.flat, depth.flat, mask.flat, strict=True)
        if counts and math.isfinite(g) and g > 0
    ]


def mean_terms(pairs):
    """Means over pixels of what each measure is the mean, or the root of the mean, of."""
    logs = [math.log(p) - math.log(g) for p, g in pairs]
    n = len(pairs)
    result = {
        "abs_rel": sum(abs(p - g) / g for p, g in pairs) / n,
        "sq_rel": sum((p - g) ** 2 / g for p, g in pairs) / n,
        "rmse": sum((p - g) ** 2 for p, g in pairs) / n,
        "rmse_log": sum(d * d for d in logs) / n,
        "log10": sum(abs(math.log10(p) - math.log10(g)) for p, g in pairs) / n,
        "si_rmse": sum(d * d for d in logs) / n - (sum(logs) / n) ** 2,
    }
    for k, name in enumerate(DELTAS, 1):
        result[name] = sum(max(p / g, g / p) < 1.25**k for p, g in pairs) / n
    return result


def rooted(terms):
    return {name: math.sqrt(x) if name in ROOTS else x for name, x in terms.items()}


def errors_of(*scenes):
    return DepthErrors.merge([DepthErrors.of_image(*one) for one in scenes])


def blank(height=3, width=4):
    return np.ones((height, width)), np.ones((height, width)), np.zeros((height, width), bool)


# --- one image


@pytest.mark.parametrize("reduction", ["image", "pooled", "chen"])
@pytest.mark.parametrize("seed", range(4))
def test_one_image_agrees_with_the_equations(seed, reduction):
    one = scene(seed)
    got = DepthErrors.of_image(*one)
    expected = rooted(mean_terms(counted_pairs(*one)))
    assert tuple(expected) == tuple(got.compute(reduction)) == MEASURES
    assert got.compute(reduction) == pytest.approx(expected, rel=1e-9)
    assert (got.pixels.item(), got.invalid.item()) == (len(counted_pairs(*one)), 0)


def test_true_depth_has_no_error():
    _, depth, mask = scene(0)
    got = DepthErrors.of_image(depth, depth, mask).compute("image")
    assert got == {name: 1.0 if name in DELTAS else 0.0 for name in MEASURES}


@pytest.mark.parametrize("factor", [0.5, 1.3, 1e6])
def test_wrong_scale_has_closed_forms(factor):
    _, depth, mask = scene(1)
    got = DepthErrors.of_image(factor * depth, depth, mask).compute("image")
    truth = [g for _, g in counted_pairs(depth, depth, mask)]
    off = max(factor, 1 / factor)
    assert got == pytest.approx(
        {
            "abs_rel": abs(factor - 1),
            "sq_rel": (factor - 1) ** 2 * statistics.fmean(truth),
            "rmse": abs(factor - 1) * math.sqrt(statistics.fmean(g * g for g in truth)),
            "rmse_log": abs(math.log(factor)),
            "log10": abs(math.log10(factor)),
            "si_rmse": 0,
            "delta1": float(off < 1.25),
            "delta2": float(off < 1.5625),
            "delta3": float(off < 1.953125),
        },
        rel=1e-9,
        abs=1e-13,
    )


def test_measures_without_a_unit_do_not_change_with_it():
    prediction, depth, mask = scene(2)
    metres = DepthErrors.of_image(prediction, depth, mask).compute("image")
    millimetres = DepthErrors.of_image(1024 * prediction, 1024 * depth, mask).compute("image")
    for name in MEASURES:
        unit = 1024 if name in ("rmse", "sq_rel") else 1
        assert millimetres[name] == pytest.approx(unit * metres[name])


def test_only_the_scale_invariant_error_forgives_scale():
    prediction, depth, mask = scene(3)
    before = DepthErrors.of_image(prediction, depth, mask).compute("image")
    after = DepthErrors.of_image(5 * prediction, depth, mask).compute("image")
    changed = {name for name in MEASURES if after[name] != pytest.approx(before[name], rel=1e-9)}
    assert changed == set(MEASURES) - {"si_rmse"}


def test_deltas_are_strict():
    # Exact in binary: ratios of 5/4, 25/16, 125/64, either way round.
    for p, g, expected in (
        (5, 4, [0, 1, 1]),
        (4, 5, [0, 1, 1]),
        (25, 16, [0, 0, 1]),
        (16, 25, [0, 0, 1]),
        (125, 64, [0, 0, 0]),
        (4.999, 4, [1, 1, 1]),
    ):
        one = np.array([[float(p)]]), np.array([[float(g)]]), np.ones((1, 1), bool)
        got = DepthErrors.of_image(*one).compute("image")
        assert [got[name] for name in DELTAS] == expected


def test_float16_is_judged_in_float64():
    depth = np.full((2, 2), 300, np.float16)
    got = DepthErrors.of_image(2 * depth, depth, np.ones((2, 2), bool)).compute("image")
    assert got["rmse"] == 300  # its square is beyond float16
    assert got["sq_rel"] == 300
    assert got["rmse_log"] == pytest.approx(math.log(2), rel=1e-12)


# --- pixels that do not count, predictions that are none


def test_pixels_without_ground_truth_or_in_the_sky_may_be_predicted_as_anything():
    prediction, depth, mask = scene(4)
    before = DepthErrors.of_image(prediction, depth, mask)
    counted = np.zeros(mask.shape, bool)
    counted[mask & np.isfinite(depth)] = depth[mask & np.isfinite(depth)] > 0
    junk = np.resize([math.nan, math.inf, -math.inf, 0, -5, 1e300], mask.shape)
    after = DepthErrors.of_image(np.where(counted, prediction, junk), depth, mask)
    assert after.sums.tobytes() == before.sums.tobytes()
    assert (after.pixels, after.invalid) == (before.pixels, before.invalid)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -4.0])
def test_prediction_that_is_no_depth_stays_visible(bad):
    depth, mask = np.full((2, 2), 4.0), np.ones((2, 2), bool)
    prediction = depth.copy()
    prediction[0, 1] = bad
    some = DepthErrors.of_image(prediction, depth, mask)
    assert (some.pixels.item(), some.invalid.item()) == (4, 1)
    both = DepthErrors.merge([some, DepthErrors.of_image(depth, depth, mask)])
    for reduction in ("image", "pooled", "chen"):
        one, two = some.compute(reduction), both.compute(reduction)
        assert [one[name] for name in DELTAS] == [3 / 4] * 3
        assert [two[name] for name in DELTAS] == [7 / 8] * 3
        for name in set(MEASURES) - set(DELTAS):
            assert math.isnan(one[name])
            assert math.isnan(two[name])
    assert all(map(math.isnan, both.interval("abs_rel")))
    assert both.interval("delta1") == (0.75, 1)


def test_error_beyond_the_largest_number_is_infinite():
    prediction, depth = np.array([[1e200, 1.0]]), np.array([[1.0, 1.0]])
    one = DepthErrors.of_image(prediction, depth, np.ones((1, 2), bool))
    got = one.compute("image")
    assert (got["rmse"], got["sq_rel"], one.invalid.item()) == (math.inf, math.inf, 0)
    assert got["rmse_log"] == pytest.approx(200 * math.log(10) / math.sqrt(2))
    assert all(map(math.isnan, DepthErrors.merge([one, one]).interval("rmse")))


def test_nothing_counted_has_no_measures():
    for nothing in (
        DepthErrors.merge([]),
        DepthErrors.of_image(*blank()),
        DepthErrors.of_image(*blank(0, 5)),
        errors_of(blank(), blank()),
    ):
        for reduction in ("image", "pooled", "chen"):
            values = nothing.compute(reduction)
            assert tuple(values) == MEASURES
            assert all(map(math.isnan, values.values()))
        assert all(map(math.isnan, nothing.interval("rmse")))


def test_one_pixel():
    one = np.array([[2.0]]), np.array([[4.0]]), np.ones((1, 1), bool)
    got = DepthErrors.of_image(*one).compute("image")
    assert got == pytest.approx(
        {"abs_rel": 0.5, "sq_rel": 1, "rmse": 2, "rmse_log": math.log(2), "log10": math.log10(2)}
        | {"si_rmse": 0, "delta1": 0, "delta2": 0, "delta3": 0}
    )


# --- many images


def test_reductions_differ_as_documented():
    scenes = [scene(5), scene(6, 3, 30), blank(), scene(7, 12, 12)]
    terms = [mean_terms(counted_pairs(*one)) for one in scenes if one[2].any()]
    pairs = [counted_pairs(*one) for one in scenes]
    everything = [pair for image in pairs for pair in image]
    got = errors_of(*scenes)
    assert got.num_images == 4

    each = [rooted(term) for term in terms]
    image = {name: statistics.fmean(one[name] for one in each) for name in MEASURES}
    assert got.compute("image") == pytest.approx(image)

    chen = {name: statistics.fmean(one[name] for one in terms) for name in MEASURES}
    assert got.compute("chen") == pytest.approx(rooted(chen))

    pooled = rooted(mean_terms(everything))
    within = 0.0
    for pixels in filter(None, pairs):
        logs = [math.log(p / g) for p, g in pixels]
        within += sum((d - statistics.fmean(logs)) ** 2 for d in logs)
    pooled["si_rmse"] = math.sqrt(within / len(everything))
    assert got.compute("pooled") == pytest.approx(pooled)

    for name in ROOTS:
        assert len({round(got.compute(r)[name], 6) for r in ("image", "pooled", "chen")}) == 3


def test_images_without_pixels_change_nothing():
    some = errors_of(scene(8), scene(9))
    more = errors_of(blank(), scene(8), blank(), blank(), scene(9))
    for reduction in ("image", "pooled", "chen"):
        assert more.compute(reduction) == some.compute(reduction)
    assert more.interval("rmse") == some.interval("rmse")


def test_merging_keeps_the_order():
    first, second = scene(13), scene(14, 5, 6)
    second[0][2, 2], second[1][2, 2], second[2][2, 2] = -1, 1, True
    merged = errors_of(first, second)
    assert merged.pixels.tolist() == [len(counted_pairs(*one)) for one in (first, second)]
    assert merged.invalid.tolist() == [0, 1]
    mean = merged.sums[0, 0] / merged.pixels[0]
    assert mean == pytest.approx(mean_terms(counted_pairs(*first))["abs_rel"])


def test_any_split_into_parts_gives_the_same_bits():
    parts = [DepthErrors.of_image(*scene(seed, 2 + seed, 19)) for seed in range(11)]
    parts.insert(4, DepthErrors.of_image(*blank()))
    whole = DepthErrors.merge(parts)
    rng = np.random.default_rng(10)
    for _ in range(20):
        cuts = [0, *sorted(rng.integers(0, len(parts) + 1, rng.integers(0, 6))), len(parts)]
        stretches = [
            DepthErrors.merge(parts[start:stop])
            for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
        ]
        merged = DepthErrors.merge(stretches)
        for name, array in vars(whole).items():
            assert getattr(merged, name).tobytes() == array.tobytes()
            assert getattr(merged, name).dtype == array.dtype
        for reduction in ("image", "pooled", "chen"):
            assert merged.compute(reduction) == whole.compute(reduction)
        assert merged.interval("si_rmse") == whole.interval("si_rmse")


def test_affine_changes_of_an_aligned_prediction_leave_its_errors():
    prediction, depth, mask = scene(11)

    def judged(inverse):
        aligned = align_inverse_depth(inverse, depth, mask, cap=10.0)
        return DepthErrors.of_image(aligned, depth, mask).compute("image")

    before = judged(1 / prediction)
    assert before["rmse"] > 0.1
    for scale, shift in ((1e3, -4), (-2, 1), (1e-3, 0)):
        assert judged(scale / prediction + shift) == pytest.approx(before, rel=1e-9)


# --- intervals


def with_abs_rel(values):
    """Images of one pixel whose abs_rel are `values`."""
    one = np.ones((1, 1))
    return errors_of(*((one + value, one, one > 0) for value in values))


def test_interval_is_the_percentile_bootstrap_of_the_mean_over_images():
    values = np.random.default_rng(12).exponential(1, 25)
    errors = with_abs_rel(values)
    generator = np.random.Generator(np.random.Philox(0))
    means = [values[generator.integers(25, size=25)].mean() for _ in range(2000)]
    assert errors.interval("abs_rel") == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert errors.interval("abs_rel") == errors.interval("abs_rel")


def test_interval_counts_images_not_pixels():
    values = [0.1, 0.9, 0.4, 0.2]
    few = with_abs_rel(values)
    many = errors_of(
        *(
            (np.full((k + 1, 50), 1 + value), np.ones((k + 1, 50)), np.ones((k + 1, 50), bool))
            for k, value in enumerate(values)
        )
    )
    assert many.interval("abs_rel") == pytest.approx(few.interval("abs_rel"))


def test_interval_is_unknown_below_two_images():
    assert all(map(math.isnan, with_abs_rel([0.3]).interval("abs_rel")))
    alone = DepthErrors.merge([with_abs_rel([0.3]), errors_of(blank(), blank())])
    assert all(map(math.isnan, alone.interval("abs_rel")))
    assert with_abs_rel([0.25, 0.25]).interval("abs_rel") == (0.25, 0.25)


def test_interval_names_the_measures_there_are():
    with pytest.raises(ValueError, match="'absrel'.*abs_rel, sq_rel"):
        with_abs_rel([0.1, 0.2]).interval("absrel")
