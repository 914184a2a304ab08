"""Evaluation and prediction through the commands, on stand-ins for networks."""

import dataclasses
import importlib
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.config import Choice, MixedSource, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.data.pipeline import make_source
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation import heldout
from reldepth_jax.inference import networks
from reldepth_jax.metrics import confidence, ordinal
from reldepth_jax.run_dir.saved_config import save_config
from reldepth_jax.run_dir.temperature import load_temperature
from tests.fixtures import folder, kitti
from tests.metrics.test_confidence import ece_by_loop, nll_by_loop

ROOT = pathlib.Path(__file__).parents[2]


class Slope(networks.Model):
    """Scores a synthetic picture by its rows: imperfect, never constant, of a known scale."""

    @classmethod
    def at_step(cls, step, **told):
        provenance = {"step": str(step), **told}
        return cls(ModelConfig(), {}, Preprocessing(size=32), provenance)

    def __call__(self, images):
        rows = np.arange(images.shape[1], dtype=np.float32)[None, :, None]
        colors = np.asarray(images, np.float32).mean(axis=-1)
        return -rows - 0.1 * colors


SETTINGS = config.load(str(ROOT / "configs/smoke.py"))


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Return commands as a function of their name and arguments; the run is of step 8."""
    monkeypatch.setattr(networks, "from_run", lambda *_: Slope.at_step(8))
    monkeypatch.setattr(networks, "load_model", lambda _: Slope.at_step(0))
    (tmp_path / "run").mkdir()
    save_config(tmp_path / "run", SETTINGS)

    def run(name, *arguments):
        main = importlib.import_module(f"reldepth_jax.cli.{name}").main
        with pytest.raises(SystemExit) as stop:
            command.run(lambda: main([*map(str, arguments)]))
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


def test_the_size_of_kitti_stands_beside_its_numbers(script, monkeypatch, tmp_path, capsys):
    wide = Preprocessing(fit="long_side_floor", size=32)
    model = dataclasses.replace(Slope.at_step(8), preprocessing=wide)
    monkeypatch.setattr(networks, "from_run", lambda *_: model)
    kitti.write(tmp_path / "data")
    protocol = ["--dataset", "kitti", "--data-dir", tmp_path / "data"]
    for options, fit in ([], "lower_bound"), (["--config.dataset.shorter_side=false"], wide.fit):
        assert script("evaluate", "--workdir", tmp_path / "run", *protocol, *options) == 0
        told = "images whose shorter side is 32, as for the published" in capsys.readouterr().out
        report = json.loads((tmp_path / "run/eval/kitti.json").read_text())
        assert report["run"]["fit"] == fit
        assert told == any("shorter side" in note for note in report["notes"]) == (not options)


def test_a_split_that_is_not_all_of_a_folder_says_so(script, tmp_path, capsys):
    folder.write(tmp_path / "data")
    own = ["--config.data.source.name=folder", f"--config.data.source.root={tmp_path}/data"]
    assert script("evaluate", "--workdir", tmp_path / "run", *own) == 0
    told = capsys.readouterr().out
    assert "folder: 1 of 10 images: test='90%:100%'; all of them: --config.data.sou" in told
    report = json.loads((tmp_path / "run/eval/test_folder.json").read_text())
    assert report["remarks"]["folder"][0].startswith("1 of 10 images")
    (tmp_path / "data/rgb/10.dng").write_bytes(b"x")
    own.append("--config.data.source.test=:")
    assert script("evaluate", "--workdir", tmp_path / "run", *own) == 0
    told = capsys.readouterr().out
    assert "of 10 images:" not in told
    assert f"folder: {tmp_path}/data/rgb: 1 file left out: 1 .dng" in told
    report = json.loads((tmp_path / "run/eval/test_folder.json").read_text())
    assert len(report["remarks"]["folder"]) == 1
    assert len(report["model"]["whdr"]["total"]) == 4


def photo(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


def test_evaluation_fits_on_validation_and_predict_uses_it(script, tmp_path, capfd, monkeypatch):
    workdir, out = tmp_path / "run", tmp_path / "out"
    arguments = [photo(tmp_path), "--workdir", workdir, "--output", out, "--confidence"]
    assert script("predict", *arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "no temperature for the confidence yet: run `reldepth evaluate`" in line

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
    told = f"from now on: {workdir}/eval/temperature.json (the first {SETTINGS.eval.num_images} val"
    assert told in printed
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
    (entry,) = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
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
    few = ["--num-images", 2, "--config.data.crop=[32, 64]"]
    # As the network does not see photographs, it says nothing of its confidence.
    assert script("evaluate", "--weights", weights, *few, "--config.eval.image_size=64") == 0
    assert script("predict", *arguments) == 2
    assert script("evaluate", "--weights", weights, *few) == 0
    assert script("predict", *arguments) == 0
    facts = json.loads((tmp_path / "net_eval/temperature.json").read_text())
    with Image.open(out / "a_confidence.png") as image:
        assert float(image.info["temperature"]) == facts["temperature"]


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "x", "step": 1}'])
def test_a_damaged_temperature_is_one_clear_line(tmp_path, content):
    path = tmp_path / "temperature.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"cannot be read: run `reldepth evaluate`.*temperature\.j"):
        load_temperature(path, 1, 32)
    path.write_text('{"temperature": -1, "step": 1, "image_size": 32}')
    with pytest.raises(UserError, match="not a number above 0"):
        load_temperature(path, 1, 32)
    path.write_text('{"temperature": 2, "step": 1, "image_size": 64}')
    with pytest.raises(UserError, match="is of images of size 64, the network sees 32: run"):
        load_temperature(path, 1, 32)
    assert load_temperature(path, 1, 64) == 2


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
    assert script("evaluate", "--workdir", workdir, "--config.eval.image_size=64") == 0
    assert (workdir / "eval/temperature.json").read_bytes() == fitted
    only = json.loads((workdir / "eval/test_synthetic.json").read_text())
    assert len(only["sources"]) == 1
    assert only["left_out"] == []
