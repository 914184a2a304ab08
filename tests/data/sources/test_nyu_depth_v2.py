import concurrent.futures
import pickle
import shutil
import sys

import h5py
import numpy as np
import pytest
import scipy.io

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.nyu_depth_v2 import NYUDepthV2
from reldepth_jax.registry import SOURCES
from tests.fixtures import nyu_depth_v2 as fixture

LABELED = "nyu_depth_v2_labeled.mat"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("nyu")
    fixture.write(root)
    return root


def create(root, split="test", **options):
    return SOURCES.create("nyu_depth_v2", split=split, size=(1, 1), root=str(root), **options)


def write_arrays(root, **arrays):
    """Write a small file, whole as far as shapes and types go unless `arrays` differ."""
    shapes = {"images": (3, 640, 480), "depths": (640, 480), "rawDepths": (640, 480)}
    with h5py.File(root / LABELED, "w") as file:
        for name, shape in shapes.items():
            dtype = np.uint8 if name == "images" else np.float32
            values = arrays.get(name, np.ones((2, *shape), dtype))
            if values is not None:
                file[name] = values
    fixture.write_splits(root, (1,), (2,))


def number_of(sample) -> int:
    """Tell the images apart by their pixels."""
    return next(n for n in range(1, 8) if (fixture.sample(n)[0] == sample["image"]).all())


@pytest.mark.parametrize("depth", ["filled", "raw"])
def test_samples_match_the_scenes(data, depth):
    source = create(data, depth=depth)
    assert len(source) == 3
    # By hand: TEST counts from 1.
    for index, number in enumerate((1, 4, 6)):
        sample, (image, filled, raw) = source[index], fixture.sample(number)
        assert sample["image"].shape == (480, 640, 3)
        np.testing.assert_array_equal(sample["image"], image)
        np.testing.assert_array_equal(sample["depth"], filled if depth == "filled" else raw)
        expected = np.ones((480, 640), bool)
        if depth == "raw":
            expected[30:60, 5 * number : 100] = False
        np.testing.assert_array_equal(sample["mask"], expected)
    with pytest.raises(IndexError):
        source[3]


def test_splits_are_those_of_the_authors_and_validation_is_held_out(data):
    numbers = {}
    for split in ("train", "val", "test"):
        source = create(data, split, validation=1)
        numbers[split] = [number_of(source[index]) for index in range(len(source))]
    assert numbers["test"] == [1, 4, 6]
    assert len(numbers["val"]) == 1
    assert sorted(numbers["train"] + numbers["val"]) == [2, 3, 5, 7]


def test_records_hold_what_the_file_holds(data):
    records = NYUDepthV2.data_set.read(str(data), "train")
    assert records is not None
    record = records[2]
    assert record["name"] == f"{LABELED}#5"
    assert record["image"].startswith(b"\x89PNG")
    assert {
        name: values.dtype for name, values in record["maps"].items()
    } == NYUDepthV2.data_set.dtypes
    np.testing.assert_array_equal(record["maps"]["depth"], fixture.sample(5)[1])
    np.testing.assert_array_equal(record["maps"]["raw"], fixture.sample(5)[2])
    assert record["pairs"].shape == (0, 5)
    assert NYUDepthV2.data_set.read(str(data), "val") is None


def test_splits_may_be_hdf5(data, tmp_path):
    (tmp_path / LABELED).symlink_to(data / LABELED)
    with h5py.File(tmp_path / "splits.mat", "w", userblock_size=512) as file:
        file["trainNdxs"] = np.array([[2.0, 3.0]])
        file["testNdxs"] = np.array([[7.0, 1.0]])
    source = create(tmp_path)
    assert [number_of(source[index]) for index in range(2)] == [7, 1]


def test_doubles_become_float32(tmp_path):
    write_arrays(tmp_path, depths=np.full((2, 640, 480), 2.1))
    depth = create(tmp_path)[0]["depth"]
    assert depth.dtype == np.float32
    assert (depth == np.float32(2.1)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
@pytest.mark.parametrize(("name", "array"), [("filled", "depths"), ("raw", "rawDepths")])
def test_depth_that_cannot_be_is_refused(tmp_path, value, name, array):
    values = np.ones((2, 640, 480), np.float32)
    values[1, 3, 4] = value
    write_arrays(tmp_path, **{array: values})
    with pytest.raises(UnreadableFile, match="#2: its .* map holds negative or non-finite values"):
        create(tmp_path, depth=name)[0]
    create(tmp_path, depth="raw" if name == "filled" else "filled")[0]
    create(tmp_path, "train", depth=name, validation=0)[0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"depths": None}, "has no data set 'depths'"),
        ({"images": np.ones((2, 3, 480, 640), np.uint8)}, r"images is \(2, 3, 480, 640\) of uint8"),
        ({"images": np.ones((2, 480, 640, 3), np.uint8)}, r"not \(N, 3, 640, 480\) of uint8"),
        ({"images": np.ones((2, 3, 640, 480), np.float32)}, "of float32, not .* of uint8"),
        ({"depths": np.ones((2, 480, 640), np.float32)}, r"not \(N, 640, 480\) of float"),
        ({"rawDepths": np.ones((2, 640, 480), np.uint16)}, "rawDepths is .* of uint16, not"),
        (
            {"rawDepths": np.ones((1, 640, 480), np.float32)},
            "different numbers of .*'rawDepths': 1",
        ),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, arrays, message):
    write_arrays(tmp_path, **arrays)
    with pytest.raises(UnreadableFile, match=LABELED + ": .*" + message) as caught:
        create(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((1, 8), (2,), "trainNdxs names image 8, but .* holds images 1 to 7"),
        ((1,), (0,), "testNdxs names image 0"),
        ((1, 2), (2, 3), "1 images are named twice"),
        ((1.5,), (2,), "trainNdxs holds float64 values, not image numbers"),
        ((np.inf,), (2,), "not image numbers"),
        ((1,), (), "the test split is empty"),
    ],
)
def test_splits_that_do_not_fit_are_refused(data, tmp_path, train, test, message):
    (tmp_path / LABELED).symlink_to(data / LABELED)
    fixture.write_splits(tmp_path, train, test)
    with pytest.raises((DataError, UnreadableFile), match=message):
        create(tmp_path)


def test_damaged_files_name_themselves(data, tmp_path):
    root = tmp_path / "nyu"
    with pytest.raises(DataError, match="nyu is no folder"):
        create(root)
    root.mkdir()
    with pytest.raises(UnreadableFile, match=f"{LABELED}: no such file"):
        create(root)
    (root / LABELED).write_bytes(b"<html>quota exceeded</html>" * 100)
    with pytest.raises(UnreadableFile, match=f"{LABELED}: is not HDF5"):
        create(root)
    shutil.copy(data / LABELED, root)
    with pytest.raises(UnreadableFile, match=r"splits\.mat: no such file; .*indoor_seg_sup/splits"):
        create(root)
    (root / "splits.mat").write_bytes(b"<html>quota exceeded</html>" * 100)
    with pytest.raises(UnreadableFile, match=r"splits\.mat: is not a MATLAB file") as caught:
        create(root)
    assert "\n" not in str(caught.value)
    scipy.io.savemat(root / "splits.mat", {"trainNdxs": np.ones((1, 1))})
    with pytest.raises(UnreadableFile, match="has no variable 'testNdxs'"):
        create(root)
    shutil.copy(data / "splits.mat", root)
    source = create(root)
    size = (root / LABELED).stat().st_size
    with open(root / LABELED, "r+b") as file:
        file.truncate(size // 2)
    for read in (lambda: create(root), lambda: source[0]):
        with pytest.raises(UnreadableFile, match=f"{LABELED}: .*truncated") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_without_h5py_the_way_out_is_named(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "reldepth-jax\[nyu\]"'):
        create(data)


def test_source_survives_pickling_and_threads(data):
    source = create(data)
    expected = [source[index] for index in range(3)]
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda index: copy[index % 3], range(24)))
    for index, sample in enumerate(found):
        for name in ("image", "depth", "mask"):
            np.testing.assert_array_equal(sample[name], expected[index % 3][name])
