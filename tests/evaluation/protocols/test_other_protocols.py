"""DA-2K and the zero-shot protocols against values computed in the test, image by image."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.evaluation.protocols.report import Estimate, Report
from reldepth_jax.evaluation.protocols.zero_shot import BAD, BOUNDARY
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.metrics.boundary import boundary_f1
from reldepth_jax.metrics.ordinal import RULE
from reldepth_jax.registry import PROTOCOLS
from tests.fixtures import da2k, eth3d, kitti, nyu_depth_v2, sintel, tum
from tests.fixtures.scenes import scene


def predict(image: np.ndarray) -> np.ndarray:
    """At half the size: rows from far to near, disturbed by the image's red."""
    small = image[::2, ::2, 0].astype(np.float32) / 255
    return np.linspace(2, 0, len(small), dtype=np.float32)[:, None] + small


def run(name: str, root: pathlib.Path, predict: Any = predict, num_images: int = 0) -> Report:
    done = []
    report = PROTOCOLS.create(name)(
        predict, str(root), num_images=num_images, progress=lambda *now: done.append(now)
    )
    assert done
    assert done[-1][0] == done[-1][1]
    return report


def value(report: Report, row: int, measure: str) -> float:
    found = report.rows[row].values[measure]
    assert isinstance(found, Estimate)
    return found.value


def test_da2k_counts_pairs_whose_closer_point_is_closer(tmp_path: pathlib.Path):
    da2k.write(tmp_path)
    folder = tmp_path / "DA-2K"
    annotations = json.loads((folder / "annotations.json").read_text())
    from PIL import Image

    right, by_rule, total = 0, 0.0, 0
    for name, pairs in annotations.items():
        image = np.asarray(Image.open(folder / name).convert("RGB"))
        score = predict(image)
        height, width = image.shape[:2]
        rows = np.linspace(0, len(score) - 1, height)
        columns = np.linspace(0, score.shape[1] - 1, width)
        tall = np.stack([np.interp(rows, np.arange(len(c)), c) for c in score.astype(float).T], 1)
        full = np.stack([np.interp(columns, np.arange(len(r)), r) for r in tall])
        for pair in pairs:
            (y1, x1), (y2, x2) = pair["point1"], pair["point2"]
            right += full[y1, x1] < full[y2, x2]  # the first is always the closer one
            by_rule += 1.0 if y1 > y2 else 0.5 if y1 == y2 else 0.0
            total += 1
    assert 0 < right < total, "the data do not tell"
    report = run("da2k", tmp_path)
    (measure,) = report.measures
    np.testing.assert_allclose(value(report, 0, measure), 100 * right / total, rtol=1e-12)
    np.testing.assert_allclose(value(report, -1, measure), 100 * by_rule / total, rtol=1e-12)
    assert [row.name.strip() for row in report.rows[1:-1]] == sorted(da2k.SCENES)


def test_da2k_does_not_reward_a_constant(tmp_path: pathlib.Path):
    da2k.write(tmp_path)
    report = run("da2k", tmp_path, predict=lambda image: np.zeros((4, 4), np.float32))
    assert value(report, 0, report.measures[0]) == 0


SETS = {
    "kitti": (kitti, 80.0),
    "eth3d": (eth3d, 72.0),
    "sintel": (sintel, 72.0),
    "tum": (tum, 10.0),
    "nyu_depth": (nyu_depth_v2, 10.0),
}


def expected_errors(name: str, root: pathlib.Path, cap: float) -> dict[str, float]:
    """Means over images of errors after alignment, with lstsq and np.interp."""
    from reldepth_jax.registry import SOURCES

    source_name = "nyu_depth_v2" if name == "nyu_depth" else name
    source = SOURCES.create(source_name, split="test", size=(1, 1), root=str(root))
    errors = []
    for index in range(len(source)):
        sample = source[index]
        depth = sample["depth"].astype(np.float64)
        height, width = depth.shape
        score = predict(sample["image"]).astype(np.float64)
        # Pixel centres: the middle of output pixel k lies at (k + 1/2) h / H - 1/2.
        rows = (np.arange(height) + 0.5) * score.shape[0] / height - 0.5
        columns = (np.arange(width) + 0.5) * score.shape[1] / width - 0.5
        tall = np.stack([np.interp(rows, np.arange(len(c)), c) for c in score.T], 1)
        full = np.stack([np.interp(columns, np.arange(len(r)), r) for r in tall])
        valid = sample["mask"] & (depth <= cap)
        if not valid.any():
            continue
        p, g = -full[valid], depth[valid]
        design = np.stack([p, np.ones_like(p)], 1)
        scale, shift = np.linalg.lstsq(design, 1 / g, rcond=None)[0]
        aligned = 1 / np.maximum(scale * p + shift, 1 / cap)
        errors.append(
            {
                "abs rel": np.mean(np.abs(aligned - g) / g),
                BAD: 100 * np.mean(np.maximum(aligned / g, g / aligned) >= 1.25),
                "rmse": np.sqrt(np.mean((aligned - g) ** 2)),
                "log10": np.mean(np.abs(np.log10(aligned / g))),
            }
        )
    assert errors
    return {key: float(np.mean([error[key] for error in errors])) for key in errors[0]}


@pytest.mark.parametrize("name", SETS)
def test_zero_shot_errors_are_those_after_least_squares(name: str, tmp_path: pathlib.Path):
    fixture, cap = SETS[name]
    fixture.write(tmp_path)
    report = run(name, tmp_path)
    for measure, expected in expected_errors(name, tmp_path, cap).items():
        np.testing.assert_allclose(value(report, 0, measure), expected, rtol=1e-6, err_msg=measure)
    assert report.rows[-1].name == RULE
    assert (BOUNDARY in report.measures) == (name == "sintel")
    for measure, found in report.rows[0].values.items():
        assert isinstance(found, Estimate)
        if not np.isnan(found.low):
            assert found.low <= found.value <= found.high, measure
    assert any(f"cap {cap:g} m" in note for note in report.notes)


# Ranftl et al., Table 11, and the README of MiDaS: Chen NYU + DIW, Xian ReDWeb, MiDaS ResNet-50,
# v2.1 small, v2.1, DPT-Large.
TABLE = {
    "kitti": [36.30, 34.08, 21.81, 29.27, 16.08, 8.46],
    "eth3d": [0.221, 0.186, 0.155, 0.1344, 0.1155, 0.0888],
    "sintel": [0.440, 0.422, 0.330, 0.3370, 0.3285, 0.2697],
    "tum": [30.16, 25.02, 17.00, 14.53, 12.51, 9.97],
    "nyu_depth": [28.33, 27.00, 15.73, 13.43, 8.71, 8.32],
}


@pytest.mark.parametrize("name", SETS)
def test_published_numbers_are_those_of_the_papers(name: str):
    protocol = PROTOCOLS.create(name)
    assert [value for row in protocol.published for value in row.values.values()] == TABLE[name]
    assert protocol.images == {
        "kitti": 161, "eth3d": 454, "sintel": 1064, "tum": 1815, "nyu_depth": 654,
    }[name]  # fmt: skip


@pytest.mark.parametrize(
    ("fit", "size", "wanted", "told"),
    [
        # KITTI's 375x1242: 1242 * 384 / 375 = 1271.8, nearest multiple of 32.
        ("long_side_floor", 384, (384, 1280), True),
        ("long_side_ceil", 384, (384, 1280), True),
        ("square", 448, (448, 448), False),
        ("short_side", 96, (96, 318), False),
    ],
)
def test_networks_see_kitti_as_for_the_published_numbers(fit, size, wanted, told):
    seen = []

    def network(images: np.ndarray) -> np.ndarray:
        seen.append(images.shape[1:3])
        return images.mean(axis=-1)

    own = Predictor(network, Preprocessing(fit=fit, size=size))
    image = np.zeros((375, 1242, 3), np.uint8)
    adapted, note = PROTOCOLS.create("kitti").adapted(own)
    score = adapted.unresized(image)
    assert (score.shape, bool(note)) == (wanted, told)
    for other in (PROTOCOLS.create("kitti", shorter_side=False), PROTOCOLS.create("sintel")):
        assert other.adapted(own) == (own, "")
    if fit == "long_side_floor":
        own.unresized(image)
        assert seen == [(384, 1280), (128, 384)]


def test_kitti_is_judged_on_the_list_beside_it(tmp_path: pathlib.Path):
    kitti.write(tmp_path)
    whole = run("kitti", tmp_path)
    images = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("image/*.png"))
    depths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("groundtruth_depth/*"))
    assert len(images) > 1
    (tmp_path / "list.txt").write_text(f"{images[0]} {depths[0]}\n")
    assert f": {len(images)} images" in whole.title
    assert ": 1 images" in run("kitti", tmp_path).title


@pytest.mark.parametrize("name", SETS)
def test_an_affine_score_changes_no_error(name: str, tmp_path: pathlib.Path):
    SETS[name][0].write(tmp_path)
    before, after = run(name, tmp_path), run(name, tmp_path, lambda image: 7 * predict(image) - 3)
    for measure in (BAD, "abs rel", "si rmse"):
        np.testing.assert_allclose(value(after, 0, measure), value(before, 0, measure), rtol=1e-5)


def test_a_prediction_that_is_not_finite_shows(tmp_path: pathlib.Path):
    sintel.write(tmp_path)

    def broken(image: np.ndarray) -> np.ndarray:
        score = predict(image)
        score[-3:, -3:] = np.nan
        return score

    report = run("sintel", tmp_path, broken)
    assert np.isnan(value(report, 0, "abs rel"))
    assert not np.isnan(value(report, 0, BAD))
    assert any("not finite" in note for note in report.notes)


def test_boundaries_are_averaged_over_the_images_that_have_some(tmp_path: pathlib.Path):
    """A network that says the true inverse depth, but where the first image has no edge."""
    sintel.write(tmp_path)
    (first, *_) = sorted(tmp_path.rglob("*.dpt"))
    sintel.write_dpt(first, np.full((48, 64), 5.0, np.float32))
    truths = {scene(number)[0].tobytes(): sintel.depth_of(number) for number in range(4)}

    def predict(image: np.ndarray) -> np.ndarray:
        return -1 / truths[image.tobytes()]

    report = run("sintel", tmp_path, predict)
    masks = [sintel.depth_of(number) <= 72 for number in range(1, 4)]
    expected = [
        boundary_f1(sintel.depth_of(number), sintel.depth_of(number), mask)
        for number, mask in enumerate(masks, 1)
    ]
    assert 0 < np.mean(expected) <= 1
    assert value(report, 0, BOUNDARY) == pytest.approx(np.mean(expected), rel=1e-6)
