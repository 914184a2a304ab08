import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from reldepth_jax import config
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.diw import DIW
from reldepth_jax.registry import SOURCES
from tests.fixtures.diw import FIRST, SIZES, write
from tests.fixtures.scenes import scene

GOOD = "3,4,5,7,>,7,5"


def create(root: pathlib.Path, split: str = "test", **options):
    return SOURCES.create("diw", split=split, size=(32, 32), root=str(root), **options)


def made(root: pathlib.Path, content: str | bytes, images: int = 3) -> pathlib.Path:
    """Write a test list, and images of 5x7 whose white pixels are at rows 2, 4, columns 3, 6."""
    (root / "DIW_test").mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[[2, 4], [3, 6]] = 255
    for number in range(images):
        # Not JPEG: what matters is the content, and that pixels stay as they are.
        Image.fromarray(pixels).save(root / f"DIW_test/{number}.thumb", format="PNG")
    path = root / "DIW_test.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def official(*rows: str) -> str:
    return "".join(f"./DIW_test/{number}.thumb\n{row}\n" for number, row in enumerate(rows))


def check_against_scenes(source, part: str):
    assert len(source) == 6
    for index in range(6):
        sample = source[index]
        height, width = SIZES[index % 3]
        _, depth = scene(FIRST[part] + index, height, width)
        assert sample["image"].shape == (height, width, 3)
        assert sample["image"].dtype == np.uint8
        assert sample["depth"].shape == sample["mask"].shape == (height, width)
        assert sample["depth"].dtype == np.float32
        assert not sample["mask"].any()
        assert sample["pairs"].dtype == np.int32
        ((row, column, other_row, other_column, relation),) = sample["pairs"]
        first, second = depth[row, column], depth[other_row, other_column]
        assert relation == (1 if first > second else -1)


@pytest.mark.parametrize("dialect", ["official", "youtube3d"])
@pytest.mark.parametrize("lists", ["splitted", "beside"])
def test_pairs_agree_with_the_depth_of_the_scenes(tmp_path, lists, dialect):
    write(tmp_path, lists=lists, dialect=dialect)
    for split in ("train", "val", "test"):
        source = create(tmp_path, split)
        check_against_scenes(source, split)
        assert source.rejected == ()
        assert source.pairs_per_image == 1


@pytest.mark.parametrize("inside", ["DIW_Annotations", "DIW_Annotations_splitted"])
def test_lists_one_folder_deeper_are_found(tmp_path, inside):
    write(tmp_path)
    lists = tmp_path / "DIW_Annotations_splitted"
    lists.rename(tmp_path / "lists")
    (tmp_path / inside).mkdir()
    (tmp_path / "lists").rename(tmp_path / inside / "DIW_Annotations_splitted")
    for split in ("train", "val", "test"):
        check_against_scenes(create(tmp_path, split), split)


def test_gray_images_have_three_equal_channels(tmp_path):
    write(tmp_path)
    image = create(tmp_path)[2]["image"]
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("titles", [False, True])
def test_coordinates_count_from_one_rows_first(tmp_path, ends, mark, titles):
    rows = [GOOD, "5.9,7.2,3.5,4.0,<,7,5", "1,7,5,1,>=,7,5"]
    text = official(*rows)
    if titles:
        text = "img,x,n\n" + text.replace(".thumb", ".thumb,0.25,1")
    source = create(made(tmp_path, (mark + text).replace("\n", ends)))
    assert source[0]["pairs"].tolist() == [[2, 3, 4, 6, 1]]
    assert (source[0]["image"][2, 3] == 255).all()
    assert (source[0]["image"][4, 6] == 255).all()
    # Fractions are dropped; of the relation the first character counts.
    assert source[1]["pairs"].tolist() == [[4, 6, 2, 3, -1]]
    assert source[2]["pairs"].tolist() == [[0, 6, 4, 0, 1]]
    assert source.rejected == ()


def test_validation_is_held_out_where_one_list_has_both(tmp_path):
    write(tmp_path, lists="joined")
    train, val = (create(tmp_path, split, validation=4) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 4)
    names = [source._records[i]["name"] for source in (train, val) for i in range(len(source))]
    assert len(set(names)) == 12
    assert names == sorted(names[:8]) + sorted(names[8:])
    excerpt = create(tmp_path, "val", validation=1410)
    assert len(excerpt) == 1  # a tenth of what is there
    assert len(create(tmp_path, "train", validation=1410)) == 11
    with pytest.raises(DataError, match="val split is empty"):
        create(tmp_path, "val", validation=0)
    # A list of the validation images does not make those of the joined list training images.
    (tmp_path / "DIW_val.csv").write_text(f"DIW_train_val/val000.thumb\n{GOOD}\n")
    assert len(create(tmp_path, "train", validation=4)) == 8
    assert len(create(tmp_path, "val", validation=4)) == 4


@pytest.mark.parametrize(
    "written",
    [
        "DIW_test/0.thumb",
        "./DIW_test/0.thumb",
        "/home/someone/data/DIW_test/0.thumb",
        "C:\\data\\DIW_test\\0.thumb",
    ],
)
def test_paths_of_other_machines_are_found(tmp_path, written):
    source = create(made(tmp_path, f"{written}\n{GOOD}\n"))
    assert source[0]["pairs"].tolist() == [[2, 3, 4, 6, 1]]
    assert source._records[0]["name"] == "DIW_test/0.thumb"


def test_absolute_paths_do_not_lead_out_of_the_data(tmp_path):
    outside = tmp_path / "outside.thumb"
    made(tmp_path / "data", official(GOOD) + f"{outside}\n{GOOD}\n")
    (tmp_path / "data/DIW_test/1.thumb").rename(outside)
    with pytest.raises(UnreadableFile, match=r"data/.*outside\.thumb: no such file"):
        create(tmp_path / "data")[1]


DEFECTS = {
    # The list: line and reason of what is left out.
    f"DIW_test/a.thumb\n{GOOD},9\n": (2, "expected 7 fields, got 8"),
    "DIW_test/a.thumb\n3,4,5,7,>,7\n": (2, "expected 7 fields, got 6"),
    "DIW_test/a.thumb\n3;4;5;7;>;7;5\n": (2, "expected 7 fields, got 1 - is the separator ';'?"),
    "DIW_test/a.thumb\n3,four,5,7,>,7,5\n": (2, "'four' is not a number"),
    "DIW_test/a.thumb\n3,nan,5,7,>,7,5\n": (2, "'nan' is not a number"),
    "DIW_test/a.thumb\n3,4,5,1e999,>,7,5\n": (2, "'1e999' is not a number"),
    "DIW_test/a.thumb\n3,4,5,,>,7,5\n": (2, "'' is not a number"),
    f"DIW_test/a.thumb\n{'9' * 200_000},4,5,7,>,7,5\n": (2, f"'{'9' * 60}…' is not a number"),
    "DIW_test/a.thumb\n3,4,5,7,=,7,5\n": (2, "relation '=', expected > or <"),
    "DIW_test/a.thumb\n3,4,5,7,,7,5\n": (2, "relation '', expected > or <"),
    "DIW_test/a.thumb\n3,4,3.2,4,>,7,5\n": (2, "both points are (3, 4)"),
    "DIW_test/a.thumb\n3,4,6,7,>,7,5\n": (2, "(3, 4) or (6, 7) lies outside the 5 rows and 7 col"),
    "DIW_test/a.thumb\n3,8,5,7,>,7,5\n": (2, "(3, 8) or (5, 7) lies outside"),
    "DIW_test/a.thumb\n0,4,5,7,>,7,5\n": (2, "(0, 4) or (5, 7) lies outside"),
    "DIW_test/a.thumb\n3,4,5,0,>,7,5\n": (2, "(3, 4) or (5, 0) lies outside"),
    "DIW_test/a.thumb\n3,4,5,7,>,0,5\n": (2, "an image of 0x5 pixels"),
    "DIW_test/a.thumb\n3,4,5,7,>,99999999999,5\n": (2, "an image of 99999999999x5 pixels"),
    "DIW_test/a.thumb\n": (1, "no line with a pair follows this path"),
    "DIW_test/a.thumb\n\nDIW_test/b.thumb\n" + GOOD + "\n": (1, "no line with a pair follows"),
    f"{GOOD}\n": (1, "no line with the path of an image precedes this pair"),
    f"../../etc/passwd\n{GOOD}\n": (1, "'../../etc/passwd' leads out of the data"),
    f"DIW_test/../../a.thumb\n{GOOD}\n": (1, "'DIW_test/../../a.thumb' leads out"),
    f"DIW_test\\..\\..\\a.thumb\n{GOOD}\n": (1, "leads out"),
    f"DIW_test/{'a' * 200_000}\n{GOOD}\n": (1, "is no path"),
    f"{'DIW_test/' * 1000}a.thumb\n{GOOD}\n": (1, "is no path"),
    f"DIW_test/{'深' * 90}.thumb\n{GOOD}\n": (1, "is no path"),
    f"DIW_test/a.thumb,0,2\n{GOOD}\n": (1, "expected the path of an image, or `path,…,1`"),
}


@pytest.mark.parametrize(("text", "expected"), DEFECTS.items(), ids=range(len(DEFECTS)))
def test_a_defective_line_is_left_out_and_remembered(tmp_path, text, expected):
    before = official(GOOD, GOOD)
    source = create(made(tmp_path, before + text + f"DIW_test/2.thumb\n{GOOD}\n"))
    assert len(source) == (4 if "b.thumb" in text else 3)
    assert source[len(source) - 1]["pairs"].tolist() == [[2, 3, 4, 6, 1]]
    ((line, reason),) = source.rejected
    assert line == 4 + expected[0]
    assert expected[1] in reason
    assert len(reason) < 200
    # Where nothing else is left, the list is refused. A line of titles looks like nothing else.
    if "b.thumb" not in text and text != f"DIW_test/a.thumb,0,2\n{GOOD}\n":
        path = made(tmp_path, text) / "DIW_test.csv"
        with pytest.raises(DataError) as caught:
            create(tmp_path)
        assert str(caught.value).startswith(f"{path}:{expected[0]}: ")
        assert expected[1] in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("good", "bad", "refused"),
    [(1, 10, False), (30, 11, True), (1188, 12, False), (1187, 13, True)],
)
def test_few_defective_lines_are_left_out_many_refused(tmp_path, good, bad, refused):
    made(tmp_path, official(*[GOOD] * good, *["3,4,5,7,=,7,5"] * bad))
    if not refused:
        assert (len(create(tmp_path)), len(create(tmp_path).rejected)) == (good, bad)
        return
    expected = rf"csv:{2 * good + 2}: relation '='.*\({bad} of {good + bad} pairs are defective\)$"
    with pytest.raises(DataError, match=expected):
        create(tmp_path)


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ("4,3,7,5,>,7,5", "most would be valid with rows and columns swapped"),
        ("0,3,4,6,>,7,5", "most would be valid if counted from 0"),
    ],
)
def test_another_convention_of_coordinates_is_suspected(tmp_path, row, hint):
    made(tmp_path, official(*[GOOD] * 20, *[row] * 11))
    with pytest.raises(DataError, match=rf"csv:42: .*\(11 of 31 pairs are defective; {hint}"):
        create(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"DIW_test\.csv: is empty"),
        (b"\n\n", r"DIW_test\.csv: holds no annotated pair"),
        (b"img,x,n\n", r"DIW_test\.csv:1: no line with a pair follows"),
        (official(GOOD).encode("utf-16"), r"DIW_test\.csv:1: holds a NUL byte"),
        (b"DIW_test/0.thumb\n3,4\0,5,7,>,7,5\n", r"DIW_test\.csv:2: holds a NUL byte"),
        (
            b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)),
            r"DIW_test\.csv:2: .* \(2 of 2 pairs are def",
        ),
        (official(*[GOOD.replace(",", "\t")] * 50).encode(), r"csv:2: .* is the separator '\\t'"),
        (b"missing/x.thumb\n" + GOOD.encode(), "none of its images is below"),
    ],
)
def test_what_is_no_such_list_is_refused(tmp_path, content, message):
    made(tmp_path, content)
    with pytest.raises((DataError, UnreadableFile), match=message) as caught:
        create(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_names_that_are_not_utf8_are_found(tmp_path):
    made(tmp_path, b"DIW_test/\xff.thumb\n" + GOOD.encode())
    os.rename(tmp_path / "DIW_test/0.thumb", os.fsencode(tmp_path) + b"/DIW_test/\xff.thumb")
    assert create(tmp_path)[0]["pairs"].tolist() == [[2, 3, 4, 6, 1]]


@pytest.mark.parametrize(
    ("exif", "message"),
    [
        (6, "stored 7x5; the list says 5x7; EXIF orientation 6"),
        (None, "stored 7x5; the list says 5x7"),
    ],
)
def test_an_image_of_another_size_is_refused(tmp_path, exif, message):
    made(tmp_path, official("7,4,5,5,>,5,7"))
    if exif:
        tags = Image.Exif()
        tags[274] = exif
        Image.new("RGB", (7, 5)).save(tmp_path / "DIW_test/0.thumb", format="JPEG", exif=tags)
    with pytest.raises(UnreadableFile) as caught:
        create(tmp_path)[0]
    assert str(caught.value) == f"{tmp_path}/DIW_test/0.thumb: {message}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"oops", "is not an image"),
        (b"<html>", "is a web page"),
        (b"\xff\xd8\xff", "is not an image"),
    ],
)
def test_unreadable_images_name_themselves(tmp_path, content, message):
    made(tmp_path, official(GOOD, GOOD))
    path = tmp_path / "DIW_test/1.thumb"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableFile, match=rf"DIW_test/1\.thumb: {message}"):
        create(tmp_path)[1]


def test_a_truncated_image_names_itself(tmp_path):
    write(tmp_path)
    path = tmp_path / "DIW_test/test000.thumb"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableFile, match=r"test000\.thumb: "):
        create(tmp_path)[0]


def test_a_pair_outside_a_prepared_image_is_refused(tmp_path):
    write(tmp_path)
    source = create(tmp_path)
    record = source._records[0] | {"pairs": np.array([[0, 0, 48, 0, 1]], np.int32)}
    with pytest.raises(UnreadableFile, match=r"test000\.thumb: has 48 rows .* \(48, 0\)"):
        source.interpret(record)


def test_source_survives_pickling_and_reads_the_same_twice(tmp_path):
    write(tmp_path)
    source = create(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for name in ("image", "depth", "mask", "pairs"):
        np.testing.assert_array_equal(copy[3][name], source[3][name])
    for index in (-1, 6):
        with pytest.raises(IndexError):
            source[index]


def test_records_do_not_share_their_pairs(tmp_path):
    write(tmp_path)
    source = create(tmp_path)
    expected = source[0]["pairs"].copy()
    source[0]["pairs"][:] = 0
    np.testing.assert_array_equal(source[0]["pairs"], expected)


@pytest.mark.parametrize(
    ("root", "split", "message"),
    [
        ("", "test", "diw: root is not set"),
        ("nowhere", "test", "diw: nowhere is no folder"),
        ("empty", "test", "holds none of DIW_test.csv, DIW_train.csv and"),
        ("only_test", "train", "diw has no train split here"),
        ("only_test", "val", "diw has no val split here"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, root, split, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    made(tmp_path / "only_test", official(GOOD))
    with pytest.raises(DataError, match=message) as caught:
        SOURCES.create("diw", split=split, size=(1, 1), root=root)
    assert len(str(caught.value).splitlines()) == 1


def test_published_number_of_test_pairs():
    assert DIW.data_set.counts == {"test": 74441}
    assert not DIW.data_set.maps


def test_every_option_can_be_set_from_the_command_line():
    assignments = {"name": "diw", "root": "a", "prepared": "b", "validation": "5"}
    changed = config.override(
        config.Config(), {f"data.source.{name}": value for name, value in assignments.items()}
    )
    config.validate(changed)
    assert changed.data.source.options == {"root": "a", "prepared": "b", "validation": 5}
