"""Ordinal error of a predictor on a source, beside the rule "lower in the image is nearer".

The rule is judged by the same code on the same pairs. It cannot order pixels of one row, so a tie
costs it half a pair in WHDR where it costs a model a whole one.

One image is held at a time, so memory does not grow with the source; `fit` keeps the pairs, and so
does `evaluate` for the confidence.
Sign: scores and depth grow with distance. See `reldepth_jax.metrics.ordinal` for the measures.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int8, UInt8

from reldepth_jax.config import EvalConfig
from reldepth_jax.data.images import pictures
from reldepth_jax.evaluation.judged_pairs import LabelledPairs, labelled_pairs
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.confidence import Calibration, fit_temperature
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.types import Sample, Source

Predict = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "h w"]]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

STRICT = ("whdr", "same_row")
THREE_WAY = ("wkdr", "wkdr_equal", "wkdr_unequal")
"""Measures that need a threshold."""


class ModelAndRule(NamedTuple):
    """A number of the model and of the rule, each in units of its score."""

    model: float
    rule: float


class Fit(NamedTuple):
    """What is fitted on validation images."""

    tau: ModelAndRule
    """Thresholds for "equal"."""
    temperature: ModelAndRule
    """Temperatures of the confidence."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One image with its prediction, thinned (`pictures.thumbnail`), and its error."""

    index: int
    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    """NaN where there is no ground truth."""
    score: Float32[np.ndarray, "h w"]
    whdr: float
    """WHDR of the model on this image alone; NaN without unequal pairs."""
    rule_whdr: float


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts of the model and of the rule for each measure, image by image."""

    config: EvalConfig
    fit: Fit | None
    model: dict[str, ErrorCounts]
    rule: dict[str, ErrorCounts]
    pictures: list[Picture]
    calibration: dict[str, Calibration] | None
    """Confidence of "model" and "rule"; None without `fit`."""

    @property
    def num_images(self) -> int:
        """Images that were evaluated."""
        return len(self.model["whdr"].total)

    def summary(self) -> dict[str, float]:
        """Return the rates, the rule's under `rule_…`: one line of a training log."""
        return {key: counts.rate for key, counts in self.model.items()} | {
            f"rule_{key}": counts.rate for key, counts in self.rule.items()
        }

    def protocol(self) -> dict[str, Any]:
        """Return what was evaluated and how, for JSON."""
        return {
            "images": self.num_images,
            **dataclasses.asdict(self.config),
            "same_row_band": ordinal.ROW_BAND,
            "tau": self.fit and self.fit.tau._asdict(),
            "tie": {"model": 1.0, "rule": 0.5},
            "pooling": "pairs over images",
            "interval": "95 % percentile bootstrap over images",
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values; null where nothing was counted."""
        return {
            "protocol": self.protocol(),
            "model": {key: _to_json(counts) for key, counts in self.model.items()},
            "rule": {key: _to_json(counts) for key, counts in self.rule.items()},
            "confidence": self.calibration
            and {name: each.to_json() for name, each in self.calibration.items()},
        }


def evaluate(
    predict: Predict,
    source: Source,
    config: EvalConfig,
    *,
    fit: Fit | None = None,
    progress: Progress | None = None,
    keep: int = 0,
) -> Evaluation:
    """Judge `predict` on the first `config.num_images` of `source`.

    Args:
      predict: uint8 RGB (h, w, 3) -> float32 score (h, w) at the same size, larger is farther.
      fit: thresholds and temperatures; without them the three-way errors and the confidence are
        left out.
      keep: how many of the images to return as pictures.

    Raises ValueError if a prediction has not the size of its image.
    """
    model: list[dict[str, ErrorCounts]] = []
    rule: list[dict[str, ErrorCounts]] = []
    kept: list[Picture] = []
    judged: list[Float[np.ndarray, "3 _n"]] = []
    for index, sample, score in _predictions(predict, source, config, progress):
        pairs = labelled_pairs(sample, index, config, same_row=False)
        row_pairs = labelled_pairs(sample, index, config, same_row=True)
        by_row = _rule_score(score)
        model.append(_count(score, pairs, row_pairs, fit and fit.tau.model, tie=1.0))
        rule.append(_count(by_row, pairs, row_pairs, fit and fit.tau.rule, tie=0.5))
        if fit is not None:
            judged.append(_differences(score, pairs))
        if len(kept) < keep:
            rates = (counts["whdr"].rate for counts in (model[-1], rule[-1]))
            kept.append(_picture(index, sample, score, *rates))

    def merged(images: list[dict[str, ErrorCounts]]) -> dict[str, ErrorCounts]:
        measures = STRICT if fit is None else STRICT + THREE_WAY
        return {key: ErrorCounts.merge([counts[key] for counts in images]) for key in measures}

    calibration = fit and _calibration(judged, fit)
    return Evaluation(config, fit, merged(model), merged(rule), kept, calibration)


def fit(
    predict: Predict, source: Source, config: EvalConfig, *, progress: Progress | None = None
) -> Fit:
    """Fit thresholds and temperatures of model and rule on `source`, the validation images.

    Over the uniform pairs of all images, each threshold minimises max(WKDR=, WKDR≠) and each
    temperature the negative log-likelihood (`confidence.fit_temperature`).
    """
    judged = [
        _differences(score, labelled_pairs(sample, index, config, same_row=False))
        for index, sample, score in _predictions(predict, source, config, progress)
    ]
    *scores, relation = _pooled(judged)
    return Fit(
        ModelAndRule(*(ordinal.best_tau(each, relation) for each in scores)),
        ModelAndRule(*(fit_temperature(each, relation) for each in scores)),
    )


def _predictions(
    predict: Predict, source: Source, config: EvalConfig, progress: Progress | None
) -> Iterator[tuple[int, Sample, Float32[np.ndarray, "h w"]]]:
    count = min(config.num_images or len(source), len(source))
    for index in range(count):
        sample = source[index]
        score = predict(sample["image"])
        if score.shape != sample["depth"].shape:
            raise ValueError(
                f"prediction of image {index} has shape {score.shape},"
                f" expected {sample['depth'].shape}"
            )
        yield index, sample, score
        if progress:
            progress(index + 1, count)


def _rule_score(score: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Return the rule's score in shares of the height: one threshold fits all image sizes."""
    return ordinal.location_rule(*score.shape) / len(score)


def _differences(
    score: Float[np.ndarray, "h w"], labelled: LabelledPairs
) -> Float[np.ndarray, "3 _n"]:
    """Return score differences of the model and of the rule, and the relations."""
    pairs, relation = labelled
    scores = (score, _rule_score(score))
    return np.stack([*(ordinal.difference(each, pairs) for each in scores), relation])


def _pooled(
    judged: Sequence[Float[np.ndarray, "3 _n"]],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Int8[np.ndarray, "n"]]:
    """Join the `_differences` of all images."""
    model, rule, relation = np.concatenate([np.zeros((3, 0)), *judged], axis=1)
    return model, rule, relation.astype(np.int8)


def _calibration(judged: Sequence[Float[np.ndarray, "3 _n"]], fit: Fit) -> dict[str, Calibration]:
    *scores, relation = _pooled(judged)
    return {
        name: Calibration.of_pairs(each, relation, temperature)
        for (name, temperature), each in zip(fit.temperature._asdict().items(), scores, strict=True)
    }


def _count(
    score: Float[np.ndarray, "h w"],
    pairs: LabelledPairs,
    row_pairs: LabelledPairs,
    tau: float | None,
    *,
    tie: float,
) -> dict[str, ErrorCounts]:
    difference = ordinal.difference(score, pairs.pairs)
    row_difference = ordinal.difference(score, row_pairs.pairs)
    counts = {
        "whdr": ordinal.strict_error(difference, pairs.relation, tie=tie),
        "same_row": ordinal.strict_error(row_difference, row_pairs.relation, tie=tie),
    }
    if tau is None:
        return counts
    three_way = ordinal.three_way_error(difference, pairs.relation, tau)
    return counts | dict(zip(THREE_WAY, three_way, strict=True))


def _picture(
    index: int,
    sample: Sample,
    score: Float32[np.ndarray, "h w"],
    whdr: float,
    rule_whdr: float,
) -> Picture:
    depth = np.where(sample["mask"], sample["depth"], np.nan)
    image, depth, score = map(pictures.thumbnail, (sample["image"], depth, score))
    return Picture(index, image, depth, score, whdr, rule_whdr)


def _to_json(counts: ErrorCounts) -> dict[str, Any]:
    return {**counts.summary(), "wrong": counts.wrong.tolist(), "total": counts.total.tolist()}
