"""WHDR on the test pairs of DIW, as the official script computes it and as others do.

Source: Chen et al., "Single-Image Depth Perception in the Wild", NIPS 2016, and their test script
(`test_model_on_DIW.lua`): the prediction is brought to the size of the image, the scores of the two
annotated points are compared with strict inequality, and the error is pooled over all pairs. All
weights are 1, so WHDR is the share of pairs in the wrong order. Sign: score grows with distance.
Deviation: the official script feeds 320x240 without regard to the aspect ratio; a network here gets
the input that it was made for.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from reldepth_jax.evaluation.judged_pairs import LabelledPairs, annotated_pairs
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_half_pixel, scale_torch7
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import RULE, ErrorCounts, PixelPairs
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.types import Sample

Resize = Callable[[Float[np.ndarray, "h w"], tuple[int, int]], Float64[np.ndarray, "_h _w"]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One reading of the protocol."""

    resize: Resize
    tie: Literal["wrong", "nearer", "farther"]
    """What equal scores count as: wrong, or as "the first is nearer" or "farther"."""
    note: str
    swap_axes: bool = False
    """Read the row as the column and the other way round."""


VARIANTS = {
    "official": Variant(
        scale_torch7, "wrong", "torch7's image.scale to the image's size, strict sign, tie wrong"
    ),
    "cv2": Variant(
        scale_half_pixel, "wrong", "YouTube3D and others: bilinear between pixel centres, tie wrong"
    ),
    "cv2, tie is nearer": Variant(
        scale_half_pixel, "nearer", "GP-DE, OASIS: the same, a tie counts as 'first is nearer'"
    ),
    "tie is farther": Variant(
        scale_torch7, "farther", "Chen et al. while training: official, but a tie is 'farther'"
    ),
    "axes swapped": Variant(
        scale_torch7,
        "wrong",
        "a misreading found in public code: column before row; not a DIW score",
        swap_axes=True,
    ),
}

PUBLISHED = {
    "location rule (Xian 2018)": 31.37,
    "Chen 2016, NYU": 31.31,
    "Xian 2018, NYU": 27.70,
    "Eigen 2015": 25.70,
    "Chen 2016, DIW": 22.14,
    "Xian 2018, 1 pair an image": 19.01,
    "Xian 2018, DIW": 14.98,
    "Chen 2016, NYU + DIW": 14.39,
    "Xian 2018, ReDWeb": 14.33,
    "MiDaS v2.1 small": 13.44,
    "MiDaS v2.1": 12.95,
    "MiDaS ResNet-50, 5 sets": 12.48,
    "MiDaS, 5 sets": 12.46,
    "Yucel 2021, DIW": 11.56,
    "Xian 2018, ReDWeb + DIW": 11.37,
    "DPT-Large (MiDaS v3)": 10.82,
    "MiDaS v3.1 Next-ViT-L": 10.31,
}
MEASURE = "WHDR %"


@PROTOCOLS.register("diw")
def diw() -> base.Protocol:
    """Return the protocol of DIW: WHDR in every variant."""
    return base.Protocol(
        title="DIW, test",
        dataset="diw",
        images=74_441,
        measures=(MEASURE,),
        published=base.published(MEASURE, PUBLISHED),
        citation="Xian et al., CVPR 2018, Table 4; Ranftl et al., TPAMI, Table 11; MiDaS README;"
        " Yucel et al., arXiv 2105.12053",
        judge=_judge,
    )


def _judge(request: base.Request) -> Report:
    def judge(sample: Sample) -> base.Judged:
        labelled = annotated_pairs(sample)
        score = request.predict(sample["image"])
        maps: dict[Resize, Float64[np.ndarray, "h w"]] = {
            way: way(score, sample["mask"].shape) for way in (scale_torch7, scale_half_pixel)
        }
        counts = {
            name: _count(variant, maps[variant.resize], labelled)
            for name, variant in VARIANTS.items()
        }
        counts[RULE] = base.rule_error(sample, labelled)
        caption = "wrong" if counts["official"].wrong.any() else "right"
        return base.Judged(counts, maps[scale_torch7], caption)

    source = request.source()
    parts, picture = request.judge(source, judge)
    counts = base.merge_counts(parts, [*VARIANTS, RULE])
    used = request.count(source)
    notes = [f"{used} images with one pair each; intervals are over images."]
    if source.rejected:
        first = source.rejected[0]
        notes.append(
            f"{len(source.rejected)} samples of the csv were left out, the first at line"
            f" {first.line}: {first.reason}."
        )
    explanations = {name: variant.note for name, variant in VARIANTS.items()}
    explanations[RULE] = "the location rule on the same pairs; one row costs half a pair"
    rows = [
        Row(name, {MEASURE: Estimate.percent(counts[name])}, note)
        for name, note in explanations.items()
    ]
    return request.report(used, f"{used} pairs", rows, notes, picture)


def _count(
    variant: Variant, score: Float[np.ndarray, "h w"], labelled: LabelledPairs
) -> ErrorCounts:
    """Count the wrong pairs of an image, whose `score` was resized as the variant does."""
    pairs, relation = labelled
    if variant.swap_axes:
        pairs = PixelPairs(*(_swapped(points, score.shape) for points in pairs))
    difference = ordinal.difference(score, pairs)
    if variant.tie != "wrong":
        said = -1.0 if variant.tie == "nearer" else 1.0
        difference = np.where(difference == 0, said, difference)
    return ordinal.strict_error(difference, relation)


def _swapped(points: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the points with row and column exchanged, held inside the image."""
    row, column = np.divmod(points, size[1])
    return np.minimum(column, size[0] - 1) * size[1] + np.minimum(row, size[1] - 1)
