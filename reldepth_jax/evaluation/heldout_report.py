"""Held-out evaluations for people: a table, the protocol in words, pictures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from rich import box
from rich.table import Table

from reldepth_jax.data.images import pictures
from reldepth_jax.evaluation.heldout import Evaluation, Picture
from reldepth_jax.metrics.ordinal import ROW_BAND, RULE, ErrorCounts

TITLES = {
    "whdr": "WHDR",
    "same_row": "same row",
    "wkdr": "WKDR",
    "wkdr_equal": "WKDR=",
    "wkdr_unequal": "WKDR≠",
}
"""Measure -> its title in tables."""


def table(title: str, results: Mapping[str, Evaluation]) -> Table:
    """Return two rows, model and rule, for each evaluation: errors in percent with intervals."""
    (first, *_) = results.values()
    shown = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    shown.add_column("")
    for key in first.model:
        shown.add_column(TITLES[key], justify="right")
    for name, result in results.items():
        for label, row in ((name, result.model), (RULE, result.rule)):
            shown.add_row(label, *(_cell(counts) for counts in row.values()))
    return shown


def protocol_text(result: Evaluation) -> str:
    """Return in words what was measured and on what."""
    pairs, row_pairs = (result.model[key].total.sum() for key in ("whdr", "same_row"))
    config = result.config
    tau = (
        f" WKDR: three-way, equal within tau {result.fit.tau.model:.4g} of the score"
        f" (rule: {result.fit.tau.rule:.4g}), fitted on validation images."
        if result.fit
        else ""
    )
    return (
        f"{result.num_images} images; their annotated pairs, or {config.pairs_per_image}"
        f" random pairs an image and as many with rows < {100 * ROW_BAND:g} % of the"
        f" height apart, seed {config.seed}. WHDR: the {pairs} (same row: {row_pairs})"
        f" whose depths differ by more than {100 * config.sigma:g} % of the nearer, or"
        f" that are annotated as unequal; a tie is wrong (rule: half).{tau} Errors are pooled"
        " over pairs, with 95 % bootstrap intervals over images."
    )


def confidence_text(result: Evaluation) -> str:
    """Return the calibration in one line, empty where it was not measured."""
    if result.calibration is None:
        return ""
    model, rule = (result.calibration[name] for name in ("model", "rule"))
    before, after = (format_percent(bins.ece) for bins in model.bins)
    return (
        f"Confidence sigmoid(|dz| / T), T {model.temperature:.4g} fitted on validation images:"
        f" calibration error {before} at T 1, {after} at T; negative log-likelihood"
        f" {model.nll[0]:.3f}, {model.nll[1]:.3f} ({RULE}, T {rule.temperature:.4g}:"
        f" {format_percent(rule.bins[1].ece)}, {rule.nll[1]:.3f}; a coin: 0.693)."
    )


def contact_sheet(predictions: Mapping[str, Sequence[Picture]]) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return image, ground truth and the prediction of each network, one row for each image.

    Args:
      predictions: title of the column -> pictures of the same images.
    """
    rows = list(zip(*predictions.values(), strict=True))
    return pictures.contact_sheet(
        [[row[0].image, row[0].depth, *(each.score for each in row)] for row in rows],
        ["image", "ground truth", *predictions],
        [
            f"#{row[0].index}  WHDR: "
            + ", ".join(
                f"{name} {format_percent(each.whdr)}"
                for name, each in zip(predictions, row, strict=True)
            )
            + f" ({RULE} {format_percent(row[0].rule_whdr)})"
            for row in rows
        ],
    )


def format_percent(rate: float) -> str:
    """Return `12.3 %`, or a dash where nothing was counted."""
    return "–" if math.isnan(rate) else f"{100 * rate:.1f} %"


def _cell(counts: ErrorCounts) -> str:
    low, high = counts.interval
    interval = "" if math.isnan(low) else f"{100 * low:.1f}–{100 * high:.1f}"
    return f"{format_percent(counts.rate)}\n{interval}"
