"""Ordinal confidence against loops, a grid search and samples that are calibrated by construction.

The scripts are run on stand-ins for networks.
"""

import dataclasses
import importlib.util
import json
import math
import pathlib
import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.config import Choice, MixedSource, ModelConfig
from reldepth_jax.data.images import pictures
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.data.pipeline import make_source
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation import heldout
from reldepth_jax.inference import networks
from reldepth_jax.metrics import confidence, ordinal
from reldepth_jax.metrics.confidence import Calibration
from reldepth_jax.run_dir.saved_config import save_config

ROOT = pathlib.Path(__file__).parents[2]


def logistic(temperature, n=20_000) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose first point is farther with probability sigmoid(difference / temperature)."""
    rng = np.random.default_rng(0)
    difference = rng.normal(size=n)
    farther = rng.random(n) < 1 / (1 + np.exp(-difference / temperature))
    return difference, np.where(farther, 1, -1).astype(np.int8)


def with_oddities(seed, n=700) -> tuple[np.ndarray, np.ndarray]:
    """Differences with ties and NaN, equal pairs among the others, few distinct values."""
    rng = np.random.default_rng(seed)
    difference = rng.integers(-12, 13, n) / 4
    difference[rng.random(n) < 0.05] = np.nan
    relation = np.where(rng.random(n) < 0.3, -np.sign(difference), np.sign(difference))
    relation = np.nan_to_num(relation).astype(np.int8)
    relation[difference == 0] = rng.integers(-1, 2, np.count_nonzero(difference == 0))
    relation[np.isnan(difference)] = 1
    return difference, relation


def nll_by_loop(difference, relation, temperature):
    total, count = 0.0, 0
    for d, truth in zip(difference, relation, strict=True):
        if truth:
            z = 0.0 if math.isnan(d) else d * truth / temperature
            total += math.log1p(math.exp(-z)) if z > -30 else -z
            count += 1
    return total / count


# --- the temperature


@pytest.mark.parametrize("pairs", [logistic(0.3, 1500), with_oddities(1)])
def test_the_temperature_is_where_a_grid_search_finds_the_least_likelihood(pairs):
    difference, relation = pairs
    used = (relation != 0) & ~np.isnan(difference)
    margin = difference[used] * relation[used]
    grid = np.geomspace(1e-3, 1e3, 40_001)
    losses = [np.logaddexp(0, -margin / t).mean() for t in grid]
    expected = grid[np.argmin(losses)]
    assert 0.01 < expected < 100
    step = math.log(grid[1] / grid[0])
    got = confidence.fit_temperature(difference, relation)
    assert abs(math.log(got / expected)) <= step


def test_the_temperature_that_made_the_pairs_is_found():
    for truth in (0.2, 3.0):
        assert confidence.fit_temperature(*logistic(truth)) == pytest.approx(truth, rel=0.08)


@pytest.mark.parametrize("factor", [1e-12, 0.01, 7.0, 1e9])
def test_scores_times_a_factor_give_the_temperature_times_the_factor(factor):
    difference, relation = logistic(0.5, 500)
    unscaled = confidence.fit_temperature(difference, relation)
    scaled = confidence.fit_temperature(factor * difference, relation)
    assert scaled == pytest.approx(factor * unscaled, rel=1e-9)
    one = Calibration.of_pairs(difference, relation, unscaled)
    other = Calibration.of_pairs(factor * difference, relation, scaled)
    assert other.nll[1] == pytest.approx(one.nll[1], rel=1e-9)
    assert other.bins[1].ece == pytest.approx(one.bins[1].ece, abs=1e-9)


def test_scores_without_an_optimum_end_at_the_bounds():
    difference, _ = logistic(1.0, 100)
    order = np.sign(difference).astype(np.int8)
    mean = np.abs(difference).mean()
    assert confidence.fit_temperature(difference, order) == pytest.approx(mean / 1e3)
    assert confidence.fit_temperature(difference, -order) == pytest.approx(mean * 1e3)
    for nothing in (0 * difference, np.full(100, np.nan), np.zeros(0)):
        assert confidence.fit_temperature(nothing, order[: len(nothing)]) == 1
    assert confidence.fit_temperature(difference, 0 * order) == 1


def test_which_point_is_called_first_does_not_matter():
    difference, relation = logistic(0.5, 500)
    swap = np.where(np.random.default_rng(4).random(500) < 0.5, -1, 1).astype(np.int8)
    a = Calibration.of_pairs(difference, relation, 0.4)
    b = Calibration.of_pairs(swap * difference, swap * relation, 0.4)
    assert a.nll == pytest.approx(b.nll, rel=1e-12)
    assert a.bins[1].ece == pytest.approx(b.bins[1].ece, rel=1e-12)
    fits = [confidence.fit_temperature(s * difference, s * relation) for s in (1, swap)]
    assert fits[0] == pytest.approx(fits[1], rel=1e-12)


def test_likelihood_agrees_with_a_loop_and_does_not_overflow():
    for temperature in (0.01, 1.0, 50.0):
        pairs = with_oddities(2)
        got = confidence.negative_log_likelihood(*pairs, temperature)
        assert got == pytest.approx(nll_by_loop(*pairs, temperature), rel=1e-12)
    huge = np.array([1e300, -1e300, np.inf])
    assert confidence.negative_log_likelihood(huge, np.array([1, -1, 1], np.int8), 1e-300) == 0
    assert confidence.negative_log_likelihood(huge, np.array([1, -1, -1], np.int8), 1.0) == math.inf
    assert math.isnan(confidence.negative_log_likelihood(huge, np.zeros(3, np.int8), 1.0))


# --- calibration


def ece_by_loop(difference, relation, temperature, bins):
    """Bins start at equally spaced ranks, moved back to the first pair of the same confidence."""
    rows = []
    for d, truth in zip(difference, relation, strict=True):
        if truth:
            said = 0.5 if math.isnan(d) else 1 / (1 + math.exp(-abs(d) / temperature))
            right = 0.5 if d == 0 else float((d > 0) == (truth > 0) and not math.isnan(d))
            rows.append((said, right))
    rows.sort(key=lambda row: row[0])
    n = len(rows)
    starts = set()
    for k in range(bins):
        start = k * n // bins
        while start and rows[start - 1][0] == rows[start][0]:
            start -= 1
        starts.add(start)
    edges = [*sorted(starts), n]
    total = 0.0
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        said, right = (sum(column) / (high - low) for column in zip(*rows[low:high], strict=True))
        total += (high - low) / n * abs(said - right)
    return total, [high - low for low, high in zip(edges[:-1], edges[1:], strict=True)]


@pytest.mark.parametrize("pairs", [logistic(0.3, 700), with_oddities(3)])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_error_agrees_with_a_loop(pairs, bins):
    difference, relation = pairs
    got = confidence.reliability(difference, relation, 0.7, bins=bins)
    error, counts = ece_by_loop(difference, relation, 0.7, bins)
    assert got.ece == pytest.approx(error, rel=1e-9)
    assert got.count.tolist() == counts
    assert (np.diff(got.confidence) > 0).all()
    shuffled = np.random.default_rng(0).permutation(len(difference))
    again = confidence.reliability(difference[shuffled], relation[shuffled], 0.7, bins=bins)
    assert again.ece == pytest.approx(error, rel=1e-9)


def test_bins_hold_equally_many_pairs():
    counts = confidence.reliability(*logistic(1.0, 1503), 1.0).count
    assert len(counts) == 15
    assert set(counts) == {100, 101}


def test_a_sample_made_by_the_model_is_calibrated_and_another_temperature_is_not():
    pairs = logistic(0.5, 40_000)
    # 15 bins of 2667 pairs: the standard error of a share is below 0.01.
    assert confidence.reliability(*pairs, 0.5).ece < 0.012
    assert confidence.reliability(*pairs, 0.1).ece > 0.1
    assert confidence.reliability(*pairs, 3.0).ece > 0.1
    fitted = Calibration.of_pairs(*pairs, confidence.fit_temperature(*pairs))
    assert fitted.nll[1] < fitted.nll[0]
    assert fitted.bins[1].ece < fitted.bins[0].ece


def test_a_coin_is_calibrated_and_a_missing_score_is_wrong():
    relation = np.array([1, -1, 1, 0], np.int8)
    coin = confidence.reliability(np.zeros(4), relation, 1.0)
    assert (coin.count.tolist(), coin.confidence.tolist(), coin.ece) == ([3], [0.5], 0)
    assert confidence.reliability(np.full(4, np.nan), relation, 1.0).ece == 0.5
    assert math.isnan(confidence.reliability(np.zeros(4), 0 * relation, 1.0).ece)


def test_the_report_is_plain_json_also_without_numbers():
    facts = Calibration.of_pairs(np.array([np.inf]), np.array([-1], np.int8), 2.0).to_json()
    assert facts["after"]["nll"] is None
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    nothing = Calibration.of_pairs(np.zeros(0), np.zeros(0, np.int8), 1.0).to_json()
    assert nothing["before"]["ece"] is None
    facts = Calibration.of_pairs(np.array([2.0, -1.0]), np.array([1, 1], np.int8), 2.0).to_json()
    assert (facts["before"]["temperature"], facts["after"]["temperature"]) == (1.0, 2.0)
    assert facts["after"]["bins"]["count"] == [1, 1]
    assert facts["after"]["bins"]["accuracy"] == [0, 1]


def test_the_diagram_has_its_points_where_they_belong():
    points = np.array([0.75, 1.0]), np.array([0.25, 0.875])
    picture = pictures.reliability_diagram({"one": (np.zeros(0), np.zeros(0)), "two": points})
    crimson = (picture == (220, 20, 60)).all(axis=-1)
    # 320 pixels to the right for 0.5 to 1 and upwards for 0 to 1, 40 around.
    assert crimson[40 + 240, 40 + 160]
    assert crimson[40 + 40, 40 + 320]
    assert not crimson[: 40 + 200, : 40 + 300].any()


# --- the map


@pytest.mark.parametrize("size", [(19, 33), (5, 3), (1, 1), (150, 170)])
def test_the_map_agrees_with_a_loop_over_partners(size):
    score = np.random.default_rng(0).normal(size=size).astype(np.float32)
    height, width = size
    rows = sorted({int((k + 0.5) * height / 8) for k in range(8)})
    columns = sorted({int((k + 0.5) * width / 8) for k in range(8)})
    expected = np.zeros(size)
    for row in rows:
        for column in columns:
            p = 1 / (1 + np.exp(-(score.astype(np.float64) - score[row, column]) / 0.4))
            expected += np.maximum(p, 1 - p)
    got = confidence.confidence_map(score, 0.4)
    assert got.shape == size
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected / len(rows) / len(columns), atol=1e-6)


def test_a_constant_score_is_a_coin_everywhere():
    for temperature in (1e-300, 0.1, 1e300):
        score = np.full((20, 30), 3e38, np.float32)
        assert (confidence.confidence_map(score, temperature) == 0.5).all()


def test_extreme_temperatures_are_sure_or_unsure_without_a_warning():
    score = np.linspace(-3e38, 3e38, 400, dtype=np.float32).reshape(20, 20)
    sure = confidence.confidence_map(score, 1e-300)
    assert sure.min() >= 1 - 0.5 / 64
    assert (confidence.confidence_map(score / np.float32(1e38), 1e300) == 0.5).all()


# --- evaluation and the scripts


class Slope(networks.Model):
    """Scores a synthetic picture by its rows: imperfect, never constant, of a known scale."""

    @classmethod
    def at_step(cls, step, **told):
        provenance = {"step": str(step), **told}
        parts = nnx.State({}), nnx.State({})
        return cls(ModelConfig(), *parts, Preprocessing(size=32), provenance)

    def __call__(self, images):
        rows = np.arange(images.shape[1], dtype=np.float32)[None, :, None]
        colors = np.asarray(images, np.float32).mean(axis=-1)
        return -rows - 0.1 * colors


SETTINGS = config.load(str(ROOT / "configs/smoke.py"))


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"scripts/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Return scripts as a function of their name and arguments; the run is of step 8."""
    monkeypatch.setattr(networks, "from_run", lambda *_: Slope.at_step(8))
    monkeypatch.setattr(networks, "load_model", lambda _: Slope.at_step(0))
    (tmp_path / "run").mkdir()
    save_config(tmp_path / "run", SETTINGS)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            command.run(load_script(name).main)
        return stop.value.code

    return run


def pairs_of(split) -> tuple[np.ndarray, np.ndarray]:
    """Return differences of `Slope` and relations over a split, by a loop over its pairs."""
    predictor, source = Slope.at_step(8).predictor(32), make_source(SETTINGS, split)
    differences, relations = [], []
    for index in range(4):
        sample = source[index]
        score, depth = predictor(sample["image"]).ravel().tolist(), sample["depth"].ravel().tolist()
        drawn = ordinal.heldout_pairs(sample["mask"], seed=0, index=index, count=100)
        for i, j in zip(*(each.tolist() for each in drawn), strict=True):
            near, far = sorted((depth[i], depth[j]))
            unequal = near != far and far > 1.02 * near
            relations.append(0 if not unequal else 1 if depth[i] > depth[j] else -1)
            differences.append(score[i] - score[j])
    return np.array(differences), np.array(relations, np.int8)


def photo(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def test_evaluation_fits_on_validation_and_predict_uses_it(script, tmp_path, capfd, monkeypatch):
    workdir, out = tmp_path / "run", tmp_path / "out"
    arguments = [photo(tmp_path), "--workdir", workdir, "--output", out, "--confidence"]
    assert script("predict", *arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "no temperature for the confidence yet: run scripts/evaluate.py" in line

    assert script("evaluate", "--workdir", workdir) == 0
    printed = " ".join(capfd.readouterr().out.split())
    report = json.loads((workdir / "eval/test.json").read_text())
    facts = json.loads((workdir / "eval/temperature.json").read_text())
    model = report["confidence"]["model"]
    assert facts["temperature"] == model["temperature"] > 0
    assert facts["step"] == 8
    # Fitted on validation pairs: there the likelihood is stationary in 1/T.
    difference, relation = pairs_of("val")
    margin = difference * relation
    pull = margin / (1 + np.exp(margin / facts["temperature"]))
    assert abs(pull.sum()) < 1e-6 * np.abs(pull).sum()
    # Measured on test pairs.
    for side, temperature in (("before", 1.0), ("after", facts["temperature"])):
        expected = nll_by_loop(*pairs_of("test"), temperature)
        assert model[side]["nll"] == pytest.approx(expected, rel=1e-9)
        expected, _ = ece_by_loop(*pairs_of("test"), temperature, 15)
        assert model[side]["ece"] == pytest.approx(expected, rel=1e-9)
    assert f"T {model['temperature']:.4g} fitted on validation images" in printed
    for side in ("before", "after"):
        assert f"{100 * model[side]['ece']:.1f} %" in printed
        assert f"{model[side]['nll']:.3f}" in printed
    unequal = sum(report["model"]["whdr"]["total"])
    assert sum(model["after"]["bins"]["count"]) == unequal
    assert (workdir / "eval/test_reliability.png").stat().st_size > 500

    assert script("predict", *arguments, "--npy", "--polarity", "disparity") == 0
    score = -np.load(out / "a.npy")
    with Image.open(out / "a_confidence.png") as image:
        assert image.mode == "L"
        gray, told = np.asarray(image).astype(float), image.info
    expected = confidence.confidence_map(score, facts["temperature"])
    np.testing.assert_allclose(gray / 510 + 0.5, expected, atol=0.001)
    assert np.ptp(gray) > 5
    assert float(told["temperature"]) == facts["temperature"]
    assert "gray 0 to 255 is 0.5 to 1" in told["confidence"]
    (entry,) = json.loads((out / "predictions.json").read_text())["predictions"]
    assert "a_confidence.png" in entry["outputs"]

    monkeypatch.setattr(networks, "from_run", lambda *_: Slope.at_step(9))
    capfd.readouterr()
    assert script("predict", *arguments) == 2
    assert "is of step 8, the network of step 9" in capfd.readouterr().err
    assert script("predict", *arguments, "--temperature", "2.5") == 0
    with Image.open(out / "a_confidence.png") as image:
        assert image.info["temperature"] == "2.5"


def test_a_file_of_weights_takes_the_temperature_that_lies_beside_it(script, tmp_path, capfd):
    weights, out = tmp_path / "net.safetensors", tmp_path / "out"
    arguments = [photo(tmp_path), "--weights", weights, "--output", out, "--confidence"]
    assert script("predict", *arguments) == 2
    assert "net_eval/temperature.json" in capfd.readouterr().err
    few = ["--num-images", 2, "--config.eval.image_size=64", "--config.data.crop=[32, 64]"]
    assert script("evaluate", "--weights", weights, *few) == 0
    assert script("predict", *arguments) == 0
    facts = json.loads((tmp_path / "net_eval/temperature.json").read_text())
    with Image.open(out / "a_confidence.png") as image:
        assert float(image.info["temperature"]) == facts["temperature"]


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "x", "step": 1}'])
def test_a_damaged_temperature_is_one_clear_line(tmp_path, content):
    path = tmp_path / "temperature.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"cannot be read: run scripts/evaluate.py.*temperature\.j"):
        confidence.load_temperature(path, 1)
    path.write_text('{"temperature": -1, "step": 1}')
    with pytest.raises(UserError, match="not a number above 0"):
        confidence.load_temperature(path, 1)


def test_every_source_of_a_mixture_is_reported_by_itself(script, tmp_path, capfd):
    workdir = tmp_path / "run"
    mix = (
        MixedSource(source=Choice("synthetic", outdoor=1.0), share=0.3),
        MixedSource(source=Choice("redweb", root=str(tmp_path)), share=0.2),
    )
    data = dataclasses.replace(SETTINGS.data, mix=mix)
    save_config(workdir, dataclasses.replace(SETTINGS, data=data))
    assert script("evaluate", "--workdir", workdir) == 0
    printed = capfd.readouterr().out
    report = json.loads((workdir / "eval/test.json").read_text())
    own, other = report["sources"]
    assert [each["name"] for each in (own, other)] == ["synthetic", "synthetic 2"]
    assert other["source"]["outdoor"] == 1.0 != own["source"]["outdoor"]
    for key in ("model", "rule", "confidence", "protocol"):
        assert own[key] == report[key]
    for name in ("model", "rule"):
        assert other[name]["whdr"]["total"] != own[name]["whdr"]["total"]
    settings = dataclasses.replace(SETTINGS, data=dataclasses.replace(data, source=mix[0].source))
    alone = heldout.evaluate(
        Slope.at_step(8).predictor(32), make_source(settings, "test"), settings.eval
    )
    assert other["model"]["same_row"]["wrong"] == alone.model["same_row"].wrong.tolist()
    assert [each["source"]["name"] for each in report["left_out"]] == ["redweb"]
    assert "left out: redweb: redweb has no test split" in " ".join(printed.split())
    assert printed.count("lower is nearer") >= 2
    block = printed[printed.index("synthetic 2") :]
    assert "4 images" in block.splitlines()[1]
    rate = other["model"]["whdr"]["rate"]
    assert f"{100 * rate:.1f} %" in block.splitlines()[0]

    fitted = (workdir / "eval/temperature.json").read_bytes()
    assert script("evaluate", "--workdir", workdir, "--config.data.source.outdoor=0.0") == 0
    assert (workdir / "eval/temperature.json").read_bytes() == fitted
    only = json.loads((workdir / "eval/test_synthetic.json").read_text())
    assert len(only["sources"]) == 1
    assert only["left_out"] == []
