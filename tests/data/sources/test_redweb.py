"""ReDWeb: what the 8-bit values mean, and which images validate."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.redweb import ReDWeb
from reldepth_jax.types import Split
from tests.fixtures import redweb

INF = np.inf


def one(root: pathlib.Path, rd: np.ndarray, photograph: tuple[int, int] = (0, 0), **options):
    """A data set of two images (of this width and height) with this RD map; the validating one."""
    for folder in ("Imgs", "RDs"):
        (root / folder).mkdir(exist_ok=True)
    for name in "ab":
        size = photograph if any(photograph) else (rd.shape[1], rd.shape[0])
        Image.new("RGB", size).save(root / f"Imgs/{name}.jpg")
        Image.fromarray(rd).save(root / f"RDs/{name}.png")
    return ReDWeb(split="val", size=(1, 1), root=str(root), validation=1, **options)[0]


def create(root: pathlib.Path, split: Split, validation: int) -> ReDWeb:
    return ReDWeb(split=split, size=(1, 1), root=str(root), validation=validation)


VALUES = np.array([[0, 1, 51, 254, 255]], np.uint8)


@pytest.mark.parametrize(
    ("options", "depth", "mask"),
    [
        ({}, [0, 1, 51, 254, INF], [True] * 5),
        ({"sky": "masked"}, [0, 1, 51, 254, INF], [True] * 4 + [False]),
        # 255 / (255 - RD): 1 at the nearest, and its reciprocal falls linearly to 0 at the sky.
        ({"values": "disparity"}, [1, 255 / 254, 1.25, 255, INF], [True] * 5),
        ({"values": "disparity", "sky": "masked"}, [1, 255 / 254, 1.25, 255, INF],
         [True] * 4 + [False]),
    ],
)  # fmt: skip
def test_values_are_what_the_options_make_of_them(tmp_path, options, depth, mask):
    sample = one(tmp_path, VALUES, **options)
    np.testing.assert_array_equal(sample["depth"], np.array([depth], np.float32))
    assert sample["mask"].tolist() == [mask]
    assert sample["depth"].dtype == np.float32


def test_three_equal_channels_are_one(tmp_path: pathlib.Path):
    sample = one(tmp_path, np.repeat(VALUES[..., None], 3, axis=2))
    assert sample["depth"].tolist() == [[0, 1, 51, 254, INF]]


def test_a_map_of_another_size_is_resized_without_new_values(tmp_path: pathlib.Path):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    sample = one(tmp_path, values, photograph=(8, 6))
    np.testing.assert_array_equal(sample["depth"], values.repeat(2, 0).repeat(2, 1))
    with pytest.raises(UnreadableFile, match="the RD map of 4x3 pixels does not go with"):
        one(tmp_path, values, photograph=(8, 9))


def test_splits_part_the_images_and_there_is_no_test_split(tmp_path: pathlib.Path):
    redweb.write(tmp_path, 10)
    train, val = create(tmp_path, "train", 3), create(tmp_path, "val", 3)
    assert (len(train), len(val)) == (7, 3)
    seen = [
        source[index]["image"].tobytes() for source in (train, val) for index in range(len(source))
    ]
    assert len(set(seen)) == 10
    assert len(create(tmp_path, "train", 0)) == 10
    with pytest.raises(DataError, match="no test split; take val, or test on diw"):
        create(tmp_path, "test", 3)


def test_an_excerpt_spares_a_tenth(tmp_path: pathlib.Path):
    redweb.write(tmp_path, 10)
    assert len(create(tmp_path, "train", 360)) == 9
    assert len(create(tmp_path, "val", 360)) == 1


def test_it_travels_to_workers(tmp_path: pathlib.Path):
    redweb.write(tmp_path, 4)
    source = create(tmp_path, "train", 1)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[2]["depth"], source[2]["depth"])


def test_a_map_of_more_than_8_bits_is_refused(tmp_path: pathlib.Path):
    with pytest.raises(UnreadableFile, match="uint16 values, not 8 bits"):
        one(tmp_path, VALUES.astype(np.uint16) * 257)
