"""The pipeline keeps the contract of transformers' one, and two points are put in order."""

import functools
import math
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from PIL import Image

import reldepth_jax
from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.inference.networks import Model
from tests.cli.test_commands import run
from tests.fixtures import server
from tests.weights.test_weights import network

RNG = np.random.default_rng(11)


class Brightness(Model):
    """Instead of a network: the mean of red, green and blue in 0..1, and the calls of it."""

    @functools.cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        return []

    def __call__(self, images: Any) -> Any:
        assert images.dtype == np.uint8
        self.shapes.append(images.shape)
        return jnp.asarray(images, jnp.float32).mean(axis=3) / 255


def brightness(*, temperature: float | None = None, **config: Any) -> Brightness:
    made = network(ModelConfig(encoder=Choice("efficientnet_lite0"), decoder_width=8, **config))
    small = Preprocessing(fit="short_side", size=32)
    facts = (made.config, made.variables, small, {})
    return Brightness(*facts, temperature=temperature)


def photo(height: int, width: int) -> np.ndarray:
    """32 pixels on the shorter side: nothing is resized, so that maps are known."""
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def mean_of(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32).sum(axis=2) / np.float32(765)


@pytest.mark.parametrize(
    ("config", "sign"),
    [
        ({}, -1),  # scores grow with distance: turned
        ({"output": "disparity"}, 1),  # larger is nearer already
        ({"max_depth": 20.0}, 1),  # metres
    ],
)
def test_larger_is_nearer_but_metres_are_metres(config: dict[str, Any], sign: int):
    pixels = photo(32, 64)
    result = reldepth_jax.pipeline("depth-estimation", brightness(**config))(pixels)
    assert set(result) == {"predicted_depth", "depth"}
    depth, picture = result["predicted_depth"], result["depth"]
    assert (depth.dtype, depth.shape) == (np.float32, (32, 64))
    np.testing.assert_allclose(depth, sign * mean_of(pixels), atol=1e-6)
    assert isinstance(picture, Image.Image)
    assert (picture.mode, picture.size) == ("L", (64, 32))
    # As transformers computes it, in its words: (depth - min) / (max - min) * 255, as uint8.
    expected = (sign * mean_of(pixels)).astype(np.float64)
    expected = (expected - expected.min()) / np.ptp(expected) * 255
    grey = np.asarray(picture).astype(int)
    assert (np.abs(grey - np.floor(expected)) <= 1).all()
    assert (grey == np.floor(expected)).mean() > 0.99
    assert (grey.min(), grey.max()) == (0, 255)


def test_a_list_gives_a_list_in_its_order_in_batches_of_equal_size():
    model = brightness()
    images = [photo(32, 64), photo(64, 32), photo(32, 64), photo(32, 64), photo(64, 32)]
    results = reldepth_jax.pipeline(model=model, batch_size=2)(images)
    assert isinstance(results, list)
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result["predicted_depth"], -mean_of(image), atol=1e-6)
    assert sorted(model.shapes) == [(1, 32, 64, 3), (2, 32, 64, 3), (2, 64, 32, 3)]
    model.shapes.clear()
    assert len(reldepth_jax.pipeline(model=model)(images[:1], batch_size=3)) == 1
    assert reldepth_jax.pipeline(model=model)([]) == []
    assert model.shapes == [(1, 32, 64, 3)]


def test_an_iterator_is_read_as_its_results_are_asked_for():
    model = brightness()
    images = [photo(32, 64) for _ in range(5)]
    asked = []
    given = (asked.append(number) or image for number, image in enumerate(images))
    results = reldepth_jax.pipeline(model=model)(given, batch_size=2)
    first = next(results)
    assert asked == [0, 1]
    np.testing.assert_allclose(first["predicted_depth"], -mean_of(images[0]), atol=1e-6)
    assert len(list(results)) == 4
    assert [shape[0] for shape in model.shapes] == [2, 2, 1]


def test_paths_and_images_of_pillow_are_taken_as_predict_takes_them(tmp_path: pathlib.Path):
    pixels = photo(32, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    estimate = reldepth_jax.pipeline(model=brightness())
    for given in (tmp_path / "a.png", os.fspath(tmp_path / "a.png")):
        depth = estimate(given)["predicted_depth"]
        np.testing.assert_allclose(depth, -mean_of(np.rot90(pixels, -1)), atol=1e-6)
    flat = estimate(Image.new("RGB", (64, 32), "gray"))
    assert not np.asarray(flat["depth"]).any()


def test_the_default_is_the_network_of_the_package_and_equals_predict():
    estimate = reldepth_jax.pipeline()
    pixels = photo(40, 60)
    expected = -reldepth_jax.load_model().predict(pixels)
    np.testing.assert_array_equal(estimate(pixels)["predicted_depth"], expected)


def test_addresses_are_fetched_and_turned(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    pixels = photo(32, 64)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    estimate = reldepth_jax.pipeline(model=brightness())
    with server.serve((tmp_path / "a.png").read_bytes()) as served:
        depth = estimate(served.url)["predicted_depth"]
        np.testing.assert_allclose(depth, -mean_of(np.rot90(pixels, -1)), atol=1e-6)
        served.plan = [server.status(404)]
        with pytest.raises(UnreadableFile, match="cannot be fetched: .*404"):
            estimate(served.url)
        served.plan = [server.cut(200)]
        with pytest.raises(UnreadableFile, match=r"127\.0\.0\.1"):
            estimate(served.url)
        monkeypatch.setenv("RELDEPTH_OFFLINE", "1")
        asked = len(served.asked)
        with pytest.raises(UnreadableFile, match="RELDEPTH_OFFLINE"):
            estimate(served.url)
        assert len(served.asked) == asked
    with pytest.raises(UnreadableFile, match="only https"):
        estimate("http://example.com/a.jpg")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: reldepth_jax.pipeline("image-to-text"), "depth-estimation alone"),
        (lambda: reldepth_jax.pipeline(model="no_such_network_"), "no_such_network_"),
        (lambda: reldepth_jax.pipeline(batch_size=0), "batch_size"),
        (lambda: reldepth_jax.pipeline(model=brightness())(photo(32, 32) / 255), "uint8"),
        (lambda: reldepth_jax.pipeline(model=brightness())([], batch_size=True), "batch_size"),
    ],
)
def test_what_is_wrong_is_said(call: Any, said: str):
    with pytest.raises(UserError, match=said):
        call()


def test_two_points_are_ordered_with_the_fitted_probability():
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[3, 50] = 51  # 0.2
    pixels[31, 63] = 153  # 0.6
    model = brightness(temperature=0.25)
    answer = model.nearer(pixels, (50, 3), (63.9, 31))
    # Scores grow with distance here: the brighter point is farther.
    assert answer.nearer == "first"
    assert answer.confidence == pytest.approx(1 / (1 + math.exp(-0.4 / 0.25)), abs=1e-6)
    assert model.nearer(pixels, (63, 31), (50, 3)) == ("second", answer.confidence)
    assert model.nearer(pixels, (0, 0), (1, 1)) == (None, 0.5)
    inverse = brightness(output="disparity")
    assert inverse.nearer(pixels, (50, 3), (63, 31)) == ("second", None)


@pytest.mark.parametrize("point", [(64, 0), (0, 32), (-0.5, 0), (math.nan, 0)])
def test_a_point_outside_is_refused(point: tuple[float, float]):
    pixels = np.zeros((32, 64, 3), np.uint8)
    with pytest.raises(UserError, match=r"outside the photograph of 64x32: x is from 0 to 63"):
        brightness().nearer(pixels, (0, 0), point)


@pytest.mark.parametrize("point", [(1,), (1, 2, 3), 5, ("x", 1), None])
def test_what_is_no_point_is_refused(point: Any):
    # As programs without a type checker call it.
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(UserError, match=r"a point is \(x, y\) in pixels"):
            brightness().nearer(np.zeros((32, 64, 3), np.uint8), (0, 0), point)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_the_command_answers_and_writes_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(40, 60)).save("a.png")
    score = reldepth_jax.load_model().predict("a.png")
    near, far = (
        np.unravel_index(score.argmin(), (40, 60)),
        np.unravel_index(score.argmax(), (40, 60)),
    )
    points = f"{far[1]},{far[0]},{near[1]},{near[0]}"
    out, _ = run("predict", "a.png", f"--nearer={points}", "--temperature=1")
    difference = float(score.max() - score.min())
    assert out == (
        f"a.png: ({near[1]}, {near[0]}) is nearer than ({far[1]}, {far[0]})"
        f" (probability {1 / (1 + math.exp(-difference)):.2f})\n"
    )
    assert os.listdir() == ["a.png"]
    # What is wrong with one photograph keeps no other from its answer.
    pathlib.Path("b.png").write_bytes(b"no photograph")
    Image.fromarray(photo(9, 9)).save("c.png")
    words = ["b.png", "c.png", "a.png", f"--nearer={points}", "--temperature=1"]
    again, err = run("predict", *words, code=1)
    assert again == out
    bad, outside = err.splitlines()
    assert bad.startswith("b.png: ")
    assert outside.startswith("c.png: the point (")
    _, err = run("predict", "a.png", "--nearer=1,2,60,4", code=1)
    assert "a.png: the point (60, 4) is outside the photograph of 60x40" in err
    _, err = run("predict", "a.png", "--nearer=1,2,3", code=2)
    assert "takes four numbers" in err
