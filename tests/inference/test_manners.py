"""The package changes nothing in a process that uses it; models go where the user sends them."""

import concurrent.futures
import copy
import dataclasses
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import files, networks
from reldepth_jax.inference.predictor import Predictor
from tests.weights.test_weights import network

IMAGE = np.random.default_rng(2).integers(0, 256, (40, 70, 3), np.uint8)

PROGRAM = """
    import logging, os, random, signal, sys, warnings
    import jax, numpy, PIL.Image, PIL.ImageFile, PIL.PngImagePlugin

    jax.devices()

    def state():
        return {
            "environment": dict(os.environ),
            "warnings": list(warnings.filters),
            "limits": (
                PIL.Image.MAX_IMAGE_PIXELS,
                PIL.ImageFile.LOAD_TRUNCATED_IMAGES,
                PIL.PngImagePlugin.MAX_TEXT_CHUNK,
            ),
            "logging": (logging.root.level, list(logging.root.handlers)),
            "Pillow's": logging.getLogger("PIL").level,
            "jax": dict(jax.config.values),
            "numpy": numpy.geterr(),
            "signals": [signal.getsignal(each) for each in range(1, 32)],
            "python": (sys.excepthook, sys.getrecursionlimit(), sys.stdout, list(sys.path)),
            "folder": os.getcwd(),
        }

    before = state()
    import reldepth_jax
    model = reldepth_jax.load_model(sys.argv[1])
    from reldepth_jax.data.images import io
    image = io.read_image(sys.argv[2])
    after = state()
    for name, value in before.items():
        assert value == after[name], (name, value, after[name])
    drawn = random.getstate(), str(numpy.random.get_state())
    model.predict(image)
    assert drawn == (random.getstate(), str(numpy.random.get_state())), "random numbers"
    # A picture above Pillow's limit is what it is without us: a warning.
    with warnings.catch_warnings(record=True) as told:
        PIL.Image.open(sys.argv[3])
    assert [each.category.__name__ for each in told] == ["DecompressionBombWarning"]
"""


def test_importing_loading_and_reading_change_nothing_in_the_process(tmp_path: pathlib.Path):
    # In a process of its own: this one has imported all long ago.
    config = ModelConfig(encoder=Choice("efficientnet_lite0"), decoder_width=8)
    networks.save_model(network(config), tmp_path / "model.safetensors")
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    Image.fromarray(IMAGE).save(tmp_path / "photo.jpg")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    arguments = ("program.py", "model.safetensors", "photo.jpg", "large.png")
    command = [sys.executable, *(tmp_path / name for name in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout + ended.stderr == ""


def test_loading_a_run_leaves_the_root_logger_alone(monkeypatch):
    def load_run(workdir: str, step: int | None):
        logging.basicConfig()  # as absl does when Orbax logs
        raise ValueError(len(logging.root.handlers))

    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr("reldepth_jax.weights.from_run.load_run", load_run)
    with pytest.raises(ValueError, match="1"):
        networks.from_run("anywhere")
    assert logging.root.handlers == []


@pytest.fixture(scope="module")
def expected(tiny: networks.Model) -> np.ndarray:
    return tiny.predict(IMAGE)


@pytest.fixture(scope="module", name="tiny")
def model(strides_encoder: None) -> networks.Model:
    return network()


@pytest.mark.parametrize(("used", "fast"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    "send", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy, copy.copy]
)
def test_models_are_sent_to_processes_and_copied(tiny, expected, send, used, fast):
    made = dataclasses.replace(tiny, fast=fast)
    if used:
        made.predict(IMAGE)
        made.predictor(64)(IMAGE)
    sent = send(made)
    np.testing.assert_allclose(sent.predict(IMAGE), expected, atol=1e-4)
    assert (sent.digest, sent.larger_is, sent.fast) == (made.digest, made.larger_is, fast)
    np.testing.assert_array_equal(send(made.predictor())(IMAGE), made.predictor()(IMAGE))


def test_threads_share_a_model(tiny: networks.Model):
    fresh = pickle.loads(pickle.dumps(tiny))
    images = [IMAGE[:, number : 20 * (1 + number % 2) + number] for number in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        got = list(threads.map(fresh.predict, images))
    for image, score in zip(images, got, strict=True):
        np.testing.assert_array_equal(score, tiny.predict(image))


def test_a_network_is_kept_compiled_for_a_limited_number_of_shapes(tiny, expected, monkeypatch):
    monkeypatch.setattr(networks, "MOST_SHAPES", 2)
    compiled, cleared = [], []

    def program(values, images):
        compiled.append(images.shape[1])
        return lambda values, images: values + jnp.full((), images.shape[1])

    forward = networks._bounded(program, lambda: cleared.append(len(compiled)))
    for width in (1, 2, 1, 2, 3, 3, 1, 2):
        assert forward(jnp.full((), 0.5), jnp.zeros((1, width, 1, 3))) == width + 0.5
    assert compiled == [1, 2, 3, 1, 2]
    assert cleared == [2, 4]
    monkeypatch.setattr(networks, "MOST_SHAPES", 1)
    for width in (70, 35, 70):
        score = tiny.predict(IMAGE[:, :width])
    np.testing.assert_array_equal(score, expected)


def test_photographs_of_forty_sizes_compile_seventeen_programs_at_most(tmp_path, tiny):
    """With a function in place of the network, whose programs XLA compiles sooner."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, longer in enumerate(np.geomspace(1, 4.4, 20)):
        sides = 60, round(60 * longer)
        for turned in (0, 1):
            image = rng.integers(0, 256, (*sides[:: 1 - 2 * turned], 3), np.uint8)
            Image.fromarray(image).save(folder / f"{number:02}_{turned}.png")
    found: dict[bool, list[np.ndarray]] = {}
    preprocessing = Preprocessing(fit="lower_bound", size=160)
    model = dataclasses.replace(tiny, preprocessing=preprocessing)
    for standard in (True, False):
        compiled = jax.jit(lambda images: images.mean(axis=-1))
        predictor = dataclasses.replace(model.predictor(standard_shapes=standard), network=compiled)
        writer = files.Writer(output=tmp_path / f"out_{standard}", npy=True)
        assert files.predict_files(predictor, [folder], writer).done == 40
        found[standard] = [np.load(path) for path in sorted(writer.output.glob("*.npy"))]
        assert cast(Any, compiled)._cache_size() == (17 if standard else 31)
    assert [each.shape for each in found[True]] == [each.shape for each in found[False]]


def test_many_shapes_are_told_once_with_the_way_out(tmp_path, capsys):
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (128 + 32 * number, 128)).save(folder / f"{number:02}.png")
    for shapes in ("standard", "own"):
        preprocessing = Preprocessing(fit="lower_bound", size=128, shapes=shapes)
        predictor = Predictor(lambda images: images[..., 0].astype(np.float32), preprocessing)
        writer = files.Writer(output=tmp_path / shapes)
        assert files.predict_files(predictor, [folder], writer).done == 12
        told = capsys.readouterr().err
        assert told.count("--standard-shapes") == (shapes == "own")
    assert told.startswith("8 shapes of images so far")


def test_predicting_leaves_the_given_array_alone(tiny, expected):
    image = IMAGE.copy()
    image.flags.writeable = False
    depth = tiny.predict(image)
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(depth, expected)


@pytest.mark.parametrize("size", [(40, 70), (64, 64)])
def test_the_map_belongs_to_the_user(tiny, size):
    image = np.zeros((*size, 3), np.uint8)
    first = tiny.predict(image)
    kept = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(tiny.predict(image), kept)


@pytest.mark.parametrize(
    "settings",
    [
        lambda: jax.enable_x64(True),
        lambda: jax.numpy_dtype_promotion("strict"),
        lambda: jax.transfer_guard("disallow"),
        lambda: jax.debug_nans(True),
    ],
    ids=["x64", "promotion", "transfers", "nans"],
)
def test_models_work_under_the_users_settings_of_jax(tiny, expected, settings):
    with settings():
        depth = tiny.predict(IMAGE)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, expected, atol=1e-6)


def test_folder_and_file_may_change_after_loading(tmp_path, strides_encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    networks.save_model(network(), "model.safetensors")
    model = networks.load_model("model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"overwritten")
    monkeypatch.chdir("/")
    assert np.isfinite(model.predict(IMAGE)).all()


def test_an_interrupted_prediction_leaves_a_model_that_works(tiny, expected, monkeypatch):
    def interrupt(*_: object):
        raise KeyboardInterrupt

    model = pickle.loads(pickle.dumps(tiny))
    with monkeypatch.context() as patch:
        patch.setattr(networks, "_compiled", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.predict(IMAGE)
    np.testing.assert_array_equal(model.predict(IMAGE), expected)
