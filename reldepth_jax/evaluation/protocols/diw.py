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
from jaxtyping import Float, Float64, Int8

from reldepth_jax.data.sources.diw import DIW
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_half_pixel, scale_torch7
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import ErrorCounts, PixelPairs
from reldepth_jax.registry import PROTOCOLS

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

PUBLISHED = [
    Row("location rule (Xian 2018)", {"WHDR %": 31.37}),
    Row("Chen 2016, NYU", {"WHDR %": 31.31}),
    Row("Xian 2018, NYU", {"WHDR %": 27.70}),
    Row("Eigen 2015", {"WHDR %": 25.70}),
    Row("Chen 2016, DIW", {"WHDR %": 22.14}),
    Row("Xian 2018, 1 pair an image", {"WHDR %": 19.01}),
    Row("Xian 2018, DIW", {"WHDR %": 14.98}),
    Row("Chen 2016, NYU + DIW", {"WHDR %": 14.39}),
    Row("Xian 2018, ReDWeb", {"WHDR %": 14.33}),
    Row("MiDaS v2.1 small", {"WHDR %": 13.44}),
    Row("MiDaS v2.1", {"WHDR %": 12.95}),
    Row("MiDaS ResNet-50, 5 sets", {"WHDR %": 12.48}),
    Row("MiDaS, 5 sets", {"WHDR %": 12.46}),
    Row("Yucel 2021, DIW", {"WHDR %": 11.56}),
    Row("Xian 2018, ReDWeb + DIW", {"WHDR %": 11.37}),
    Row("DPT-Large (MiDaS v3)", {"WHDR %": 10.82}),
    Row("MiDaS v3.1 Next-ViT-L", {"WHDR %": 10.31}),
]


@PROTOCOLS.register("diw")
@dataclasses.dataclass(frozen=True)
class DIWProtocol:
    """WHDR of DIW in every variant, beside the location rule."""

    def __call__(
        self, predict: base.Predict, data_dir: str, *, num_images: int, progress: base.Progress
    ) -> Report:
        """Judge on the test split; `EvaluationProtocol`."""
        source = DIW(split="test", size=(0, 0), root=data_dir)
        parts: list[dict[str, ErrorCounts]] = []
        rows, captions = [], []
        for index, sample in base.block(source, num_images, progress):
            pairs, relation = base.annotated(sample)
            score = predict(sample["image"])
            size = sample["mask"].shape
            maps: dict[Resize, Float64[np.ndarray, "h w"]] = {
                way: way(score, size) for way in (scale_torch7, scale_half_pixel)
            }
            parts.append(
                {
                    name: judge(variant, maps[variant.resize], pairs, relation)
                    for name, variant in VARIANTS.items()
                }
            )
            by_row = ordinal.difference(base.lower_is_nearer(*size), pairs)
            parts[-1][base.RULE] = ordinal.strict_error(by_row, relation, tie=0.5)
            if len(rows) < base.PICTURES:
                rows.append(base.picture_row(sample, maps[scale_torch7]))
                wrong = bool(parts[-1]["official"].wrong.any())
                captions.append(f"#{index}  {'wrong' if wrong else 'right'}")
        counts = base.merge_counts(parts, [*VARIANTS, base.RULE])
        used = base.count_of(source, num_images)
        notes = [f"{used} images with one pair each; intervals are over images."]
        published = source.data_set.counts["test"]
        if used < published:
            notes.append(f"Not comparable with published numbers: the test set has {published}.")
        if source.rejected:
            first = source.rejected[0]
            notes.append(
                f"{len(source.rejected)} samples of the csv were left out, the first at line"
                f" {first.line}: {first.reason}."
            )
        ours = [
            Row(name, {"WHDR %": Estimate.percent(counts[name])}, variant.note)
            for name, variant in VARIANTS.items()
        ]
        rule = Row(
            base.RULE,
            {"WHDR %": Estimate.percent(counts[base.RULE])},
            "the location rule on the same pairs; one row costs half a pair",
        )
        return Report(
            title=f"DIW, test: {used} pairs",
            measures=("WHDR %",),
            rows=[*ours, rule],
            published=PUBLISHED,
            source="Xian et al., CVPR 2018, Table 4; Ranftl et al., TPAMI, Table 11; MiDaS README;"
            " Yucel et al., arXiv 2105.12053",
            notes=notes,
            picture=base.contact_sheet(rows, captions),
        )


def judge(
    variant: Variant,
    score: Float[np.ndarray, "h w"],
    pairs: PixelPairs,
    relation: Int8[np.ndarray, "n"],
) -> ErrorCounts:
    """Count the wrong ones among the pairs of an image, by one variant.

    `score` is at the size of the image, resized as the variant does.
    """
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
