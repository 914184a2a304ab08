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
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from reldepth_jax.data.reading.files import DataError
from reldepth_jax.evaluation.protocols import base
from reldepth_jax.evaluation.protocols.report import Estimate, Report, Row
from reldepth_jax.evaluation.protocols.resizing import scale_half_pixel
from reldepth_jax.metrics.alignment import align_inverse_depth
from reldepth_jax.metrics.boundary import boundary_f1
from reldepth_jax.metrics.depth import DepthErrors
from reldepth_jax.metrics.ordinal import RULE, bootstrap_interval, location_rule
from reldepth_jax.metrics.processes import gather, merge_over_processes
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.types import Sample, with_polarity

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


METHODS = (
    "Chen 2016, NYU + DIW",
    "Xian 2018, ReDWeb",
    "MiDaS ResNet-50, 5 sets",
    "MiDaS v2.1 small",
    "MiDaS v2.1",
    "DPT-Large (MiDaS v3)",
)
"""Published, in the order of `zero_shot`'s `published`."""


def zero_shot(
    title: str,
    dataset: str,
    images: int,
    cap: float,
    measure: str,
    published: Sequence[float],
    **options: Any,
) -> base.Protocol:
    """Return the protocol on one data set.

    Args:
      cap: metres; ground truth beyond does not count.
      measure: the one that is published for this data set.
      published: of `METHODS`.
      options: of `_judge`.
    """
    boundary = (BOUNDARY,) if options.get("boundaries") else ()
    return base.Protocol(
        title=title,
        dataset=dataset,
        images=images,
        measures=(BAD, *COLUMNS, *ACCURACY, *boundary),
        published=base.published(measure, dict(zip(METHODS, published, strict=True))),
        citation="Ranftl et al., TPAMI, Table 11; MiDaS README",
        judge=functools.partial(_judge, cap=cap, **options),
    )


def _judge(request: base.Request, *, cap: float, boundaries: bool = False) -> Report:
    """Judge on the test split.

    Args:
      boundaries: also judge edges; for depth that is exact there.
    """
    source = request.source()

    def judge(sample: Sample) -> base.Judged:
        score = scale_half_pixel(request.predict(sample["image"]), sample["mask"].shape)
        within = sample["mask"] & (sample["depth"] <= cap)

        def aligned(score: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
            disparity = with_polarity(score, "disparity")
            return align_inverse_depth(disparity, sample["depth"], sample["mask"], cap=cap)

        model, rule = (aligned(each) for each in (score, location_rule(*score.shape)))
        errors = [DepthErrors.of_image(each, sample["depth"], within) for each in (model, rule)]
        edge = boundary_f1(model, sample["depth"], within) if boundaries else np.nan
        caption = f"abs rel {errors[0].compute('image')['abs_rel']:.3f}"
        return base.Judged((*errors, edge), score, caption)

    states, picture = request.judge(source, judge)
    errors, rule_errors = (
        merge_over_processes(DepthErrors, [state[kind] for state in states]) for kind in (0, 1)
    )
    if not errors.num_images:
        raise DataError(f"{request.data_dir}: no image has ground truth within {cap:g} m")
    values = _values(errors)
    notes = [
        f"Aligned in inverse depth by least squares, cap {cap:g} m; means over images with"
        " ground truth, intervals over images."
    ]
    if boundaries:
        parts = gather({"f1": np.array([edge for *_, edge in states], np.float64)})
        f1 = np.concatenate([part["f1"] for part in parts])
        # NaN: no contour in the ground truth.
        f1 = f1[~np.isnan(f1)]
        mean = float(f1.mean()) if f1.size else np.nan
        interval = bootstrap_interval(f1, np.ones(len(f1), np.int64))
        values[BOUNDARY] = Estimate(mean, *interval)
        notes.append(
            "Boundary F1 as Depth Pro's code computes it, on the aligned maps within the cap."
        )
    if errors.invalid.any():
        notes.append(
            f"The prediction is not finite at {errors.invalid.sum()} pixels with ground truth."
        )
    rows = [
        Row("aligned", values),
        Row(RULE, _values(rule_errors), "the location rule, aligned the same way"),
    ]
    used = request.count(source)
    return request.report(used, f"{used} images", rows, notes, picture)


def _values(errors: DepthErrors) -> dict[str, Estimate]:
    measured = errors.compute("image")
    values = {
        title: Estimate(measured[name], *errors.interval(name)) for title, name in COLUMNS.items()
    }
    for title, name in ACCURACY.items():
        values[title] = Estimate(*(100 * d for d in (measured[name], *errors.interval(name))))
    low, high = errors.interval("delta1")
    return {BAD: Estimate(*(100 - 100 * d for d in (measured["delta1"], high, low))), **values}


@PROTOCOLS.register("kitti", either_sign=True)
def kitti(*, shorter_side: bool = True) -> base.Protocol:
    """Return the protocol of KITTI, for the images that `list.txt` in the folder names.

    MiDaS's 161 images have improved ground truth of the validation part and are in the Eigen test
    split; docs/evaluation.md says how to list them. Without a list: the validation selection.
    Elsewhere MiDaS's networks see a longer side of 384, here a shorter one (Section 6), without
    which the street would have 128 rows. If `shorter_side` is false they see what they were made
    for.
    """
    published = (36.30, 34.08, 21.81, 29.27, 16.08, 8.46)
    protocol = zero_shot("KITTI", "kitti", 161, 80.0, BAD, published)
    return dataclasses.replace(protocol, shorter_side=shorter_side)


@PROTOCOLS.register("eth3d", either_sign=True)
def eth3d() -> base.Protocol:
    """Return the protocol of ETH3D."""
    published = (0.221, 0.186, 0.155, 0.1344, 0.1155, 0.0888)
    return zero_shot("ETH3D", "eth3d", 454, 72.0, "abs rel", published)


@PROTOCOLS.register("sintel", either_sign=True)
def sintel() -> base.Protocol:
    """Return the protocol of MPI Sintel, final pass."""
    published = (0.440, 0.422, 0.330, 0.3370, 0.3285, 0.2697)
    return zero_shot("Sintel", "sintel", 1064, 72.0, "abs rel", published, boundaries=True)


@PROTOCOLS.register("tum", either_sign=True)
def tum() -> base.Protocol:
    """Return the protocol of TUM RGB-D, dynamic scenes."""
    published = (30.16, 25.02, 17.00, 14.53, 12.51, 9.97)
    return zero_shot("TUM", "tum", 1815, 10.0, BAD, published)


@PROTOCOLS.register("nyu_depth", either_sign=True)
def nyu_depth() -> base.Protocol:
    """Return the protocol of the depth maps of NYUDv2, in-filled: their edges are not exact."""
    published = (28.33, 27.00, 15.73, 13.43, 8.71, 8.32)
    return zero_shot("NYUDv2 depth", "nyu_depth_v2", 654, 10.0, BAD, published)
