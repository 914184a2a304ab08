"""Accuracy on the point pairs of DA-2K.

Source: Yang et al., "Depth Anything V2", NeurIPS 2024, Section 6: the share of pairs whose closer
point is predicted closer. The map is brought to the size of the image with corners aligned, as the
authors' code does. A tie is wrong. Sign: score grows with distance.
"""

import dataclasses

from reldepth_jax.data.sources.da2k import DA2K
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_aligned_corners
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.registry import PROTOCOLS

MEASURE = "accuracy % (higher is better)"
PUBLISHED = [
    Row(name, {MEASURE: value})
    for name, value in (
        ("DepthFM", 85.8),
        ("Marigold", 86.8),
        ("GeoWizard", 88.1),
        ("Depth Anything V1", 88.5),
        ("Depth Anything V2, small", 95.3),
        ("Depth Anything V2, base", 97.0),
        ("Depth Anything V2, large", 97.1),
        ("Depth Anything V2, giant", 97.4),
    )
]


@PROTOCOLS.register("da2k")
@dataclasses.dataclass(frozen=True)
class DA2KProtocol:
    """Accuracy of DA-2K, over all pairs and for each type of scene."""

    def __call__(
        self, predict: base.Predict, data_dir: str, *, num_images: int, progress: base.Progress
    ) -> Report:
        """Judge on all images; `EvaluationProtocol`."""
        source = DA2K(split="test", size=(0, 0), root=data_dir)
        parts: list[dict[str, ErrorCounts]] = []
        rows, captions = [], []
        for index, sample in base.block(source, num_images, progress):
            pairs, relation = base.annotated(sample)
            size = sample["mask"].shape
            score = scale_aligned_corners(predict(sample["image"]), size)
            by_row = ordinal.difference(base.lower_is_nearer(*size), pairs)
            parts.append(
                {
                    "all": ordinal.strict_error(ordinal.difference(score, pairs), relation),
                    base.RULE: ordinal.strict_error(by_row, relation, tie=0.5),
                }
            )
            if len(rows) < base.PICTURES:
                rows.append(base.picture_row(sample, score))
                captions.append(f"#{index}  {parts[-1]['all'].rate:.0%} wrong")
        counts = base.merge_counts(parts, ["all", base.RULE])
        used = base.count_of(source, num_images)
        scenes = [source.scene(index) for index in range(used)]
        ours = [Row("all scenes", {MEASURE: _accuracy(counts["all"])})]
        for scene in sorted(set(scenes)):
            chosen = [number for number, name in enumerate(scenes) if name == scene]
            part = ErrorCounts(counts["all"].wrong[chosen], counts["all"].total[chosen])
            ours.append(Row(f"  {scene}", {MEASURE: _accuracy(part)}))
        ours.append(Row(base.RULE, {MEASURE: _accuracy(counts[base.RULE])}, "the location rule"))
        return Report(
            title=f"DA-2K: {used} images, {int(counts['all'].total.sum())} pairs",
            measures=(MEASURE,),
            rows=ours,
            published=PUBLISHED,
            source="Yang et al., Depth Anything V2, 2024",
            notes=["Pooled over pairs; intervals are over images."],
            picture=base.contact_sheet(rows, captions),
        )


def _accuracy(counts: ErrorCounts) -> Estimate:
    value, low, high = Estimate.percent(counts)
    return Estimate(100 - value, 100 - high, 100 - low)
