"""WKDR and metric errors of NYUDv2 against loops written from the official script's rules."""

import functools
import math
import pathlib

import numpy as np
import pytest

from reldepth_jax.evaluation.protocols import nyu
from reldepth_jax.evaluation.protocols.nyu import Pairs, grid_tau, shares
from reldepth_jax.evaluation.protocols.report import Estimate, Report
from reldepth_jax.metrics.ordinal import RULE
from reldepth_jax.registry import PROTOCOLS
from tests.fixtures import nyu_pairs
from tests.fixtures.scenes import scene


def predict(image: np.ndarray) -> np.ndarray:
    """A network of sorts: what it says depends on the image that it is given, margin or not."""
    height, width = image.shape[:2]
    rng = np.random.default_rng(int(image.astype(np.int64).sum()) % 2**32)
    rows = np.linspace(1.5, -0.5, 24)[:, None] + np.zeros((24, 32))
    return (rows + 0.3 * rng.normal(size=(24, 32)) + height / 1e4 + width / 1e4).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("nyu")
    nyu_pairs.write(folder, count=3, pairs=40)
    return folder


@pytest.fixture(scope="module")
def report(root: pathlib.Path) -> Report:
    return PROTOCOLS.create("nyu")(predict, str(root), num_images=0, progress=lambda *_: None)


def enlarge(score: np.ndarray, height: int, width: int) -> np.ndarray:
    """Corner-aligned bilinear, by np.interp on each axis."""
    rows = np.linspace(0, score.shape[0] - 1, height)
    columns = np.linspace(0, score.shape[1] - 1, width)
    tall = np.stack([np.interp(rows, np.arange(len(c)), c) for c in score.astype(float).T], 1)
    return np.stack([np.interp(columns, np.arange(len(r)), r) for r in tall])


@functools.cache
def read_list(root: pathlib.Path, part: str) -> list[list[tuple[int, int, int, int, int]]]:
    """The pairs of each image, by hand: rows and columns from 0, relation."""
    lines = (root / f"data/{nyu_pairs.LISTS[part]}.csv").read_text().splitlines()[1:]
    images: list[list[tuple[int, int, int, int, int]]] = []
    for line in lines:
        fields = line.split(",")
        if fields[0].endswith(".png"):
            images.append([])
        else:
            y1, x1, y2, x2 = (int(field) - 1 for field in fields[:4])
            images[-1].append((y1, x1, y2, x2, {">": 1, "<": -1, "=": 0}[fields[4]]))
    return images


@functools.cache
def maps_of(part: str) -> list[np.ndarray]:
    """The full-size score of every image of a part, by the rules of the script."""
    maps = []
    for number in range(3):
        image, _ = scene(nyu_pairs.FIRST[part] + number, *nyu_pairs.SIZES[part])
        if part == "val":
            maps.append(enlarge(predict(image), 240, 320))
            continue
        # Rows 10 … 470 and columns 10 … 630 counted from 1; beyond them the nearest of these.
        inner = enlarge(predict(image[9:470, 9:630]), 461, 621)
        rows = np.clip(np.arange(480) - 9, 0, 460)
        columns = np.clip(np.arange(640) - 9, 0, 620)
        maps.append(inner[rows[:, None], columns])
    return maps


def count(pairs: list, score: np.ndarray, tau: float) -> tuple[list[int], list[int]]:
    """Wrong pairs and pairs of an image: of all, of the equal ones, of the unequal ones."""
    wrong, total = [0, 0, 0], [0, 0, 0]
    for y1, x1, y2, x2, truth in pairs:
        difference = score[y1, x1] - score[y2, x2]
        said = 0 if abs(difference) <= tau else (1 if difference > 0 else -1)
        for kind in (0, 1 if truth == 0 else 2):
            total[kind] += 1
            wrong[kind] += said != truth
    return wrong, total


def rates(root: pathlib.Path, part: str, tau: float, per_image: bool) -> list[float]:
    counts = [
        count(pairs, score, tau)
        for pairs, score in zip(read_list(root, part), maps_of(part), strict=True)
    ]
    if not per_image:
        return [
            sum(wrong[k] for wrong, _ in counts) / sum(total[k] for _, total in counts)
            for k in range(3)
        ]
    return [
        float(np.mean([wrong[k] / total[k] for wrong, total in counts if total[k]]))
        for k in range(3)
    ]


@pytest.mark.parametrize(("name", "per_image"), [("official", True), ("pooled", False)])
def test_tau_is_chosen_on_validation_and_applied_to_test(
    root: pathlib.Path, report: Report, name: str, per_image: bool
):
    first = 0.11 if per_image else 0.10
    taus = [round(first + 0.01 * k, 2) for k in range(140)]
    best = min(taus, key=lambda tau: max(rates(root, "val", tau, per_image)[1:]))
    (row,) = (row for row in report.rows if row.name == name)
    assert row.note.startswith(f"tau = {best:.4g};")
    expected = rates(root, "test", best, per_image)
    values = [row.values[measure] for measure in nyu.WKDR]
    assert all(isinstance(value, Estimate) for value in values)
    found = [value.value for value in values if isinstance(value, Estimate)]
    np.testing.assert_allclose(found, 100 * np.array(expected), rtol=1e-9)


def test_the_official_row_comes_first_and_the_rule_last(report: Report):
    names = ["official", "pooled", "exact tau", "exact tau, per image", RULE]
    assert [row.name for row in report.rows] == names


def test_thresholds_are_those_of_the_two_codes():
    assert nyu.OFFICIAL_TAUS.tolist() == [round(0.11 + 0.01 * k, 2) for k in range(140)]
    assert nyu.POOLED_TAUS.tolist() == [round(0.10 + 0.01 * k, 2) for k in range(140)]


def test_the_published_table_is_the_papers():
    """Xian et al., CVPR 2018, Tables 5 and 6."""
    found = {row.name: list(row.values.values()) for row in nyu.PUBLISHED}
    assert found == {
        "Zoran 2015": [43.5, 44.2, 41.2, 1.20, 0.42, 0.40, 0.54],
        "Xian 2018, ranking": [35.8, 36.0, 36.5, 1.10, 0.38, 0.23, 0.34, 0.42],
        "Chen 2016": [35.6, 36.1, 36.5, 1.13, 0.39, 0.26, 0.36, 0.46],
        "Eigen 2015": [34.0, 43.3, 29.6, 0.64, 0.21, 0.17, 0.16, 0.12],
        "Xian 2018": [33.7, 34.6, 34.1, 1.09, 0.37, 0.23, 0.34, 0.41],
        "Xian 2018, 100K images": [29.1, 29.5, 29.7, 1.07, 0.36, 0.22, 0.33, 0.39],
        "Chen 2016, 220K images": [28.3, 30.6, 28.6, 1.10, 0.38, 0.24, 0.34, 0.42],
    }


def test_metric_errors_are_those_of_the_script(report: Report):
    squares, log_squares, variances, relative, square_relative = [], [], [], [], []
    for number, score in enumerate(maps_of("test")):
        _, depth = scene(nyu_pairs.FIRST["test"] + number, 480, 640)
        z = (score - score.mean()) / score.std(ddof=1) * 0.6148231626 + 2.8424594402
        if (z < 0).any():
            z[z < 0] = z[z > 0].min() + 0.00001
        # Rows and columns 16 … length - 16, counted from 1. Sky has no depth in the file.
        z, g = z[15:464, 15:624], depth[15:464, 15:624].astype(float)
        z, g = z[np.isfinite(g)], g[np.isfinite(g)]
        squares.append(np.mean((g - z) ** 2))
        log_squares.append(np.mean((np.log(g) - np.log(z)) ** 2))
        variances.append(np.var(np.log(z) - np.log(g)))
        relative.append(np.mean(np.abs(z - g) / g))
        square_relative.append(np.mean((z - g) ** 2 / g))
    expected = {
        "rms": math.sqrt(np.mean(squares)),
        "log rms": math.sqrt(np.mean(log_squares)),
        "log rms s.inv": math.sqrt(np.mean(variances)),
        "abs rel": np.mean(relative),
        "sq rel": np.mean(square_relative),
    }
    for name, value in expected.items():
        found = report.rows[0].values[name]
        assert isinstance(found, Estimate)
        np.testing.assert_allclose(found.value, value, rtol=1e-6, err_msg=name)


def test_without_depth_files_there_are_no_metric_errors(tmp_path: pathlib.Path):
    nyu_pairs.write(tmp_path, count=1, depth_files=False)
    report = PROTOCOLS.create("nyu")(predict, str(tmp_path), num_images=0, progress=lambda *_: None)
    assert tuple(report.measures) == nyu.WKDR
    assert any("left out" in note for note in report.notes)


def test_an_image_without_equal_pairs_does_not_poison_the_mean():
    difference = np.array([0.5, -0.5, 0.05, 2.0, -3.0])
    relation = np.array([1, 1, 0, 1, -1], np.int8)
    pairs = Pairs(difference, relation, np.array([3, 2]))
    all_pairs, equal, unequal = shares(pairs, 0.1, per_image=True)
    assert all_pairs.rate == (1 / 3 + 0) / 2
    assert equal.rate == 0
    assert unequal.rate == (1 / 2 + 0) / 2
    assert shares(pairs, 0.01, per_image=True)[1].rate == 1


def test_an_image_without_any_pair_is_left_out():
    pairs = Pairs(np.array([1.0]), np.array([-1], np.int8), np.array([0, 1]))
    assert shares(pairs, 0.1, per_image=True)[0].rate == 1
    assert math.isnan(shares(pairs, 0.1, per_image=True)[1].rate)


def test_of_equally_good_thresholds_the_first_is_taken():
    pairs = Pairs(np.array([0.0, 5.0]), np.array([0, 1], np.int8), np.array([2]))
    assert grid_tau(pairs, np.array([0.2, 0.3]), per_image=True) == 0.2


def test_scores_of_another_scale_are_reported(root: pathlib.Path):
    tiny = PROTOCOLS.create("nyu")(
        lambda image: predict(image) * 1e-4, str(root), num_images=1, progress=lambda *_: None
    )
    assert any("grid ends at tau" in note for note in tiny.notes)
