"""Names and layouts as people have them."""

import os
import pathlib
import re
import unicodedata

import numpy as np
import pytest

from reldepth_jax.data.images import io
from reldepth_jax.data.reading import pairing
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.registry import SOURCES


def touch(root: pathlib.Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def pairs(root: pathlib.Path, images: str, maps: str, **options) -> list[tuple[str, str]]:
    found = pairing.find(root, images, maps, **options)
    return [(os.path.relpath(one, root), os.path.relpath(other, root)) for _, one, other in found]


@pytest.mark.parametrize(
    ("places", "files"),
    [
        (
            ("rgb/rgb_*.jpg", "depth/sync_depth_*.png"),
            [("rgb/rgb_0002.jpg", "depth/sync_depth_0002.png")],
        ),
        # NYUv2 as DenseDepth and others have it: a folder for each scene, both kinds together.
        (
            ("*_color", "*_depth"),
            [("a/1_color.jpg", "a/1_depth.png"), ("b/1_color.png", "b/1_depth.npy")],
        ),
        # DIODE, whose masks are arrays too.
        (("*.png", "*_depth.npy"), [("s/00019_outdoor.png", "s/00019_outdoor_depth.npy")]),
        # ScanNet: the same names in two folders of each scene.
        (
            ("scans/*/color/*.jpg", "scans/*/depth/*.png"),
            [
                (f"scans/s{i}/color/{j}.jpg", f"scans/s{i}/depth/{j}.png")
                for i, j in [(0, 1), (1, 1)]
            ],
        ),
        # HyperSim-like: what is shared is not at one end.
        (
            ("frame.*.color.jpg", "frame.*.depth.npy"),
            [("frame.0001.color.jpg", "frame.0001.depth.npy")],
        ),
        # Letters that patterns and regular expressions give a meaning.
        (("im (left) [*].png", "d+*.png"), [("im (left) [7].png", "d+7.png")]),
        (("rgb", "depth"), [("rgb/x/1.JPG", "depth/x/1.pgm")]),
    ],
)
def test_photograph_and_map_are_matched_by_pattern(tmp_path, places, files):
    touch(tmp_path, *(name for two in files for name in two))
    assert pairs(tmp_path, *places) == files


def test_names_that_differ_are_shown_with_patterns_that_would_do(tmp_path):
    names = [f"{i:04}" for i in (7, 8, 19)]
    touch(
        tmp_path,
        *(f"rgb/rgb_{n}.jpg" for n in names),
        *(f"depth/sync_depth_{n}.png" for n in names),
    )
    with pytest.raises(DataError) as caught:
        pairing.find(tmp_path, "rgb", "depth")
    line = str(caught.value)
    assert "photographs: 3 files, maps: 3 files" in line
    assert "the first are rgb/rgb_0007.jpg and depth/sync_depth_0007.png" in line
    options = re.findall(r"--config\.data\.source\.\w+='([^']*)'", line)
    assert len(pairs(tmp_path, *options)) == 3


def test_maps_named_after_the_whole_photograph_get_patterns(tmp_path):
    touch(tmp_path, *(f"rgb/{i}.jpg" for i in "abc"), *(f"depth/{i}.jpg.png" for i in "abc"))
    with pytest.raises(DataError) as caught:
        pairing.find(tmp_path, "rgb", "depth")
    options = re.findall(r"--config\.data\.source\.\w+='([^']*)'", str(caught.value))
    assert len(pairs(tmp_path, *options)) == 3


def test_accents_of_macos_are_those_of_other_systems(tmp_path):
    name = "caf\u00e9"
    touch(tmp_path, f"rgb/{name}.jpg", f"depth/{unicodedata.normalize('NFD', name)}.png")
    assert len(pairs(tmp_path, "rgb", "depth")) == 1
    assert len(pairs(tmp_path, "rgb/*", "depth/*.png")) == 1


def test_partners_in_a_format_that_is_not_read_are_told(tmp_path):
    touch(tmp_path, "rgb/a.jpg", "rgb/b.heic", "depth/a.png", "depth/b.png", "depth/c.exr.gz")
    with pytest.raises(DataError) as caught:
        pairing.find(tmp_path, "rgb", "depth")
    assert "1 of 2 maps have no photograph: b; " in str(caught.value)
    if "heic" not in str(sorted(io.IMAGE_SUFFIXES)):
        assert f"{tmp_path}/rgb: 1 file left out: 1 .heic; to read HEIC" in str(caught.value)
    assert f"{tmp_path}/depth: 1 file left out: 1 .gz" in str(caught.value)


def test_pictures_of_maps_beside_maps_are_told_apart_by_a_pattern(tmp_path):
    touch(tmp_path, "rgb/a.jpg", "depth/a.npy", "depth/a.png")
    with pytest.raises(DataError, match=r"two files have one name.*maps='depth/\*\.npy'"):
        pairing.find(tmp_path, "rgb", "depth")
    assert pairs(tmp_path, "rgb/*", "depth/*.npy") == [("rgb/a.jpg", "depth/a.npy")]


def test_a_tilde_that_no_shell_has_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(DataError, match=rf"~ is not replaced in options, write {tmp_path}/x/rgb"):
        pairing.find(pathlib.Path("~/x"), "rgb", "depth")
    with pytest.raises(DataError, match=rf"no folder; ~ is not .*, write {tmp_path}/ReDWeb_V1"):
        SOURCES.create("redweb", split="train", size=(1, 1), root="~/ReDWeb_V1")


def test_scenes_of_their_own_folders(tmp_path):
    files = [(f"s{i}/rgb/{j}.jpg", f"s{i}/depth/{j}.png") for i in range(2) for j in range(2)]
    touch(tmp_path, *(name for two in files for name in two))
    assert pairs(tmp_path, "*/rgb/*", "*/depth/*") == files


def test_names_without_anything_in_common_are_shown(tmp_path):
    touch(tmp_path, "rgb/monday.jpg", "rgb/tuesday.jpg", "depth/1.png", "depth/2.png")
    with pytest.raises(DataError, match=r"the first are rgb/monday\.jpg and depth/1\.png.*e\.g\. "):
        pairing.find(tmp_path, "rgb", "depth")


def test_one_folder_for_both_needs_patterns(tmp_path):
    touch(tmp_path, "all/1_color.png", "all/1_depth.png")
    with pytest.raises(
        DataError, match=r"the same, .*images='\*_color\.png', maps='\*_depth\.png'"
    ):
        pairing.find(tmp_path, "all", "all")


def test_two_files_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "rgb/a_1.jpg", "rgb/a_1.png", "depth/1.png")
    with pytest.raises(DataError, match="two files have one name"):
        pairing.find(tmp_path, "rgb/a_*", "depth/*")


def test_times_are_matched_to_the_nearest_and_each_map_once(tmp_path):
    rng = np.random.default_rng(0)
    images = np.round(1305031102 + np.arange(30) / 30 + rng.uniform(-0.01, 0.01, 30), 6)
    maps = np.round(1305031102 + np.arange(40) / 40 + rng.uniform(-0.01, 0.01, 40), 6)
    touch(tmp_path, *(f"rgb/{t:.6f}.png" for t in images), *(f"depth/{t:.6f}.png" for t in maps))
    # All pairs, the closest first: what TUM's associate.py does, by its description.
    close = sorted((abs(a - b), a, b) for a in images for b in maps if abs(a - b) <= 0.02)
    wanted: dict[float, float] = {}
    for _, a, b in close:
        if a not in wanted and b not in wanted.values():
            wanted[a] = b
    found = pairs(tmp_path, "rgb", "depth", seconds=0.02)
    assert found == [(f"rgb/{a:.6f}.png", f"depth/{wanted[a]:.6f}.png") for a in sorted(wanted)]
    assert 20 < len(found) < 30
    taken = pairing.find(tmp_path, "rgb", "depth", seconds=0.02)
    lines = pairing.left_out(tmp_path, "rgb", "depth", taken)
    assert f"rgb: {30 - len(found)} file" in lines[0]
    assert f"depth: {40 - len(found)} file" in lines[1]


def test_names_that_are_no_times_are_refused(tmp_path):
    touch(tmp_path, "rgb/1305031102.1.png", "depth/frame7.png")
    with pytest.raises(DataError, match=r"depth/frame7\.png: 'frame7' is no time in seconds"):
        pairing.find(tmp_path, "rgb", "depth", seconds=0.02)
    touch(tmp_path, "d/9.5.png")
    with pytest.raises(DataError, match=r"no photograph has a map within 0\.02 s \(1 .* 1 maps\)"):
        pairing.find(tmp_path, "rgb", "d", seconds=0.02)


def test_files_that_no_pattern_takes_are_counted(tmp_path):
    touch(
        tmp_path, "1_color.png", "1_depth.png", "1_mask.png", "1_mask_b.png", "notes.txt", ".hidden"
    )
    taken = pairing.find(tmp_path, "*_color.png", "*_depth.png")
    (line,) = pairing.left_out(tmp_path, "*_color.png", "*_depth.png", taken)
    assert line == f"{tmp_path}: 3 files left out: 2 .png, 1 .txt"
