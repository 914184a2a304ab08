"""WHDR of DIW: one data set on which every reading gives another number, and ours is official."""

import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.evaluation.protocols.report import Estimate, Report
from reldepth_jax.metrics.ordinal import RULE
from reldepth_jax.registry import PROTOCOLS

HEIGHT, WIDTH = 18, 30
SCORES = np.random.default_rng(5).normal(size=(12, 4, 5)).astype(np.float32)
"""What the network says of each image, at its own size: 4x5."""


def draw_pairs() -> list[tuple[int, int, int, int, str]]:
    """Return an annotation for each image as DIW writes it: rows and columns from 1."""
    rng = np.random.default_rng(7)
    pairs = []
    while len(pairs) < len(SCORES):
        y_a, y_b = (int(v) for v in rng.integers(1, HEIGHT + 1, 2))
        x_a, x_b = (int(v) for v in rng.integers(1, WIDTH + 1, 2))
        if (y_a, x_a) != (y_b, x_b):
            pairs.append((y_a, x_a, y_b, x_b, "<>"[int(rng.integers(2))]))
    return pairs


PAIRS = draw_pairs()


def write(root: pathlib.Path, pairs: list = PAIRS) -> None:
    """Write the official layout; the colour of an image is its number."""
    (root / "DIW_test").mkdir(parents=True)
    lines = []
    for number, (y_a, x_a, y_b, x_b, relation) in enumerate(pairs):
        image = Image.new("RGB", (WIDTH, HEIGHT), (20 * number,) * 3)
        image.save(root / f"DIW_test/{number:040x}.thumb", format="JPEG", quality=100)
        lines += [f"./DIW_test/{number:040x}.thumb"]
        lines += [f"{y_a},{x_a},{y_b},{x_b},{relation},{WIDTH},{HEIGHT}"]
    (root / "DIW_test.csv").write_text("\n".join(lines) + "\n")


def predict(image: np.ndarray) -> np.ndarray:
    return SCORES[round(int(image[0, 0, 0]) / 20)]


def interpolate(score: np.ndarray, row: float, column: float) -> float:
    """Bilinear at fractional indices, held at the border."""
    height, width = score.shape
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    top, left = min(int(row), height - 2), min(int(column), width - 2)
    down, right = row - top, column - left
    upper = (1 - right) * score[top, left] + right * score[top, left + 1]
    lower = (1 - right) * score[top + 1, left] + right * score[top + 1, left + 1]
    return float((1 - down) * upper + down * lower)


def at_aligned(score: np.ndarray, y: int, x: int) -> float:
    """Value at the pixel counted from 1 when corners lie on corners."""
    return interpolate(score, (y - 1) * 3 / (HEIGHT - 1), (x - 1) * 4 / (WIDTH - 1))


def at_centres(score: np.ndarray, y: int, x: int) -> float:
    """Value at the pixel counted from 1 when outer edges lie on outer edges."""
    return interpolate(score, (y - 0.5) * 4 / HEIGHT - 0.5, (x - 0.5) * 5 / WIDTH - 0.5)


def error(value, swap: bool = False) -> float:
    wrong = 0
    for score, (y_a, x_a, y_b, x_b, relation) in zip(SCORES, PAIRS, strict=True):
        if swap:
            y_a, x_a, y_b, x_b = x_a, y_a, x_b, y_b
            y_a, y_b = min(y_a, HEIGHT), min(y_b, HEIGHT)
        difference = value(score, y_a, x_a) - value(score, y_b, x_b)
        wrong += not (difference > 0 if relation == ">" else difference < 0)
    return 100 * wrong / len(PAIRS)


def judged(root: pathlib.Path, predict=predict, num_images: int = 0) -> Report:
    protocol = PROTOCOLS.create("diw")
    return protocol(predict, str(root), num_images=num_images, progress=lambda *_: None)


def whdr(report: Report, variant: str) -> float:
    (value,) = (row.values["WHDR %"] for row in report.rows if row.name == variant)
    assert isinstance(value, Estimate)
    return value.value


def test_three_readings_give_three_numbers_and_ours_is_official(tmp_path: pathlib.Path):
    write(tmp_path)
    report = judged(tmp_path)
    expected = [error(at_aligned), error(at_centres), error(at_aligned, swap=True)]
    assert len(set(expected)) == 3, "the data do not tell the readings apart"
    found = [whdr(report, variant) for variant in ("official", "cv2", "axes swapped")]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert report.rows[0].name == "official"


def test_a_tie_is_wrong_but_nearer_in_the_other_reading(tmp_path: pathlib.Path):
    write(tmp_path)
    report = judged(tmp_path, predict=lambda image: np.zeros((4, 5), np.float32))
    nearer = sum(relation == "<" for *_, relation in PAIRS)
    assert 0 < nearer < len(PAIRS)
    assert whdr(report, "official") == whdr(report, "cv2") == 100
    np.testing.assert_allclose(
        whdr(report, "cv2, tie is nearer"), 100 * (1 - nearer / len(PAIRS)), rtol=1e-12
    )


def test_a_tie_is_farther_in_chens_validation(tmp_path: pathlib.Path):
    write(tmp_path)
    report = judged(tmp_path, predict=lambda image: np.zeros((4, 5), np.float32))
    farther = sum(relation == ">" for *_, relation in PAIRS)
    np.testing.assert_allclose(
        whdr(report, "tie is farther"), 100 * (1 - farther / len(PAIRS)), rtol=1e-12
    )


def test_the_location_rule_is_counted_by_hand(tmp_path: pathlib.Path):
    write(tmp_path, [(5, 3, 9, 3, ">"), (9, 3, 5, 3, ">"), (4, 4, 4, 9, "<"), (1, 1, 18, 30, ">")])
    # Upper points are farther: right, wrong, a tie (half), right.
    assert whdr(judged(tmp_path), RULE) == 100 * 1.5 / 4


def test_a_nan_is_wrong_and_spoils_no_other_pair(tmp_path: pathlib.Path):
    write(tmp_path, [(18, 30, 17, 29, ">"), (18, 30, 1, 1, ">")])
    score = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    assert whdr(judged(tmp_path, predict=lambda image: score), "official") == 0
    broken = score.copy()
    broken[0, 0] = np.nan
    assert whdr(judged(tmp_path, predict=lambda image: broken), "official") == 50


def test_the_first_images_can_be_judged_alone(tmp_path: pathlib.Path):
    write(tmp_path)
    report = judged(tmp_path, num_images=3)
    assert "3 pairs" in report.title
    assert any("74441" in note for note in report.notes)


def test_samples_that_are_left_out_are_reported(tmp_path: pathlib.Path):
    write(tmp_path)
    listing = tmp_path / "DIW_test.csv"
    lines = listing.read_text().splitlines()
    lines[3] = f"99,1,2,2,<,{WIDTH},{HEIGHT}"
    listing.write_text("\n".join(lines))
    report = judged(tmp_path)
    assert "11 pairs" in report.title
    assert any("1 samples" in note and "line 4" in note for note in report.notes)


def test_the_interval_covers_the_rate_and_shrinks_with_more_images(tmp_path: pathlib.Path):
    widths = []
    for name, times in (("few", 1), ("many", 20)):
        write(tmp_path / name, PAIRS * times) if times == 1 else write_many(tmp_path / name, times)
        report = judged(tmp_path / name)
        estimate = report.rows[0].values["WHDR %"]
        assert isinstance(estimate, Estimate)
        assert estimate.low <= estimate.value <= estimate.high
        widths.append(estimate.high - estimate.low)
    # Twenty copies of every image: the same rate, an interval about sqrt(20) times narrower.
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(20), rel=0.25)


def write_many(root: pathlib.Path, times: int) -> None:
    write(root)
    listing = root / "DIW_test.csv"
    listing.write_text(listing.read_text() * times)


def test_json_is_plain_and_holds_the_published_numbers(tmp_path: pathlib.Path):
    write(tmp_path)
    plain = judged(tmp_path).to_json()
    published = {row["name"]: row["values"]["WHDR %"] for row in plain["published"]}
    # Xian et al., Table 4; Ranftl et al., Table 11; README of MiDaS; Yucel et al.
    assert published == {
        "location rule (Xian 2018)": 31.37, "Chen 2016, NYU": 31.31, "Xian 2018, NYU": 27.70,
        "Eigen 2015": 25.70, "Chen 2016, DIW": 22.14, "Xian 2018, 1 pair an image": 19.01,
        "Xian 2018, DIW": 14.98, "Chen 2016, NYU + DIW": 14.39, "Xian 2018, ReDWeb": 14.33,
        "MiDaS v2.1 small": 13.44, "MiDaS v2.1": 12.95, "MiDaS ResNet-50, 5 sets": 12.48,
        "MiDaS, 5 sets": 12.46, "Yucel 2021, DIW": 11.56, "Xian 2018, ReDWeb + DIW": 11.37,
        "DPT-Large (MiDaS v3)": 10.82, "MiDaS v3.1 Next-ViT-L": 10.31,
    }  # fmt: skip
    assert plain["ours"][0]["values"]["WHDR %"][0] == pytest.approx(error(at_aligned))
