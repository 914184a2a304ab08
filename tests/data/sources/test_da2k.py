import json
import pathlib
import pickle

import numpy as np
import pytest

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.registry import SOURCES
from tests.fixtures.da2k import PAIRS, write
from tests.fixtures.scenes import save, scene

NAME = "images/indoor/0.png"
GOOD = {"point1": [1, 2], "point2": [3, 5], "closer_point": "point1"}


def create(root: pathlib.Path, split: str = "test"):
    return SOURCES.create("da2k", split=split, size=(32, 32), root=str(root))


def made(root: pathlib.Path, content: object) -> pathlib.Path:
    """Write annotations and an image of 4x6."""
    save(root / NAME, np.zeros((4, 6, 3), np.uint8))
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "annotations.json").write_text(text)
    return root


def test_pairs_agree_with_the_depth_of_the_scenes(tmp_path):
    write(tmp_path)
    source = create(tmp_path)
    assert len(source) == 4
    assert source.pairs_per_image == 3
    assert [source.scene(index) for index in range(4)] == ["indoor", "non_real"] * 2
    relations = []
    for index in range(4):
        sample = source[index]
        image, depth = scene(index)
        assert sample["image"].shape == image.shape
        assert sample["depth"].shape == sample["mask"].shape == depth.shape
        assert not sample["mask"].any()
        assert sample["pairs"].shape == (PAIRS[index % 3], 5)
        assert sample["pairs"].dtype == np.int32
        for row, column, other_row, other_column, relation in sample["pairs"]:
            first, second = depth[row, column], depth[other_row, other_column]
            assert relation == (1 if first > second else -1)
            relations.append(int(relation))
    # Whoever always says the same is right half the time: 3 + 1 + 2 + 3 pairs.
    assert relations == [-1, 1] * 4 + [-1]


def test_coordinates_count_from_zero_rows_first(tmp_path):
    other = {"point1": [0, 5], "point2": [3.9, 0.0], "closer_point": "point2"}
    source = create(made(tmp_path, {NAME: [GOOD, other, GOOD, GOOD]}))
    assert source[0]["pairs"].tolist() == [
        [1, 2, 3, 5, -1],
        # The second of two, so its points are exchanged; its second point was the nearer.
        [3, 0, 0, 5, -1],
        [1, 2, 3, 5, -1],
        [3, 5, 1, 2, 1],
    ]
    assert source._records[0]["name"] == NAME


def test_paths_of_other_machines_are_found(tmp_path):
    source = create(made(tmp_path, {f"/home/someone/DA-2K/{NAME}": [GOOD]}))
    assert source[0]["image"].shape == (4, 6, 3)
    assert source.scene(0) == "indoor"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "annotations.json: is empty"),
        ("{", "annotations.json: Expecting property name"),
        ("[" * 100_000, "annotations.json: is nested too deeply"),
        ('{"a":' * 100_000, "annotations.json: is nested too deeply"),
        ("[]", "expected an object with the paths of images"),
        ("{}", "expected an object with the paths of images"),
        ("3", "expected an object with the paths of images"),
        (f'{{"{NAME}": [], "{NAME}": []}}', f"'{NAME}' is there twice"),
        ({NAME: []}, f"'{NAME}': expected a list of annotations"),
        ({NAME: GOOD}, f"'{NAME}': expected a list of annotations"),
        ({NAME: [GOOD, 3]}, f"'{NAME}', annotation 1: expected an object with point1"),
        ({NAME: [{"point1": [1, 2]}]}, "annotation 0: point2 is 'None', not [row, column]"),
        ({NAME: [GOOD | {"point1": [1]}]}, "annotation 0: point1 is '[1]'"),
        ({NAME: [GOOD | {"point1": [1, 2, 3]}]}, "annotation 0: point1 is '[1, 2, 3]'"),
        ({NAME: [GOOD | {"point1": "12"}]}, "annotation 0: point1 is '12'"),
        ({NAME: [GOOD | {"point1": [True, 2]}]}, "annotation 0: point1 is '[True, 2]'"),
        ({NAME: [GOOD | {"point1": [1, None]}]}, "annotation 0: point1 is '[1, None]'"),
        ({NAME: [GOOD | {"point2": [-1, 2]}]}, "annotation 0: point2 is '[-1, 2]'"),
        ({NAME: [GOOD | {"point2": [1, 2**31]}]}, "annotation 0: point2 is '[1, 2147483648]'"),
        ({NAME: [GOOD | {"point2": [1, 10**4000]}]}, "annotation 0: point2 is '[1, 1000"),
        (f'{{"{NAME}": [{"9" * 10_000}]}}', "annotations.json: Exceeds the limit"),
        ({NAME: [GOOD | {"point2": [1, float("nan")]}]}, "annotation 0: point2 is '[1, nan]'"),
        ({NAME: [GOOD | {"point2": [1, float("inf")]}]}, "annotation 0: point2 is '[1, inf]'"),
        ({NAME: [GOOD | {"point2": [1, 2]}]}, "annotation 0: both points are (1, 2)"),
        ({NAME: [GOOD | {"closer_point": "p1"}]}, "annotation 0: closer_point is 'p1'"),
        ({NAME: [GOOD | {"closer_point": [1]}]}, "annotation 0: closer_point is '[1]'"),
        ({NAME: [{"point1": [1, 2], "point2": [0, 0]}]}, "closer_point is 'None'"),
        ({"../../etc/passwd": [GOOD]}, "'../../etc/passwd' leads out of the data"),
        ({"": [GOOD]}, "'' is no path"),
        ({"images/x.png": [GOOD]}, "annotations.json: none of its images is below"),
        ({"images/\0.png": [GOOD]}, "annotations.json: none of its images is below"),
        ({"images/\ud800.png": [GOOD]}, "annotations.json: none of its images is below"),
        ({f"images/{'a' * 300}.png": [GOOD]}, "is no path"),
    ],
)
def test_what_are_no_such_annotations_is_refused_in_one_line(tmp_path, content, message):
    made(tmp_path, content)
    with pytest.raises((DataError, UnreadableFile)) as caught:
        create(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/annotations.json: ")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_annotations_that_are_not_text(tmp_path):
    made(tmp_path, {})
    (tmp_path / "annotations.json").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"annotations\.json: "):
        create(tmp_path)


def test_an_annotation_outside_of_its_image_is_refused(tmp_path):
    source = create(made(tmp_path, {NAME: [GOOD | {"point2": [4, 5]}]}))
    with pytest.raises(UnreadableFile, match=r"0\.png: has 4 rows and 6 columns, .* \(4, 5\)$"):
        source[0]


def test_unreadable_images_name_themselves(tmp_path):
    source = create(made(tmp_path, {NAME: [GOOD]}))
    (tmp_path / NAME).write_bytes(b"oops")
    with pytest.raises(UnreadableFile, match=r"images/indoor/0\.png: is not an image"):
        source[0]


def test_source_survives_pickling_and_reads_the_same_twice(tmp_path):
    write(tmp_path)
    source = create(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for name in ("image", "depth", "mask", "pairs"):
        np.testing.assert_array_equal(copy[3][name], source[3][name])
    with pytest.raises(IndexError):
        source[4]


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(DataError, match="da2k has no train split; it is for testing only"):
        create(tmp_path, "train")
    with pytest.raises(DataError, match=r"annotations\.json is missing"):
        create(tmp_path)
    with pytest.raises(DataError, match="root is not set"):
        SOURCES.create("da2k", split="test", size=(1, 1))
