import os
import pathlib

import pytest

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.listing import describe, listing

JPEG = frozenset({".jpg"})


def put(folder: pathlib.Path, *names: str) -> pathlib.Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_linked_folders_are_listed_under_the_name_of_the_link(tmp_path):
    put(tmp_path / "photos", "a.jpg", "own/b.jpg")
    put(tmp_path / "elsewhere", "c.jpg", "deeper/d.jpg")
    (tmp_path / "photos/session2").symlink_to("../elsewhere", target_is_directory=True)
    found = listing(tmp_path / "photos", JPEG).paths
    assert found == ["a.jpg", "own/b.jpg", "session2/c.jpg", "session2/deeper/d.jpg"]


def test_circles_of_links_end_and_no_folder_is_listed_twice(tmp_path):
    put(tmp_path, "z/a.jpg", "m/b.jpg")
    (tmp_path / "a_first").symlink_to("z")
    (tmp_path / "m/up").symlink_to("..")
    (tmp_path / "z/itself").symlink_to(".")
    (tmp_path / "z/there").symlink_to("../m")
    # What is there itself is not listed under the name of a link, however it sorts.
    assert listing(tmp_path, JPEG).paths == ["m/b.jpg", "z/a.jpg"]


def test_many_links_to_many_folders_take_no_exponential_time(tmp_path):
    for level in range(40):
        put(tmp_path / f"{level}", "a.jpg")
        for link in "lr":
            (tmp_path / f"{level}/{link}").symlink_to(f"../{level + 1}")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/link").symlink_to("../0")
    assert len(listing(tmp_path / "top", JPEG).paths) == 40


def test_a_folder_can_be_avoided_also_behind_a_link(tmp_path):
    put(tmp_path, "a.jpg", "depth/a.jpg")
    (tmp_path / "link").symlink_to("depth")
    assert listing(tmp_path, JPEG, tmp_path / "depth").paths == ["a.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "locked/b.jpg")
    scan = os.scandir

    def refuse(path: str):
        # The tests may run as root, for whom nothing is locked.
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UnreadableFile, match="locked: cannot be listed: Permission denied"):
        listing(tmp_path, JPEG)


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    put(tmp_path, "a.jpg", "x/b.HEIC", "c.heic", "d.dng", "README", "e.jpg.part", ".hidden.heic")
    (tmp_path / "f.dng").symlink_to("nowhere")
    found = listing(tmp_path, JPEG)
    assert found.paths == ["a.jpg"]
    assert found.left_out == {".heic": 2, ".dng": 2, "": 1, ".part": 1}
    line = describe(found.left_out)
    assert line.startswith("6 files left out: 2 .dng, 2 .heic, 1 without extension, 1 .part; ")
    assert "pip install 'reldepth-jax[heic]'" in line
    assert "raw files of cameras" in line
    assert describe(listing(tmp_path / "x", frozenset({".heic"})).left_out) == ""


def test_strange_extensions_stay_on_one_line(tmp_path):
    put(tmp_path, "a.x\x1b[2J\n", "b." + 200 * "x")
    line = describe(listing(tmp_path, JPEG).left_out)
    assert line == r"2 files left out: 1 .x\x1b[2j\n, 1 .xxxxxxxxxxx"
