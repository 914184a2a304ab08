import pathlib
import pickle
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.registry import SOURCES
from tests.fixtures.nyu_pairs import EQUAL, FIRST, LISTS, SIZES, write
from tests.fixtures.scenes import scene

TITLES = "img_path,id,n_points\n"
DEPTH = "data/654_NYU_MITpaper_test_imgs_orig_size/2_depth.h5"


def create(root: pathlib.Path, split: str = "test", **options):
    return SOURCES.create("nyu_pairs", split=split, size=(32, 32), root=str(root), **options)


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("nyu")
    write(root)
    return root


def made(root: pathlib.Path, text: str) -> pathlib.Path:
    """Write a validation list and its images."""
    for name in ("1", "2"):
        Image.new("RGB", (320, 240)).save(root / f"{name}.png")
    (root / f"{LISTS['val']}.csv").write_text(text)
    return root


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_pairs_agree_with_the_depth_of_the_scenes(written, split):
    source = create(written, split)
    assert len(source) == 2
    assert source.rejected == ()
    seen = set()
    for index in range(2):
        sample = source[index]
        image, depth = scene(FIRST[split] + index, *SIZES[split])
        np.testing.assert_array_equal(sample["image"], image)
        assert sample["depth"].shape == sample["mask"].shape == SIZES[split]
        # Depth is read only if asked for.
        assert not sample["mask"].any()
        assert sample["pairs"].shape == (30 + index, 5)
        assert sample["pairs"].dtype == np.int32
        for row, column, other_row, other_column, relation in sample["pairs"]:
            first, second = depth[row, column], depth[other_row, other_column]
            expected = 1 if first > EQUAL * second else -1 if second > EQUAL * first else 0
            assert relation == expected
            seen.add(int(relation))
    assert seen == {-1, 0, 1}


def test_coordinates_count_from_one_rows_first(tmp_path):
    rows = "1,320,240,1,>\n 2 , 3 , 4.7 , 5 , = \n240,320,1,2,<\n"
    made(tmp_path, f"\ufeff{TITLES}{tmp_path}/1.png,7,3\n{rows}".replace("\n", "\r\n"))
    assert create(tmp_path, "val")[0]["pairs"].tolist() == [
        [0, 319, 239, 0, 1],
        [1, 2, 3, 4, 0],
        [239, 319, 0, 1, -1],
    ]


def test_the_default_list_of_the_test_script_is_found(tmp_path):
    made(tmp_path, f"{TITLES}1.png,0,1\n1,1,2,2,>\n")
    (tmp_path / f"{LISTS['val']}.csv").rename(
        tmp_path / "45_NYU_validate_imgs_points_resize_240_320.csv"
    )
    assert len(create(tmp_path, "val")) == 1


def test_depth_is_read_for_the_evaluation(written):
    sample = create(written, depth=True)[1]
    _, depth = scene(FIRST["test"] + 1, 480, 640)
    finite = np.isfinite(depth)
    np.testing.assert_array_equal(sample["mask"], finite)
    np.testing.assert_array_equal(sample["depth"][finite], depth[finite])
    assert sample["depth"].dtype == np.float32
    assert len(sample["pairs"]) == 31
    # The validation images have none.
    assert not create(written, "val", depth=True)[0]["mask"].any()


def test_values_that_are_no_distance_are_not_valid(tmp_path):
    write(tmp_path, count=1)
    values = np.full((480, 640), 2.0)
    values[0, :4] = [0, -1, np.nan, np.inf]
    with h5py.File(tmp_path / DEPTH.replace("2_", "1_"), "w") as file:
        file["depth"] = values
    sample = create(tmp_path, depth=True)[0]
    assert np.flatnonzero(~sample["mask"]).tolist() == [0, 1, 2, 3]
    assert sample["depth"][0, :5].tolist() == [0, 0, 0, 0, 2]


def test_without_h5py_depth_is_refused_with_the_remedy(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert len(create(written)[0]["pairs"]) == 30
    with pytest.raises(DataError, match=r'1_depth\.h5: .* pip install "reldepth-jax\[nyu\]"$'):
        create(written, depth=True)[0]


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (None, "is not HDF5"),
        ({}, "has no data set 'depth'"),
        ({"depth": np.ones((480, 640), np.int32)}, "no map of real numbers"),
        ({"depth": np.ones((1, 480, 640), np.float32)}, "no map of real numbers"),
        ({"depth/inner": np.ones((480, 640))}, "has no data set 'depth'"),
        ({"depth": np.ones((640, 480))}, "480x640 pixels do not go with"),
    ],
)
def test_damaged_depth_files_name_themselves(tmp_path, depth, message):
    write(tmp_path, pairs=1)
    (tmp_path / DEPTH).write_bytes(b"")
    if depth is not None:
        with h5py.File(tmp_path / DEPTH, "w") as file:
            for name, values in depth.items():
                file[name] = values
    with pytest.raises(UnreadableFile, match=rf"2_depth\.h5: .*{message}") as caught:
        create(tmp_path, depth=True)[1]
    assert len(str(caught.value).splitlines()) == 1


def test_a_depth_file_that_claims_too_much_is_refused(tmp_path):
    write(tmp_path, pairs=1)
    with h5py.File(tmp_path / DEPTH, "w") as file:
        file.create_dataset("depth", (1_000_000, 1_000_000), np.float32, chunks=(100, 100))
    with pytest.raises(UnreadableFile, match=r"/depth has the shape \(1000000, 1000000\)$"):
        create(tmp_path, depth=True)[1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,1,2,2", "expected 5 fields, got 4"),
        ("1,1,2,2,>,9", "expected 5 fields, got 6"),
        ("1;1;2;2;>", "expected 5 fields, got 1 - is the separator ';'?"),
        ("1,x,2,2,>", "'x' is not a number"),
        ("1,1,2,2,?", "relation '?', expected > or < or ="),
        ("2,2,2,2,=", "both points are (2, 2)"),
        ("241,1,2,2,>", "(241, 1) or (2, 2) lies outside the 240 rows and 320 columns"),
        ("1,1,2,0,>", "(1, 1) or (2, 0) lies outside"),
    ],
)
def test_a_defective_pair_is_left_out_and_remembered(tmp_path, row, reason):
    made(tmp_path, f"{TITLES}1.png,0,3\n1,1,2,2,>\n{row}\n3,3,4,4,<\n2.png,0,1\n5,5,6,6,=\n")
    source = create(tmp_path, "val")
    assert source[0]["pairs"].tolist() == [[0, 0, 1, 1, 1], [2, 2, 3, 3, -1]]
    assert source[1]["pairs"].tolist() == [[4, 4, 5, 5, 0]]
    assert [rejected.line for rejected in source.rejected] == [4]
    assert source.rejected[0].reason.startswith(reason)


def test_many_defective_pairs_are_refused(tmp_path):
    rows = "1,1,2,2,>\n" * 50 + "300,1,2,2,>\n" * 11
    made(tmp_path, f"{TITLES}1.png,0,61\n{rows}")
    message = r"320\.csv:53: .*\(11 of 61 pairs are defective; .* swapped"
    with pytest.raises(DataError, match=message):
        create(tmp_path, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TITLES, "320.csv: holds no annotated pair"),
        (f"{TITLES}1.png,0\n", "320.csv:2: expected 3 fields, got 2; here the line of an image"),
        (f"{TITLES}1.png;0;1\n", "320.csv:2: expected 3 fields, got 1 - is the separator ';'"),
        (f"{TITLES}1.png,0,many\n", "320.csv:2: 'many' is not a number"),
        (f"{TITLES}1.png,0,-1\n", "320.csv:2: -1 pairs"),
        (f"{TITLES}1.png,0,2\n1,1,2,2,>\n", "320.csv:2: states 2 pairs, but 1 follow"),
        (
            f"{TITLES}1.png,0,2\n1,1,2,2,>\n2.png,0,1\n1,1,2,2,>\n",
            "320.csv:2: states 2 pairs, but 1 follow",
        ),
        (f"{TITLES}1.png,0,1\n1,1,2,2,>\n3,3,4,4,>\n", "320.csv:4: expected 3 fields, got 5"),
        # No line of titles: the first image is taken for it.
        ("1.png,0,1\n1,1,2,2,>\n", "320.csv:2: expected 3 fields, got 5"),
        (f"{TITLES}1.png,0,1\n1,1,2\0,2,>\n", "320.csv:3: holds a NUL byte"),
        (f"{TITLES}a/../../1.png,0,1\n1,1,2,2,>\n", "320.csv:2: 'a/../../1.png' leads out"),
        (f"{TITLES}3.png,0,1\n1,1,2,2,>\n", "320.csv: none of its images is below"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused(tmp_path, text, message):
    made(tmp_path, text)
    with pytest.raises(DataError) as caught:
        create(tmp_path, "val")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_image_of_another_size_is_refused(tmp_path):
    made(tmp_path, f"{TITLES}1.png,0,1\n1,1,2,2,>\n")
    Image.new("RGB", (640, 480)).save(tmp_path / "1.png")
    with pytest.raises(UnreadableFile, match=r"1\.png: stored 640x480; the list says 320x240"):
        create(tmp_path, "val")[0]


def test_source_survives_pickling_and_reads_the_same_twice(written):
    source = create(written, depth=True, pairs_per_image=5)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert copy.pairs_per_image == 5
    for name in ("image", "depth", "mask", "pairs"):
        np.testing.assert_array_equal(copy[1][name], source[1][name])
    with pytest.raises(IndexError):
        source[2]


def test_mistakes_are_one_line(tmp_path, written):
    with pytest.raises(DataError, match="has no test split here; it would be 654_NYU"):
        create(tmp_path)
    with pytest.raises(DataError, match="pairs_per_image must be at least 1, got 0"):
        create(written, pairs_per_image=0)
    with pytest.raises(DataError, match="root is not set"):
        SOURCES.create("nyu_pairs", split="test", size=(1, 1))
    assert SOURCES.lookup("nyu_pairs").options.keys() == {"root", "pairs_per_image", "depth"}
