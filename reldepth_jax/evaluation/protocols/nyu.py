"""WKDR, WKDR= and WKDR≠ on the pair annotations of NYUDv2, and metric errors of the same maps.

Sources: Zoran et al., ICCV 2015; Chen et al., NIPS 2016, and their script `test_model_on_NYU.lua`;
Xian et al., CVPR 2018, Tables 5 and 6. A pair is predicted "equal" where the scores differ by at
most tau, else by the sign of the difference; tau minimises max(WKDR=, WKDR≠) on the 45 validation
images. Test images have a white margin: the network sees them without it (rows 10 … h - 10 and
columns 10 … w - 10, counted from 1), and its map is brought to that size and continued outwards by
repeating its edge. Validation images are used whole. Sign: score grows with distance.

Metric errors (Table 6): each map gets the mean and standard deviation of the training depths, and
counts in rows and columns 16 … length - 16.

Deviation: the script feeds 320x240; a network here gets the input that it was made for.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int8, UInt8

from reldepth_jax.evaluation.judged_pairs import annotated_pairs
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_torch7
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.alignment import NYU_MEAN, NYU_STD, align_mean_std
from reldepth_jax.metrics.depth import DepthErrors
from reldepth_jax.metrics.ordinal import RULE, ErrorCounts, location_rule
from reldepth_jax.metrics.processes import gather, merge_over_processes
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.types import Sample

MARGIN = 10
METRIC_MARGIN = 16
OFFICIAL_TAUS = np.round(0.1 + 0.01 * np.arange(1, 141), 2)
"""0.11 … 1.50, in units of the score."""
POOLED_TAUS = np.round(OFFICIAL_TAUS - 0.01, 2)
"""0.10 … 1.49, those of YouTube3D."""
WKDR = ("WKDR %", "WKDR= %", "WKDR≠ %")
METRIC = {"rms": "rmse", "log rms": "rmse_log", "log rms s.inv": "si_rmse"}
METRIC |= {"abs rel": "abs_rel", "sq rel": "sq_rel"}
"""Columns of Table 6 -> measures of `metrics.depth`."""


def _published(name: str, wkdr: Sequence[float], metric: Sequence[float]) -> Row:
    values = [*zip(WKDR, wkdr, strict=True), *zip(METRIC, metric, strict=True)]
    return Row(name, {key: value for key, value in values if not math.isnan(value)})


PUBLISHED = [
    _published("Zoran 2015", (43.5, 44.2, 41.2), (1.20, 0.42, math.nan, 0.40, 0.54)),
    _published("Xian 2018, ranking", (35.8, 36.0, 36.5), (1.10, 0.38, 0.23, 0.34, 0.42)),
    _published("Chen 2016", (35.6, 36.1, 36.5), (1.13, 0.39, 0.26, 0.36, 0.46)),
    _published("Eigen 2015", (34.0, 43.3, 29.6), (0.64, 0.21, 0.17, 0.16, 0.12)),
    _published("Xian 2018", (33.7, 34.6, 34.1), (1.09, 0.37, 0.23, 0.34, 0.41)),
    _published("Xian 2018, 100K images", (29.1, 29.5, 29.7), (1.07, 0.36, 0.22, 0.33, 0.39)),
    _published("Chen 2016, 220K images", (28.3, 30.6, 28.6), (1.10, 0.38, 0.24, 0.34, 0.42)),
]


class Pairs(NamedTuple):
    """Score differences and relations of all pairs, and how many each image has."""

    difference: Float64[np.ndarray, "n"]
    relation: Int8[np.ndarray, "n"]
    counts: np.ndarray

    def images(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return difference and relation image by image."""
        ends = np.cumsum(self.counts)[:-1]
        return list(
            zip(np.split(self.difference, ends), np.split(self.relation, ends), strict=True)
        )


@PROTOCOLS.register("nyu")
def nyu() -> base.Protocol:
    """Return the protocol of NYUDv2's pairs: WKDR by the official rule and two others.

    With depth files beside the test images also the metric errors of Table 6.
    """
    return base.Protocol(
        title="NYUDv2 pairs, test",
        dataset="nyu_pairs",
        images=654,
        measures=(*WKDR, *METRIC),
        published=PUBLISHED,
        citation="Xian et al., CVPR 2018, Tables 5 and 6",
        judge=_judge,
    )


def _judge(request: base.Request) -> Report:
    """Fit tau on the validation images, judge on the test images."""
    validation, test = request.source("val"), request.source("test", depth=True)
    total = request.count(validation) + request.count(test)
    done, report = itertools.count(1), request.progress
    request = dataclasses.replace(request, progress=lambda *_: report(next(done), total))
    fitted, fitted_rule, *_ = _predicted(request, validation, margin=0)
    judged, judged_rule, errors, picture = _predicted(request, test, margin=MARGIN)
    official = grid_tau(fitted, OFFICIAL_TAUS, per_image=True)
    pooled = grid_tau(fitted, POOLED_TAUS, per_image=False)
    exact = ordinal.best_tau(fitted.difference, fitted.relation)
    exact_rule = ordinal.best_tau(fitted_rule.difference, fitted_rule.relation)
    rows = [
        _row("official", judged, official, per_image=True, note="means of per-image shares"),
        _row("pooled", judged, pooled, per_image=False, note="YouTube3D: shares of all pairs"),
        _row("exact tau", judged, exact, per_image=False, note="tau is free, shares of all pairs"),
        _row("exact tau, per image", judged, exact, per_image=True, note="the same tau"),
        _row(RULE, judged_rule, exact_rule, per_image=False, note="location rule, tau free"),
    ]
    used = request.count(test)
    notes = [f"{used} test and {request.count(validation)} validation images."]
    if errors.num_images:
        measured = errors.compute("chen")
        values = {title: Estimate(measured[name]) for title, name in METRIC.items()}
        for title in ("abs rel", "sq rel"):
            values[title] = Estimate(values[title].value, *errors.interval(METRIC[title]))
        rows[0] = dataclasses.replace(rows[0], values={**rows[0].values, **values})
        notes.append(
            "Metric errors: every map scaled to the mean and standard deviation of the training"
            " depths, square roots of means over images."
        )
    else:
        notes.append("No N_depth.h5 beside the test images: the metric errors are left out.")
    if official in (OFFICIAL_TAUS[0], OFFICIAL_TAUS[-1]):
        notes.append(
            f"The official threshold grid ends at tau = {official:g}: the scale of these scores"
            " lies outside it, so read the rows with the exact tau."
        )
    rejected = len(validation.rejected) + len(test.rejected)
    if rejected:
        notes.append(f"{rejected} lines of the csv files were left out.")
    size = f"{used} images, {int(judged.counts.sum())} pairs"
    return request.report(used, size, rows, notes, picture)


def full_map(
    predict: base.Predict, image: UInt8[np.ndarray, "h w 3"], margin: int
) -> Float64[np.ndarray, "h w"]:
    """Return the score at the size of the image, predicted without its margin (0: whole)."""
    if not margin:
        return scale_torch7(predict(image), image.shape[:2])
    # Counted from 1 and inclusive, as in Lua: one pixel less is cut at the top and left.
    inner = np.ascontiguousarray(image[margin - 1 : -margin, margin - 1 : -margin])
    score = scale_torch7(predict(inner), inner.shape[:2])
    return np.pad(score, (margin - 1, margin), mode="edge")


def grid_tau(pairs: Pairs, taus: Float64[np.ndarray, "t"], *, per_image: bool) -> float:
    """Return the first of `taus` that minimises max(WKDR=, WKDR≠)."""
    worst = []
    for tau in taus:
        _, equal, unequal = shares(pairs, float(tau), per_image=per_image)
        rates = [counts.rate for counts in (equal, unequal) if not math.isnan(counts.rate)]
        worst.append(max(rates, default=0.0))
    return float(taus[int(np.argmin(worst))])


def shares(
    pairs: Pairs, tau: float, *, per_image: bool
) -> tuple[ErrorCounts, ErrorCounts, ErrorCounts]:
    """Return WKDR, WKDR= and WKDR≠ at `tau`.

    With `per_image` the share of each image counts once. An image without pairs of a kind is left
    out of the mean of that kind (the official script would return NaN for all).
    """
    images = [ordinal.three_way_error(d, r, tau) for d, r in pairs.images()]
    merged = [ErrorCounts.merge([image[kind] for image in images]) for kind in range(3)]
    if per_image:
        merged = [_each_once(counts) for counts in merged]
    return merged[0], merged[1], merged[2]


def _each_once(counts: ErrorCounts) -> ErrorCounts:
    some = counts.total > 0
    return ErrorCounts(counts.wrong[some] / counts.total[some], np.ones(some.sum(), np.int64))


def _row(name: str, pairs: Pairs, tau: float, *, per_image: bool, note: str) -> Row:
    estimates = [Estimate.percent(counts) for counts in shares(pairs, tau, per_image=per_image)]
    return Row(name, dict(zip(WKDR, estimates, strict=True)), f"tau = {tau:.4g}; {note}")


def _predicted(
    request: base.Request, source: Any, *, margin: int
) -> tuple[Pairs, Pairs, DepthErrors, base.Picture | None]:
    """Return pairs of the model and of the rule, metric errors and the sheet of one split."""

    def judge(sample: Sample) -> base.Judged:
        pairs, relation = annotated_pairs(sample)
        score = full_map(request.predict, sample["image"], margin)
        rule = location_rule(*score.shape) / score.shape[0]
        arrays = {
            "model": ordinal.difference(score, pairs),
            "rule": ordinal.difference(rule, pairs),
            "relation": relation,
            "counts": np.array([len(relation)]),
        }
        errors = _metric_errors(score, sample) if sample["mask"].any() else None
        return base.Judged((arrays, errors), score)

    none = {"model": np.zeros(0), "rule": np.zeros(0), "relation": np.zeros(0, np.int8)}
    none["counts"] = np.zeros(0, np.int64)
    states, picture = request.judge(source, judge)
    own = [none, *(arrays for arrays, _ in states)]
    everyone = gather({key: np.concatenate([each[key] for each in own]) for key in none})
    model, rule, relation, counts = (
        np.concatenate([theirs[key] for theirs in everyone]) for key in none
    )
    errors = merge_over_processes(DepthErrors, [each for _, each in states if each is not None])
    return Pairs(model, relation, counts), Pairs(rule, relation, counts), errors, picture


def _metric_errors(score: Float[np.ndarray, "h w"], sample: Sample) -> DepthErrors:
    depth = align_mean_std(score, mean=NYU_MEAN, std=NYU_STD)
    inside = np.s_[METRIC_MARGIN - 1 : -METRIC_MARGIN, METRIC_MARGIN - 1 : -METRIC_MARGIN]
    return DepthErrors.of_image(depth[inside], sample["depth"][inside], sample["mask"][inside])
