"""Accuracy on the point pairs of DA-2K, over all pairs and for each type of scene.

Source: Yang et al., "Depth Anything V2", NeurIPS 2024, Section 6: the share of pairs whose closer
point is predicted closer. The map is brought to the size of the image with corners aligned, as the
authors' code does. A tie is wrong. Sign: score grows with distance.
"""

from reldepth_jax.evaluation.judged_pairs import annotated_pairs
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_aligned_corners
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import RULE, ErrorCounts
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.types import Sample

MEASURE = "accuracy % (higher is better)"
PUBLISHED = {
    "DepthFM": 85.8,
    "Marigold": 86.8,
    "GeoWizard": 88.1,
    "Depth Anything V1": 88.5,
    "Depth Anything V2, small": 95.3,
    "Depth Anything V2, base": 97.0,
    "Depth Anything V2, large": 97.1,
    "Depth Anything V2, giant": 97.4,
}


@PROTOCOLS.register("da2k")
def da2k() -> base.Protocol:
    """Return the protocol of DA-2K."""
    return base.Protocol(
        title="DA-2K",
        dataset="da2k",
        images=None,
        measures=(MEASURE,),
        published=base.published(MEASURE, PUBLISHED),
        citation="Yang et al., Depth Anything V2, 2024",
        judge=_judge,
    )


def _judge(request: base.Request) -> Report:
    def judge(sample: Sample) -> base.Judged:
        labelled = annotated_pairs(sample)
        score = scale_aligned_corners(request.predict(sample["image"]), sample["mask"].shape)
        difference = ordinal.difference(score, labelled.pairs)
        error = ordinal.strict_error(difference, labelled.relation)
        counts = {"all": error, RULE: base.rule_error(sample, labelled)}
        return base.Judged(counts, score, f"{error.rate:.0%} wrong")

    source = request.source()
    parts, picture = request.judge(source, judge)
    counts = base.merge_counts(parts, ["all", RULE])
    used = request.count(source)
    scenes = [source.scene(index) for index in range(used)]
    rows = [Row("all scenes", {MEASURE: _accuracy(counts["all"])})]
    for scene in sorted(set(scenes)):
        chosen = [number for number, name in enumerate(scenes) if name == scene]
        part = ErrorCounts(counts["all"].wrong[chosen], counts["all"].total[chosen])
        rows.append(Row(f"  {scene}", {MEASURE: _accuracy(part)}))
    rows.append(Row(RULE, {MEASURE: _accuracy(counts[RULE])}, "the location rule"))
    size = f"{used} images, {int(counts['all'].total.sum())} pairs"
    notes = ["Pooled over pairs; intervals are over images."]
    return request.report(used, size, rows, notes, picture)


def _accuracy(counts: ErrorCounts) -> Estimate:
    value, low, high = Estimate.percent(counts)
    return Estimate(100 - value, 100 - high, 100 - low)
