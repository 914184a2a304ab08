"""Ordinal error of a predictor on a source, beside the rule "lower in the image is nearer".

The rule is the score -row/height, judged by the same code on the same pairs. It cannot tell pixels
of one row apart, so a tie costs it half a pair in WHDR where it costs a model a whole one.

One image is held at a time, so memory does not grow with the source; `fit` keeps the pairs, and
`evaluate` does for the confidence.
Sign: scores and depth grow with distance. See `reldepth_jax.metrics.ordinal` for the measures.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from rich import box
from rich.table import Table

from reldepth_jax.config import EvalConfig
from reldepth_jax.data.images import pictures
from reldepth_jax.metrics import confidence, heldout_pairs, ordinal
from reldepth_jax.metrics.confidence import Calibration
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.types import Sample, Source

Predict = Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "h w"]]
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""

MEASURES = {
    "whdr": "WHDR",
    "same_row": "same row",
    "wkdr": "WKDR",
    "wkdr_equal": "WKDR=",
    "wkdr_unequal": "WKDR≠",
}
"""Key in results and files -> title in tables. The last three need a threshold."""

RULE = "lower is nearer"
_THUMBNAIL = 384


class Taus(NamedTuple):
    """Thresholds for "equal", in units of each score."""

    model: float
    rule: float


class Temperatures(NamedTuple):
    """Temperatures of the confidence, in units of each score."""

    model: float
    rule: float


class Fit(NamedTuple):
    """What is fitted on validation images."""

    tau: Taus
    temperature: Temperatures


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One image with its prediction, thinned to at most 384 pixels a side, and its error."""

    index: int
    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    score: Float32[np.ndarray, "h w"]
    whdr: float
    """WHDR of the model on this image alone; NaN without unequal pairs."""
    rule_whdr: float


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Counts of the model and of the rule for each of `MEASURES`, image by image."""

    config: EvalConfig
    tau: Taus | None
    model: dict[str, ErrorCounts]
    rule: dict[str, ErrorCounts]
    pictures: list[Picture]
    calibration: dict[str, Calibration] | None = None
    """Confidence of "model" and "rule", where temperatures were given."""

    @property
    def num_images(self) -> int:
        """Images that were evaluated."""
        return len(self.model["whdr"].total)

    def summary(self) -> dict[str, float]:
        """Return the rates, the rule's under `rule_…`: one line of a training log."""
        return {key: counts.rate for key, counts in self.model.items()} | {
            f"rule_{key}": counts.rate for key, counts in self.rule.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values; null where nothing was counted."""
        return {
            "protocol": {
                "images": self.num_images,
                **dataclasses.asdict(self.config),
                "same_row_band": ordinal.ROW_BAND,
                "tau": None if self.tau is None else self.tau._asdict(),
                "tie": {"model": 1.0, "rule": 0.5},
                "pooling": "pairs over images",
                "interval": "95 % percentile bootstrap over images",
            },
            "model": {key: _json(counts) for key, counts in self.model.items()},
            "rule": {key: _json(counts) for key, counts in self.rule.items()},
            "confidence": self.calibration
            and {name: each.to_json() for name, each in self.calibration.items()},
        }

    def table(self, title: str) -> Table:
        """Return errors with intervals for the terminal."""
        return table(title, {"model": self})

    def confidence(self) -> str:
        """Return the calibration in one line, empty where it was not measured."""
        if self.calibration is None:
            return ""
        model, rule = (self.calibration[name] for name in ("model", "rule"))
        before, after = (format_percent(table.ece) for table in model.bins)
        return (
            f"Confidence sigmoid(|dz| / T), T {model.temperature:.4g} fitted on validation images:"
            f" calibration error {before} at T 1, {after} at T; negative log-likelihood"
            f" {model.nll[0]:.3f}, {model.nll[1]:.3f} ({RULE}, T {rule.temperature:.4g}:"
            f" {format_percent(rule.bins[1].ece)}, {rule.nll[1]:.3f}; a coin: 0.693)."
        )

    def protocol(self) -> str:
        """Return in words what was measured and on what."""
        pairs, row_pairs = (self.model[key].total.sum() for key in ("whdr", "same_row"))
        tau = (
            f" WKDR: three-way, equal within tau {self.tau.model:.4g} of the score"
            f" (rule: {self.tau.rule:.4g}), fitted on validation images."
            if self.tau
            else ""
        )
        return (
            f"{self.num_images} images; their annotated pairs, or {self.config.pairs_per_image}"
            f" random pairs an image and as many with rows < {100 * ordinal.ROW_BAND:g} % of the"
            f" height apart, seed {self.config.seed}. WHDR: the {pairs} (same row: {row_pairs})"
            f" whose depths differ by more than {100 * self.config.sigma:g} % of the nearer, or"
            f" that are annotated as unequal; a tie is wrong (rule: half).{tau} Errors are pooled"
            " over pairs, with 95 % bootstrap intervals over images."
        )


def evaluate(
    predict: Predict,
    source: Source,
    config: EvalConfig,
    *,
    tau: Taus | None = None,
    temperature: Temperatures | None = None,
    progress: Progress | None = None,
    keep: int = 0,
) -> Evaluation:
    """Judge `predict` on the first `config.num_images` of `source`.

    A sample with annotated pairs is judged on all of them, any other on random pairs of its depth.

    Args:
      predict: uint8 RGB (h, w, 3) -> float32 score (h, w) at the same size, larger is farther.
      tau: thresholds from `fit`; without them the three-way errors are left out.
      temperature: temperatures from `fit`; without them the confidence is left out.
      keep: pictures of how many of the images to return.

    Raises ValueError if a prediction has not the size of its image.
    """
    model: list[dict[str, ErrorCounts]] = []
    rule: list[dict[str, ErrorCounts]] = []
    pictures: list[Picture] = []
    judged: list[Float[np.ndarray, "3 _n"]] = []
    for index, sample, score in _predictions(predict, source, config, progress):
        pairs = heldout_pairs.labelled_pairs(sample, index, config, same_row=False)
        row_pairs = heldout_pairs.labelled_pairs(sample, index, config, same_row=True)
        by_row = heldout_pairs.rule_score(*score.shape)
        model.append(_count(score, pairs, row_pairs, tau and tau.model, tie=1.0))
        rule.append(_count(by_row, pairs, row_pairs, tau and tau.rule, tie=0.5))
        if temperature is not None:
            judged.append(heldout_pairs.differences(score, pairs))
        if len(pictures) < keep:
            rates = (counts["whdr"].rate for counts in (model[-1], rule[-1]))
            pictures.append(_picture(index, sample, score, *rates))
    calibration = temperature and _calibration(judged, temperature)
    return Evaluation(config, tau, _merge(model, tau), _merge(rule, tau), pictures, calibration)


def fit(
    predict: Predict, source: Source, config: EvalConfig, *, progress: Progress | None = None
) -> Fit:
    """Fit thresholds and temperatures of model and rule on `source`, the validation images.

    Over the uniform pairs of all images, each threshold minimises max(WKDR=, WKDR≠) and each
    temperature the negative log-likelihood (`confidence.fit_temperature`).
    """
    judged = [
        heldout_pairs.differences(
            score, heldout_pairs.labelled_pairs(sample, index, config, same_row=False)
        )
        for index, sample, score in _predictions(predict, source, config, progress)
    ]
    *scores, relation = heldout_pairs.pooled(judged)
    return Fit(
        Taus(*(ordinal.best_tau(each, relation) for each in scores)),
        Temperatures(*(confidence.fit_temperature(each, relation) for each in scores)),
    )


def fit_tau(
    predict: Predict, source: Source, config: EvalConfig, *, progress: Progress | None = None
) -> Taus:
    """Return the thresholds of `fit` alone."""
    return fit(predict, source, config, progress=progress).tau


def table(title: str, results: Mapping[str, Evaluation]) -> Table:
    """Return a block of two rows, model and rule, for each evaluation, under its name."""
    (first, *_) = results.values()
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    shown.add_column("")
    for key in first.model:
        shown.add_column(MEASURES[key], justify="right")
    for name, result in results.items():
        for label, row in ((name, result.model), (RULE, result.rule)):
            shown.add_row(label, *(_cell(counts) for counts in row.values()))
    return shown


def reliability_diagram(result: Evaluation) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return accuracy over confidence, before and after fitting; ValueError without calibration."""
    if result.calibration is None:
        raise ValueError("reliability_diagram: the evaluation was made without temperatures")
    model = result.calibration["model"]
    return pictures.reliability_diagram(
        {
            name: (table.confidence, table.accuracy)
            for name, table in zip(
                ("T = 1", f"T = {model.temperature:.4g}"), model.bins, strict=True
            )
        }
    )


def contact_sheet(judged: Sequence[Picture]) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return image, ground truth and prediction side by side, one row for each picture."""
    return pictures.grid(
        [
            [
                pictures.enlarge(picture.image),
                pictures.enlarge(pictures.colorize(picture.depth, picture.mask)),
                pictures.enlarge(pictures.colorize(picture.score)),
            ]
            for picture in judged
        ],
        ["image", "ground truth", "prediction"],
        [
            f"#{picture.index}  WHDR {format_percent(picture.whdr)}"
            f"  ({RULE}: {format_percent(picture.rule_whdr)})"
            for picture in judged
        ],
    )


def format_percent(rate: float) -> str:
    """Return `12.3 %`, or a dash where nothing was counted."""
    return "–" if math.isnan(rate) else f"{100 * rate:.1f} %"


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


def _calibration(
    judged: Sequence[Float[np.ndarray, "3 _n"]], temperature: Temperatures
) -> dict[str, Calibration]:
    *scores, relation = heldout_pairs.pooled(judged)
    return {
        name: Calibration.of_pairs(each, relation, degree)
        for (name, degree), each in zip(temperature._asdict().items(), scores, strict=True)
    }


def _count(
    score: Float[np.ndarray, "h w"],
    labelled: heldout_pairs.LabelledPairs,
    row_labelled: heldout_pairs.LabelledPairs,
    tau: float | None,
    *,
    tie: float,
) -> dict[str, ErrorCounts]:
    pairs, relation = labelled
    row_pairs, row_relation = row_labelled
    difference = ordinal.difference(score, pairs)
    row_difference = ordinal.difference(score, row_pairs)
    counts = {
        "whdr": ordinal.strict_error(difference, relation, tie=tie),
        "same_row": ordinal.strict_error(row_difference, row_relation, tie=tie),
    }
    if tau is None:
        return counts
    three_way = ordinal.three_way_error(difference, relation, tau)
    return counts | dict(zip(("wkdr", "wkdr_equal", "wkdr_unequal"), three_way, strict=True))


def _merge(counts: list[dict[str, ErrorCounts]], tau: Taus | None) -> dict[str, ErrorCounts]:
    keys = list(MEASURES) if tau else ["whdr", "same_row"]
    return {key: ErrorCounts.merge([image[key] for image in counts]) for key in keys}


def _picture(
    index: int,
    sample: Sample,
    score: Float32[np.ndarray, "h w"],
    whdr: float,
    rule_whdr: float,
) -> Picture:
    # By stride, not by averaging: depths across an edge, or of invalid pixels, must not mix.
    step = math.ceil(max(score.shape) / _THUMBNAIL)
    image, depth, mask, small = (
        np.ascontiguousarray(array[::step, ::step])
        for array in (sample["image"], sample["depth"], sample["mask"], score)
    )
    return Picture(index, image, depth, mask, small, whdr, rule_whdr)


def _cell(counts: ErrorCounts) -> str:
    low, high = counts.interval
    interval = "" if math.isnan(low) else f"{100 * low:.1f}–{100 * high:.1f}"
    return f"{format_percent(counts.rate)}\n{interval}"


def _json(counts: ErrorCounts) -> dict[str, Any]:
    return {**counts.summary(), "wrong": counts.wrong.tolist(), "total": counts.total.tolist()}
