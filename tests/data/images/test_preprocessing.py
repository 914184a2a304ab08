"""Sizes of published preprocessing by hand and by its own rounding; pixels by Pillow and torch."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from reldepth_jax.config import Config, DataConfig
from reldepth_jax.data.images import geometry
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.models.network import as_float
from reldepth_jax.registry import ENCODERS

MIDAS_V2 = Preprocessing(fit="long_side_floor", size=384, shrink="cubic", enlarge="cubic")
MIDAS_SMALL = Preprocessing(fit="long_side_floor", size=256, shrink="cubic", enlarge="cubic")
MIDAS_V1 = Preprocessing(fit="long_side_ceil", size=384, shrink="area", enlarge="cubic")
SGRL = Preprocessing(fit="square", size=448, shrink="lanczos")
DEPTH_ANYTHING = Preprocessing(
    fit="lower_bound", size=518, shrink="cubic", enlarge="linear_aligned", multiple=14
)
DPT = Preprocessing(fit="minimal", size=384, shrink="cubic", enlarge="cubic")
PUBLISHED = [MIDAS_V2, MIDAS_SMALL, MIDAS_V1, SGRL]
FILLED = [DEPTH_ANYTHING, DPT]
RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def input_size(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    image, used = preprocessing.network_image(np.zeros((height, width, 3), np.uint8))
    assert used == image.shape[:2]
    return used


def test_standard_shapes_are_seventeen_each_near_the_photograph():
    for preprocessing in (*PUBLISHED, *FILLED, Preprocessing(fit="lower_bound", size=160)):
        standard = dataclasses.replace(preprocessing, shapes="standard")
        seen = set()
        for elongation in np.linspace(1, 4.4, 500):
            for scale in (120, 5000):
                longer = round(scale * float(elongation))
                seen |= {standard.input_size(size) for size in ((scale, longer), (longer, scale))}
        assert len(seen) <= 17, preprocessing
        # A strip keeps its own.
        assert standard.input_size((100, 3000)) == preprocessing.input_size((100, 3000))
    exact = Preprocessing(fit="lower_bound", size=2**13, multiple=1, shapes="standard")
    for elongation in np.linspace(1, 4.4, 500):
        size = exact.input_size((10_000, round(10_000 * float(elongation))))
        assert 1 / 1.114 < size[1] / size[0] / elongation < 1.114


@pytest.mark.parametrize("sides", [(3024, 3024), (3024, 4032), (2000, 3000), (1080, 1920)])
def test_what_cameras_take_has_a_standard_shape_already(sides):
    for preprocessing in (*PUBLISHED, *FILLED, Preprocessing(fit="lower_bound", size=160)):
        standard = dataclasses.replace(preprocessing, shapes="standard")
        for size in (sides, sides[::-1]):
            assert standard.input_size(size) == preprocessing.input_size(size)


def test_the_size_of_the_input_is_known_without_the_photograph():
    for preprocessing in (*PUBLISHED, *FILLED, Preprocessing(size=100)):
        for shapes in ("own", "standard"):
            chosen = dataclasses.replace(preprocessing, shapes=shapes)
            image, _ = chosen.network_image(np.zeros((50, 60, 3), np.uint8))
            assert chosen.input_size((50, 60)) == image.shape[:2]


@pytest.mark.parametrize(
    ("preprocessing", "photograph", "expected"),
    [
        (MIDAS_V2, (480, 640), (288, 384)),
        (MIDAS_V2, (640, 480), (384, 288)),
        # 216 is 6.75 times 32.
        (MIDAS_V2, (1080, 1920), (224, 384)),
        # 236 is 7.375 times 32: down here, up in the first version.
        (MIDAS_V2, (59, 96), (224, 384)),
        (MIDAS_V1, (59, 96), (256, 384)),
        (MIDAS_V2, (500, 500), (384, 384)),
        (MIDAS_V2, (1, 1), (384, 384)),
        (MIDAS_V2, (1, 5000), (32, 384)),
        (MIDAS_V2, (5000, 1), (384, 32)),
        # 1.5 and 2.5 times 32: halves go to the even multiple.
        (MIDAS_V2, (48, 384), (64, 384)),
        (MIDAS_V2, (80, 384), (64, 384)),
        (MIDAS_SMALL, (480, 640), (192, 256)),
        # 144 is 4.5 times 32.
        (MIDAS_SMALL, (1080, 1920), (128, 256)),
        (MIDAS_V1, (480, 640), (288, 384)),
        (MIDAS_V1, (1920, 1080), (384, 224)),
        (MIDAS_V1, (383, 384), (384, 384)),
        (MIDAS_V1, (321, 428), (288, 384)),
        (MIDAS_V1, (322, 428), (320, 384)),
        (MIDAS_V1, (1, 5000), (32, 384)),
        (MIDAS_V1, (2, 2), (384, 384)),
        (SGRL, (480, 640), (448, 448)),
        (SGRL, (1, 5000), (448, 448)),
        (DEPTH_ANYTHING, (518, 518), (518, 518)),
        (DEPTH_ANYTHING, (480, 640), (518, 686)),
        # 1.295 * 600 / 14 is 55.5: a half goes to the even multiple.
        (DEPTH_ANYTHING, (400, 600), (518, 784)),
        (DEPTH_ANYTHING, (600, 400), (784, 518)),
        (DEPTH_ANYTHING, (1, 1), (518, 518)),
        (DPT, (384, 384), (384, 384)),
        # The height changes by a factor of 0.8, the width by 0.6: as the height.
        (DPT, (480, 640), (384, 512)),
        (DPT, (1080, 1920), (384, 672)),
        # 1.92 and 1.28: as the width.
        (DPT, (200, 300), (256, 384)),
        # 0.55 times one pixel is nearest to none.
        (DPT, (1, 700), (32, 384)),
    ],
)
def test_sizes_of_published_networks(preprocessing, photograph, expected):
    assert input_size(preprocessing, *photograph) == expected


def midas_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Fit with the keeping of the aspect ratio and the rounding of the original, step by step."""
    scale_height, scale_width = size / height, size / width
    if scale_width < scale_height:
        scale_height = scale_width
    else:
        scale_width = scale_height
    sides = []
    for x in (scale_height * height, scale_width * width):
        side = int(np.round(x / 32) * 32)
        if side > size:
            side = int(np.floor(x / 32) * 32)
        sides.append(max(side, 32))
    return sides[0], sides[1]


def first_midas_size(height: int, width: int, size: int) -> tuple[int, int]:
    scale = max(height, width) / size
    rows, columns = (int(np.ceil(side / scale / 32) * 32) for side in (height, width))
    return rows, columns


def filled_size(height: int, width: int, fit: str, size: int, unit: int) -> tuple[int, int]:
    """Return the original's size for what is called `resize_method` there, step by step."""
    scale_height, scale_width = size / height, size / width
    if fit == "lower_bound":
        if scale_width > scale_height:
            scale_height = scale_width
        else:
            scale_width = scale_height
    elif abs(1 - scale_width) < abs(1 - scale_height):
        scale_height = scale_width
    else:
        scale_width = scale_height
    sides = []
    for x in (scale_height * height, scale_width * width):
        side = int(np.round(x / unit) * unit)
        if fit == "lower_bound" and side < size:
            side = int(np.ceil(x / unit) * unit)
        sides.append(max(side, unit))
    return sides[0], sides[1]


@pytest.mark.parametrize(("fit", "unit"), [("lower_bound", 14), ("minimal", 32), ("minimal", 16)])
def test_filled_sizes_agree_with_the_rounding_of_the_originals(fit, unit):
    tried = set()
    preprocessing = Preprocessing(fit=fit, size=84, shrink="cubic", multiple=unit)
    for height, width in RNG.integers(20, 75, (150, 2)).tolist():
        expected = filled_size(height, width, fit, 84, unit)
        assert input_size(preprocessing, height, width) == expected
        tried.add(expected)
    assert len(tried) > 4


@pytest.mark.parametrize("preprocessing", FILLED)
@pytest.mark.parametrize("photograph", [(1, 9000), (9000, 2), (40, 4000)])
def test_a_strip_has_no_more_pixels_than_a_photograph_of_four_to_one(preprocessing, photograph):
    height, width = input_size(preprocessing, *photograph)
    assert height * width <= 4.3 * preprocessing.size**2
    assert (height > width) == (photograph[0] > photograph[1])


def test_networks_of_a_run_see_photographs_as_they_saw_training_images(
    monkeypatch: pytest.MonkeyPatch,
):
    config = Config(data=DataConfig(crop=(64, 96)))
    whole = Preprocessing.of_training(config)
    # Nothing is added at the edges: of 40x60 the sides become 64 and 96, of 40x54 not 86.4 and ten
    # columns of the edge.
    for width, expected in ((60, 96), (54, 96), (49, 64)):
        image, used = whole.network_image(noise(40, width))
        assert image.shape[:2] == used == (64, expected)
    entry = dataclasses.replace(ENCODERS.lookup("resnet50"), facts={"patch": 14})
    monkeypatch.setitem(ENCODERS.entries, "resnet50", entry)
    patches = Preprocessing.of_training(config)
    # Nothing is added at the edges: 98 is the multiple of 14 that is nearest to 60 * 64 / 40.
    image, used = patches.network_image(noise(40, 60))
    assert image.shape[:2] == used == (70, 98)
    assert image.dtype == np.uint8


def test_sizes_agree_with_the_rounding_of_the_originals():
    second, first = (dataclasses.replace(each, size=160) for each in (MIDAS_V2, MIDAS_V1))
    tried = set()
    for height, width in RNG.integers(5, 90, (200, 2)).tolist():
        expected = midas_size(height, width, 160), first_midas_size(height, width, 160)
        assert (input_size(second, height, width), input_size(first, height, width)) == expected
        tried.add(expected)
    # The sides from 32 to 160 either way, rounded alike or not.
    assert len(tried) > 15


def test_our_networks_get_what_they_were_trained_with():
    for height, width, fitted in ((70, 100, (64, 91)), (100, 64, (100, 64)), (30, 20, (96, 64))):
        photograph = noise(height, width)
        image, used = Preprocessing(size=64).network_image(photograph)
        pillow = Image.fromarray(photograph).resize(
            (fitted[1], fitted[0]), Image.Resampling.BILINEAR
        )
        assert used == fitted
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image[: used[0], : used[1]], np.asarray(pillow))
        np.testing.assert_array_equal(image, geometry.pad_to_multiple(np.asarray(pillow)))
        assert image.shape[0] % 32 == image.shape[1] % 32 == 0

        score = RNG.normal(size=used).astype(np.float32)
        pillow = Image.fromarray(score).resize((width, height), Image.Resampling.BILINEAR)
        ours = Preprocessing(size=64).at_image_size(score, (height, width))
        np.testing.assert_array_equal(ours, np.asarray(pillow))


@pytest.mark.parametrize("photograph", [(60, 80), (500, 400)])
def test_midas_image_is_cubic_with_its_overshoot(photograph: tuple[int, int]):
    black_or_white = np.where(noise(*photograph) > 127, 255, 0).astype(np.uint8)
    image, used = MIDAS_SMALL.network_image(black_or_white)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(black_or_white / 255).permute(2, 0, 1)[None], used, mode="bicubic"
    )[0].permute(1, 2, 0)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected.numpy(), atol=1e-6)
    assert image.min() < -0.05
    assert image.max() > 1.05


def test_first_midas_image_is_averaged():
    photograph = noise(12 * 32, 24 * 32)
    image, used = MIDAS_V1.network_image(photograph)
    assert used == (192, 384)
    expected = photograph.reshape(192, 2, 384, 2, 3).mean(axis=(1, 3)) / 255
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_square_image_is_of_pillows_lanczos():
    photograph = noise(50, 70)
    image, used = SGRL.network_image(photograph)
    expected = Image.fromarray(photograph).resize((448, 448), Image.Resampling.LANCZOS)
    assert used == (448, 448)
    np.testing.assert_array_equal(image, np.asarray(expected))


@pytest.mark.parametrize(
    ("enlarge", "mode"),
    [("cubic", "bicubic"), ("linear", "bilinear"), ("linear_aligned", "bilinear")],
)
@pytest.mark.parametrize("size", [(50, 41), (9, 8)])
def test_score_gets_to_the_size_of_the_photograph_as_in_torch(enlarge, mode, size):
    score = RNG.normal(size=(20, 30)).astype(np.float32)
    aligned = True if enlarge == "linear_aligned" else None
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(score)[None, None], size, mode=mode, align_corners=aligned
    )
    ours = Preprocessing(enlarge=enlarge).at_image_size(score, size)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected[0, 0].numpy(), atol=1e-5)


@pytest.mark.parametrize("preprocessing", [*PUBLISHED, Preprocessing(size=64, shrink="cubic")])
@pytest.mark.parametrize("size", [(48, 31), (1, 1), (1, 3000), (3000, 1)])
def test_predicted_scores_keep_their_place(preprocessing: Preprocessing, size: tuple[int, int]):
    def red(images: np.ndarray) -> np.ndarray:
        assert images.shape[1] % 32 == images.shape[2] % 32 == 0
        unit = images / np.float32(255) if images.dtype == np.uint8 else images
        return unit[..., 0]

    axis = int(size[1] > size[0])
    line = np.linspace(0, 255, size[axis])
    ramp = np.broadcast_to(line[:, None] if axis == 0 else line, size).astype(np.uint8)
    score = Predictor(red, preprocessing)(np.repeat(ramp[..., None], 3, axis=2))
    assert score.shape == size
    # Two pixels of the ramp's own, or of what is left of a strip: shrunk and enlarged again.
    pixel = max(size) / 384 if 1 in size else 1
    np.testing.assert_allclose(score, ramp / 255, atol=3 / 255 + 2 * pixel / max(size))


def test_networks_take_bytes_and_floats_alike():
    images = noise(4, 5)[None]
    np.testing.assert_allclose(as_float(jnp.asarray(images)), images / 255, atol=1e-7)
    overshot = jnp.asarray(images / np.float32(200) - np.float32(0.1))
    np.testing.assert_array_equal(as_float(overshot), overshot)


def test_metadata_survives_json():
    for preprocessing in (*PUBLISHED, *FILLED, Preprocessing(size=100)):
        values = json.loads(json.dumps(preprocessing.to_dict()))
        assert Preprocessing.from_dict(values) == preprocessing
        standard = dataclasses.replace(preprocessing, shapes="standard")
        assert standard.to_dict() == {**values, "shapes": "standard"}
        assert Preprocessing.from_dict(standard.to_dict()) == standard
    assert MIDAS_V1.to_dict() == {
        "fit": "long_side_ceil",
        "size": 384,
        "shrink": "area",
        "enlarge": "cubic",
        "multiple": 32,
    }
    older = {key: value for key, value in MIDAS_V1.to_dict().items() if key != "multiple"}
    assert Preprocessing.from_dict(older) == MIDAS_V1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fit": "long_side"}, "preprocessing.fit: must be one of short_side, .*got 'long_side'"),
        ({"shrink": ["area"]}, r"preprocessing.shrink: must be one of triangle, .*got \['area'\]"),
        ({"enlarge": "lanczos"}, "preprocessing.enlarge: must be one of triangle, cubic, linear"),
        ({"size": 400}, "preprocessing.size: must be a multiple of 32 with fit square, got 400"),
        ({"size": 0}, "preprocessing.size: must be from 1 to 16384, got 0"),
        ({"size": 384.0}, "preprocessing.size: must be a whole number, got 384.0"),
        ({"size": True}, "preprocessing.size: must be a whole number, got True"),
        ({"multiple": 0}, "preprocessing.multiple: must be from 1 to 1024, got 0"),
        ({"multiple": "14"}, "preprocessing.multiple: must be a whole number, got '14'"),
        ({"shirnk": "area"}, "preprocessing.shirnk: unknown; known are fit, size, shrink, enlarge"),
    ],
)
def test_wrong_metadata_is_told_by_field(changes, message):
    with pytest.raises(UserError, match=message):
        Preprocessing.from_dict(SGRL.to_dict() | changes)


def test_incomplete_metadata_is_refused():
    values = SGRL.to_dict()
    del values["shrink"]
    with pytest.raises(UserError, match="preprocessing.shrink: missing"):
        Preprocessing.from_dict(values)
    with pytest.raises(UserError, match="preprocessing: must have the fields fit, size"):
        Preprocessing.from_dict(["square", 448])
    with pytest.raises(UserError, match="preprocessing.size: must be a multiple of 32"):
        Preprocessing(fit="square", size=100)
