"""The network that comes with the package: there, small, what its preset says, and of use."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import reldepth_jax
from reldepth_jax import config
from reldepth_jax.cli import predict
from reldepth_jax.evaluation.ablation import grid
from reldepth_jax.public_files import SHIPPED
from reldepth_jax.weights import by_name, file, presets


def test_the_file_is_what_its_preset_says_and_fits_into_a_wheel():
    preset, public = presets.published(SHIPPED)
    (path,) = pathlib.Path("reldepth_jax/weights/shipped").iterdir()
    assert path.name == public.file
    assert path.stat().st_size <= 12e6
    weights = by_name.load(SHIPPED)
    assert (weights.model, weights.preprocessing) == (preset.model, preset.preprocessing)
    assert weights.provenance["licence"] == preset.licence
    assert "research" in preset.licence


def test_students_are_told_the_temperature_of_their_teacher():
    temperature = by_name.load(SHIPPED).temperature
    assert temperature is not None
    student = config.load("configs/distil.py").data.source
    arm = grid.load("configs/ablation_distil.py").arms["distillation"]["targets"]
    for source in (student, *(mixed.source for mixed in arm.data.mix)):
        assert source.options["temperature"] == round(temperature, 3)


def test_it_says_how_sure_it_is_as_the_model_card_states(tmp_path: pathlib.Path):
    temperature = reldepth_jax.load_model().temperature
    assert temperature is not None
    card = pathlib.Path("docs/model_card.md").read_text(encoding="utf-8")
    assert f"--temperature {temperature}" in card
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert (
        predict.main([str(tmp_path / "photo.png"), "--confidence", f"--output={tmp_path}/o"]) == 0
    )
    with Image.open(tmp_path / "o/photo_confidence.png") as image:
        assert image.info["temperature"] == str(temperature)


def test_a_photograph_needs_no_other_word_and_no_network(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RELDEPTH_OFFLINE", "1")
    monkeypatch.setenv("RELDEPTH_CACHE", os.fspath(tmp_path / "nothing"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    output = tmp_path / "out"
    assert predict.main([os.fspath(tmp_path / "photo.png"), "--npy", f"--output={output}"]) == 0
    written = np.load(output / "photo.npy")
    np.testing.assert_array_equal(written, reldepth_jax.load_model().predict(pixels))


def test_it_orders_a_photograph_that_it_never_saw_better_than_the_rule():
    skimage = pytest.importorskip("skimage.data")  # extra `photo`, part of `test`
    left, _, disparity = skimage.stereo_motorcycle()
    score = reldepth_jax.load_model().predict(left)
    # 1 / (disparity + doffs) is depth but for its unit: doffs of this picture is 31.086.
    rows, columns = np.nonzero(np.isfinite(disparity) & (disparity > 0))
    first, second = np.random.default_rng(0).integers(len(rows), size=(2, 20_000))
    nearness = disparity[rows, columns] + 31.086
    ratio = nearness[second] / nearness[first]  # above 1: the first is farther
    farther = np.where(ratio > 1.1, 1, np.where(ratio < 1 / 1.1, -1, 0))
    seen = score[rows, columns]
    higher = np.sign(seen[first] - seen[second])
    rule = np.sign(rows[second] - rows[first])
    counted = farther != 0
    error, baseline = ((sign != farther)[counted].mean() for sign in (higher, rule))
    print(f"misordered: {error:.1%}, lower is nearer: {baseline:.1%}")
    assert error < baseline


def test_half_precision_keeps_three_digits_and_refuses_what_it_cannot_hold(tmp_path: pathlib.Path):
    weights = by_name.load(SHIPPED)
    rng = np.random.default_rng(0)
    arrays = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in weights.arrays.items()}
    arrays = {k: np.abs(v) if k.endswith("running_var") else v for k, v in arrays.items()}
    path = tmp_path / "half.safetensors"
    file.write(path, dataclasses.replace(weights, arrays=arrays), half=True)
    held = file.read(path).arrays
    for key, array in arrays.items():
        np.testing.assert_allclose(held[key], array, rtol=2**-11, atol=2**-25)
    before = path.read_bytes()
    arrays["head.conv1.bias"][0] = 1e6
    with pytest.raises(file.WeightsError, match=r"float16 cannot hold head\.conv1\.bias"):
        file.write(path, dataclasses.replace(weights, arrays=arrays), half=True)
    assert path.read_bytes() == before
