"""Paths that lists give, found again on another machine and never outside the data set."""

import pathlib

import pytest

from reldepth_jax.data.reading.files import DataError, listed_paths, require_folder


def touch(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["./a/1.png", "./a/2.png"], ["a/1.png", "a/2.png"]),
        (["/scratch/them/data/a/1.png", "/scratch/them/data/a/2.png"], ["a/1.png", "a/2.png"]),
        (["C:\\them\\a\\1.png", "C:\\them\\a\\2.png"], ["a/1.png", "a/2.png"]),
        # The first file is missing: the next one decides.
        (["x/y/a/9.png", "x/y/a/2.png"], ["a/9.png", "a/2.png"]),
        # An absolute path among relative ones stays inside.
        (["a/1.png", "/etc/hostname"], ["a/1.png", "etc/hostname"]),
    ],
)
def test_paths_are_found_below_the_root(
    tmp_path: pathlib.Path, written: list[str], expected: list[str]
):
    touch(tmp_path, "a/1.png", "a/2.png")
    found = listed_paths(tmp_path, written, "list.csv")
    assert found == [str(tmp_path / name) for name in expected]


def test_a_list_of_other_images_and_one_that_leads_out_are_refused(tmp_path: pathlib.Path):
    touch(tmp_path, "a/1.png")
    with pytest.raises(DataError, match=r"list.csv: none of its images .*the first is b/3.png"):
        listed_paths(tmp_path, ["b/3.png"], "list.csv")
    with pytest.raises(DataError, match="list.csv: 'a/../../x.png' leads out"):
        listed_paths(tmp_path, ["a/1.png", "a/../../x.png"], "list.csv")
    with pytest.raises(DataError, match="no file"):
        listed_paths(tmp_path, [], "list.csv")


def test_an_archive_is_no_folder(tmp_path: pathlib.Path):
    touch(tmp_path, "ReDWeb_V1.zip")
    with pytest.raises(DataError, match="is an archive; extract it first"):
        require_folder(tmp_path / "ReDWeb_V1.zip", "redweb")
    with pytest.raises(DataError, match="root is not set"):
        require_folder("", "redweb")
