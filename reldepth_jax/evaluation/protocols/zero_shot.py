"""Metric-depth errors of a relative network, after alignment: zero-shot transfer as MiDaS tests it.

Source: Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2020, Section 6: for each
image, scale and shift of the predicted inverse depth by least squares to the true one over valid
pixels within the cap; aligned values below 1/cap are set to it; errors of the reciprocal, averaged
over images. The prediction is brought to the size of the ground truth bilinearly between pixel
centres.

Sign: the score of a network trained by ranking grows with distance; its negative stands for inverse
depth. Such a score is right up to a monotone function only, which an affine alignment cannot undo:
these errors are hard on networks trained by ranking. The fitted scale may be negative, so that a
score of the wrong sign is turned round: signs are what ordinal protocols test.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.eth3d import ETH3D
from reldepth_jax.data.sources.kitti import Kitti
from reldepth_jax.data.sources.nyu_depth_v2 import NYUDepthV2
from reldepth_jax.data.sources.sintel import Sintel
from reldepth_jax.data.sources.tum import TUM
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_half_pixel
from reldepth_jax.metrics.alignment import align_inverse_depth
from reldepth_jax.metrics.boundary import BoundaryF1
from reldepth_jax.metrics.depth import DepthErrors
from reldepth_jax.metrics.merge import merge_everywhere
from reldepth_jax.metrics.ordinal import bootstrap_interval
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.types import Sample, Source, Split

COLUMNS = {
    "abs rel": "abs_rel",
    "sq rel": "sq_rel",
    "rmse": "rmse",
    "rmse log": "rmse_log",
    "log10": "log10",
    "si rmse": "si_rmse",
}
ACCURACY = {"d < 1.25² % (higher is better)": "delta2", "d < 1.25³ % (higher is better)": "delta3"}
"""Titles of measures that are reported as they are -> `metrics.depth`."""
BAD = "d > 1.25 %"
"""Share of pixels off by more than a quarter, as MiDaS prints it: 100 - delta1."""
BOUNDARY = "boundary F1 (higher is better)"


def _published(measure: str, *values: float) -> list[Row]:
    names = (
        "Chen 2016, NYU + DIW",
        "Xian 2018, ReDWeb",
        "MiDaS ResNet-50, 5 sets",
        "MiDaS v2.1 small",
        "MiDaS v2.1",
        "DPT-Large (MiDaS v3)",
    )
    return [Row(name, {measure: value}) for name, value in zip(names, values, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """The protocol on one data set."""

    title: str
    source: Callable[..., Source]
    """Made as `source(split="test", size=…, root=…)`."""
    images: int
    """How many the published numbers are of."""
    cap: float
    """Metres; ground truth beyond does not count."""
    published: Sequence[Row]
    boundaries: bool = False
    """Also judge edges: for depth that is exact there."""

    def __call__(
        self, predict: base.Predict, data_dir: str, *, num_images: int, progress: base.Progress
    ) -> Report:
        """Judge on the test split; `EvaluationProtocol`."""
        source = self.source(split="test", size=(0, 0), root=data_dir)
        model, rule, edges = [], [], []
        rows, captions = [], []
        for index, sample in base.block(source, num_images, progress):
            size = sample["mask"].shape
            score = scale_half_pixel(predict(sample["image"]), size)
            aligned = self._aligned(score, sample)
            model.append(self._errors(aligned, sample))
            by_row = self._aligned(base.lower_is_nearer(*size), sample)
            rule.append(self._errors(by_row, sample))
            if self.boundaries:
                edges.append(BoundaryF1.of_image(aligned, sample["depth"], self._within(sample)))
            if len(rows) < base.PICTURES:
                rows.append(base.picture_row(sample, score))
                captions.append(f"#{index}  abs rel {model[-1].compute('image')['abs_rel']:.3f}")
        errors, rule_errors = (merge_everywhere(DepthErrors, parts) for parts in (model, rule))
        if not errors.num_images:
            raise DataError(f"{self.title}: no image has ground truth within {self.cap:g} m")
        values = _values(errors)
        if self.boundaries:
            judged = merge_everywhere(BoundaryF1, edges)
            some = judged.values[np.isfinite(judged.values)]
            interval = bootstrap_interval(some, np.ones(len(some), np.int64))
            values[BOUNDARY] = Estimate(judged.mean, *interval)
        used = base.count_of(source, num_images)
        notes = [
            f"Aligned in inverse depth by least squares, cap {self.cap:g} m; means over images with"
            " ground truth, intervals over images."
        ]
        if used != self.images:
            notes.append(
                f"Not comparable with published numbers: those are of {self.images} images."
            )
        if self.boundaries:
            notes.append(
                "Boundary F1 as Depth Pro's code computes it, on the aligned maps within the cap."
            )
        if errors.invalid.any():
            notes.append(
                f"The prediction is not finite at {errors.invalid.sum()} pixels with ground truth."
            )
        return Report(
            title=f"{self.title}: {used} images",
            measures=(BAD, *COLUMNS, *ACCURACY, *([BOUNDARY] if self.boundaries else [])),
            rows=[
                Row("aligned", values),
                Row(base.RULE, _values(rule_errors), "the location rule, aligned the same way"),
            ],
            published=self.published,
            source="Ranftl et al., TPAMI, Table 11; MiDaS README",
            notes=notes,
            picture=base.contact_sheet(rows, captions),
        )

    def _aligned(self, score: Float[np.ndarray, "h w"], sample: Sample) -> Float[np.ndarray, "h w"]:
        return align_inverse_depth(-score, sample["depth"], sample["mask"], cap=self.cap)

    def _errors(self, depth: Float[np.ndarray, "h w"], sample: Sample) -> DepthErrors:
        return DepthErrors.of_image(depth, sample["depth"], self._within(sample))

    def _within(self, sample: Sample) -> Bool[np.ndarray, "h w"]:
        return sample["mask"] & (sample["depth"] <= self.cap)


def _values(errors: DepthErrors) -> dict[str, Estimate]:
    measured = errors.compute("image")
    values = {
        title: Estimate(measured[name], *errors.interval(name)) for title, name in COLUMNS.items()
    }
    for title, name in ACCURACY.items():
        values[title] = Estimate(*(100 * d for d in (measured[name], *errors.interval(name))))
    low, high = errors.interval("delta1")
    return {BAD: Estimate(*(100 - 100 * d for d in (measured["delta1"], high, low))), **values}


def _listed_kitti(split: Split, size: tuple[int, int], root: str) -> Kitti:
    listing = os.path.join(root, "list.txt")
    return Kitti(split=split, size=size, root=root, list=listing if os.path.isfile(listing) else "")


@PROTOCOLS.register("kitti")
def kitti() -> ZeroShot:
    """Return the protocol of KITTI, for the images that `list.txt` in the folder names.

    MiDaS's 161 images have improved ground truth of the validation part and are in the Eigen test
    split; a public list of them is not known to us. Without a list: the validation selection.
    """
    published = _published(BAD, 36.30, 34.08, 21.81, 29.27, 16.08, 8.46)
    return ZeroShot(title="KITTI", source=_listed_kitti, images=161, cap=80.0, published=published)


@PROTOCOLS.register("eth3d")
def eth3d() -> ZeroShot:
    """Return the protocol of ETH3D."""
    published = _published("abs rel", 0.221, 0.186, 0.155, 0.1344, 0.1155, 0.0888)
    return ZeroShot(title="ETH3D", source=ETH3D, images=454, cap=72.0, published=published)


@PROTOCOLS.register("sintel")
def sintel() -> ZeroShot:
    """Return the protocol of MPI Sintel, final pass."""
    published = _published("abs rel", 0.440, 0.422, 0.330, 0.3370, 0.3285, 0.2697)
    return ZeroShot(
        title="Sintel", source=Sintel, images=1064, cap=72.0, published=published, boundaries=True
    )


@PROTOCOLS.register("tum")
def tum() -> ZeroShot:
    """Return the protocol of TUM RGB-D, dynamic scenes."""
    published = _published(BAD, 30.16, 25.02, 17.00, 14.53, 12.51, 9.97)
    return ZeroShot(title="TUM", source=TUM, images=1815, cap=10.0, published=published)


@PROTOCOLS.register("nyu_depth")
def nyu_depth() -> ZeroShot:
    """Return the protocol of the depth maps of NYUDv2, in-filled: their edges are not exact."""
    published = _published(BAD, 28.33, 27.00, 15.73, 13.43, 8.71, 8.32)
    return ZeroShot(
        title="NYUDv2 depth", source=NYUDepthV2, images=654, cap=10.0, published=published
    )
