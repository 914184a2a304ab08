"""The data doctor: silence on clean data sets, every planted fault found and none invented."""

import importlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image

from reldepth_jax.cli import check_data
from reldepth_jax.data import checks
from reldepth_jax.data.checks import whole_set
from reldepth_jax.data.reading.files import DataError
from tests.fixtures import kitti, nyu_depth_v2, sintel
from tests.fixtures.scenes import save

REMEDY = re.compile(
    r"again|replace it|take |remove |correct |extract|rotate the pixel|look at|nothing to do|Set --"
)


def write(name: str, root: pathlib.Path, **options: Any) -> None:
    importlib.import_module(f"tests.fixtures.{name}").write(root, **options)


def examine(name: str, root: pathlib.Path, **options: Any) -> list[checks.Finding]:
    examination = checks.Examination(name, str(root), **({"partial": True, "threads": 2} | options))
    return list(examination.findings())


class Fault(NamedTuple):
    data_set: str
    title: str
    plant: Callable[[pathlib.Path], object]
    expected: list[tuple[str, str, str]]
    """Severity, check, and file or file:line below the root, "." for the root."""
    options: dict[str, Any] = {}


IMG, RD = "ReDWeb_V1/Imgs/0001.jpg", "ReDWeb_V1/RDs/0001.png"
GT, VALID = "HR-WSI/train/gts/0001.png", "HR-WSI/train/valid_masks/0001.png"
LIST = "DIW_Annotations_splitted/DIW_train.csv"
THUMB = "DIW_train_val/train000.thumb"
NYU_LIST = "data/750_train_from_795_NYU_MITpaper_train_imgs_800_points_resize_240_320.csv"
NYU_TEST = "data/654_NYU_MITpaper_test_imgs_orig_size"
KITTI = "depth_selection/val_selection_cropped/groundtruth_depth"
KITTI_MAP = f"{KITTI}/2011_09_26_drive_0002_sync_groundtruth_depth_0000000001_image_02.png"
MAT = "nyu_depth_v2_labeled.mat"


def delete(path: str) -> Callable[[pathlib.Path], object]:
    return lambda root: (root / path).unlink()


def put(path: str, data: bytes) -> Callable[[pathlib.Path], object]:
    return lambda root: (root / path).write_bytes(data)


def cut(path: str, share: float = 0.5) -> Callable[[pathlib.Path], object]:
    def plant(root: pathlib.Path) -> None:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: int(share * len(data))])

    return plant


def change(
    path: str, how: Callable[[np.ndarray], np.ndarray], **options: object
) -> Callable[[pathlib.Path], object]:
    """Store other pixels: those of the file as `how` changes them."""

    def plant(root: pathlib.Path) -> None:
        with Image.open(root / path) as image:
            array = np.array(image)
        save(root / path, how(array), **options)

    return plant


def change_all(
    pattern: str, how: Callable[[np.ndarray], np.ndarray]
) -> Callable[[pathlib.Path], object]:
    def plant(root: pathlib.Path) -> None:
        for path in sorted(root.glob(pattern)):
            change(str(path.relative_to(root)), how)(root)

    return plant


def copy(source: str, target: str) -> Callable[[pathlib.Path], object]:
    return lambda root: shutil.copy(root / source, root / target)


def turned(path: str, orientation: int) -> Callable[[pathlib.Path], object]:
    """Add an EXIF orientation without touching the pixels."""
    exif = Image.Exif()
    exif[274] = orientation
    return change(path, lambda array: array, quality=95, exif=exif)


def line(path: str, number: int, text: str) -> Callable[[pathlib.Path], object]:
    """Replace a line of a list; `{}` stands for the old one."""

    def plant(root: pathlib.Path) -> None:
        lines = (root / path).read_text().splitlines()
        lines[number - 1] = text.replace("{}", lines[number - 1])
        (root / path).write_text("".join(f"{text}\n" for text in lines))

    return plant


def both(*plants: Callable[[pathlib.Path], object]) -> Callable[[pathlib.Path], object]:
    return lambda root: [plant(root) for plant in plants]


def rewrite(path: str, how: Callable[[list[str]], list[str]]) -> Callable[[pathlib.Path], object]:
    """Change the seven fields of every pair of a list of DIW."""

    def plant(root: pathlib.Path) -> None:
        lines = (root / path).read_text().splitlines()
        lines[1::2] = [",".join(how(text.split(","))) for text in lines[1::2]]
        (root / path).write_text("".join(f"{text}\n" for text in lines))

    return plant


def first_is_farther(fields: list[str]) -> list[str]:
    y_a, x_a, y_b, x_b, relation, *size = fields
    return [y_a, x_a, y_b, x_b, ">", *size] if relation == ">" else [y_b, x_b, y_a, x_a, ">", *size]


def from_zero(fields: list[str]) -> list[str]:
    return [*(str(int(field) - 1) for field in fields[:4]), *fields[4:]]


def zip_instead_of_maps(root: pathlib.Path) -> None:
    shutil.rmtree(root / "ReDWeb_V1/RDs")
    (root / "ReDWeb_V1/RDs.zip").write_bytes(b"PK\x03\x04")


def archives_only(root: pathlib.Path) -> None:
    shutil.rmtree(root)
    root.mkdir()
    for name in ("DIW_Annotations", "DIW_test"):
        (root / f"{name}.tar.gz").write_bytes(b"")


def huge(root: pathlib.Path) -> None:
    Image.new("1", (10_000, 9_000)).save(root / IMG, format="PNG")


def arrays(how: Callable[[Any], None]) -> Callable[[pathlib.Path], object]:
    def plant(root: pathlib.Path) -> None:
        with h5py.File(root / MAT, "r+") as file:
            how(file)

    return plant


def fill_raw(file: Any) -> None:
    file["rawDepths"][:] = file["depths"][:]


def negative(file: Any) -> None:
    file["depths"][4, 0, 0] = -1


def sintel_nan(root: pathlib.Path) -> None:
    depth = sintel.depth_of(0)
    depth[3, 4] = np.nan
    sintel.write_dpt(root / "training/depth/alley_1/frame_0001.dpt", depth)


def da2k_outside(root: pathlib.Path) -> None:
    path = root / "DA-2K/annotations.json"
    content = json.loads(path.read_text())
    content["images/indoor/0.jpg"][0]["point1"] = [48, 3]
    path.write_text(json.dumps(content))


def inverted(rd: np.ndarray) -> np.ndarray:
    return np.where(rd == 255, 255, 254 - rd).astype(np.uint8)


def tall(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))


def error(check: str, place: str) -> list[tuple[str, str, str]]:
    return [("error", check, place)]


def warning(check: str, place: str) -> list[tuple[str, str, str]]:
    return [("warning", check, place)]


TEN = {"count": 10}
FAULTS = [
    Fault("redweb", "image missing", delete(IMG), error("partner", RD)),
    Fault("redweb", "map missing", delete(RD), error("partner", IMG)),
    Fault(
        "redweb", "map with another extension",
        lambda root: (root / RD).rename((root / RD).with_suffix(".jpg")), error("partner", IMG),
    ),
    Fault("redweb", "empty image", put(IMG, b""), error("unreadable", IMG)),
    Fault("redweb", "empty map", put(RD, b""), error("unreadable", RD)),
    Fault("redweb", "web page", put(IMG, b"<!DOCTYPE html><p>sorry"), error("unreadable", IMG)),
    Fault("redweb", "truncated image", cut(IMG), error("unreadable", IMG)),
    Fault("redweb", "truncated map", cut(RD), error("unreadable", RD)),
    Fault(
        "redweb", "both truncated", both(cut(IMG), cut(RD)),
        error("unreadable", IMG) + error("unreadable", RD),
    ),
    Fault(
        "redweb", "JPEG map", change(RD, lambda rd: rd, format="JPEG"), error("unreadable", RD)
    ),
    Fault(
        "redweb", "coloured map", change(RD, lambda rd: rd * np.array([1, 0, 1], np.uint8)),
        error("unreadable", RD),
    ),
    Fault(
        "redweb", "16-bit map", change(RD, lambda rd: rd[..., 0].astype(np.uint16) * 257),
        error("map type", RD),
    ),
    Fault("redweb", "more pixels than allowed", huge, error("unreadable", IMG)),
    Fault(
        "redweb", "two images of one name", copy(IMG, "ReDWeb_V1/Imgs/0001.png"),
        error("duplicate name", "ReDWeb_V1/Imgs/0001.png"),
    ),
    Fault(
        "redweb", "archive not extracted", zip_instead_of_maps,
        error("folder", "ReDWeb_V1/RDs") + error("archive", "ReDWeb_V1/RDs.zip"),
    ),
    Fault("redweb", "map of another shape", change(RD, tall), error("size", RD)),
    Fault("redweb", "resized map", change(RD, lambda rd: rd[::2, ::2]), warning("size", RD)),
    Fault("redweb", "rotated for display", turned(IMG, 6), warning("exif", IMG)),
    Fault("redweb", "mirrored for display", turned(IMG, 2), warning("exif", IMG)),
    Fault(
        "redweb", "map goes with the displayed image", both(turned(IMG, 6), change(RD, tall)),
        error("exif", IMG),
    ),
    Fault(
        "redweb", "near and far exchanged", change_all("ReDWeb_V1/RDs/*.png", inverted),
        error("polarity", "."), TEN,
    ),
    Fault("redweb", "map upside down", change(RD, lambda rd: rd[::-1]), warning("sky", RD)),
    Fault(
        "redweb", "no sky anywhere",
        change_all("ReDWeb_V1/RDs/*.png", lambda rd: np.minimum(rd, 254)),
        warning("sky", "."), {"count": 20},
    ),
    Fault("redweb", "constant map", change(RD, lambda rd: 0 * rd + 7), warning("constant", RD)),
    Fault(
        "redweb", "nearly constant map",
        change(RD, lambda rd: np.where(np.indices(rd.shape)[0] < 2, rd, rd.dtype.type(7))),
        warning("constant", RD),
    ),
    Fault(
        "redweb", "same image twice", copy(IMG, "ReDWeb_V1/Imgs/0004.jpg"),
        warning("duplicate", "ReDWeb_V1/Imgs/0004.jpg"),
    ),
    Fault("hr_wsi", "nothing valid", change(VALID, np.zeros_like), warning("ground truth", VALID)),
    Fault("hr_wsi", "other values", change(VALID, lambda m: m // 9), warning("mask", VALID)),
    Fault("hr_wsi", "mask missing", delete(VALID), error("partner", "HR-WSI/train/imgs/0001.jpg")),
    Fault("hr_wsi", "truncated mask", cut(VALID), error("unreadable", VALID)),
    Fault(
        "hr_wsi", "16-bit map", change(GT, lambda gt: gt[..., 0].astype(np.uint16)),
        error("map type", GT),
    ),
    Fault(
        "hr_wsi", "near and far exchanged", change_all("HR-WSI/*/gts/*.png", inverted),
        error("polarity", "."), {"train": 10},
    ),
    Fault(
        "hr_wsi", "training image in val",
        copy("HR-WSI/train/imgs/0001.jpg", "HR-WSI/val/imgs/0003.jpg"),
        error("duplicate", "HR-WSI/val/imgs/0003.jpg"),
    ),
    Fault("diw", "relation =", line(LIST, 2, "1,1,9,9,=,64,48"), warning("line", f"{LIST}:2")),
    Fault("diw", "separator", line(LIST, 4, "1;1;9;9;>;48;64"), warning("line", f"{LIST}:4")),
    Fault("diw", "outside", line(LIST, 2, "1,65,9,9,>,64,48"), warning("line", f"{LIST}:2")),
    Fault("diw", "no number", line(LIST, 2, "1,x,9,9,>,64,48"), warning("line", f"{LIST}:2")),
    Fault("diw", "one point", line(LIST, 2, "9,9,9,9,>,64,48"), warning("line", f"{LIST}:2")),
    Fault("diw", "path leads out", line(LIST, 1, "../../x.thumb"), warning("line", f"{LIST}:1")),
    Fault("diw", "pair without path", line(LIST, 12, "{}\n1,1,9,9,>,64,48"),
          warning("line", f"{LIST}:13")),
    Fault("diw", "NUL", line(LIST, 5, "\0"), error("list", f"{LIST}:5")),
    Fault("diw", "image missing", delete(THUMB), error("unreadable", THUMB)),
    Fault("diw", "truncated image", cut(THUMB), error("unreadable", THUMB)),
    Fault("diw", "other size stated", line(LIST, 2, "1,1,9,9,>,65,48"), error("size", THUMB)),
    Fault(
        "diw", "list goes with the displayed image",
        both(turned(THUMB, 6), line(LIST, 2, "1,1,9,9,>,48,64")), error("exif", THUMB),
    ),
    Fault(
        "diw", "no image of a list", lambda root: shutil.rmtree(root / "DIW_test"),
        error("list", "DIW_Annotations_splitted/DIW_test.csv"),
    ),
    Fault(
        "diw", "always >", rewrite(LIST, first_is_farther), warning("balance", LIST), {"count": 20}
    ),
    Fault(
        "diw", "near and far exchanged",
        lambda root: [
            rewrite(
                f"DIW_Annotations_splitted/DIW_{part}.csv",
                lambda f: [*f[:4], "<" if f[4] == ">" else ">", *f[5:]],
            )(root)
            for part in ("train", "val", "test")
        ],
        error("polarity", "."), {"count": 12},
    ),
    Fault(
        "diw", "counted from 0",
        both(
            line(LIST, 2, "1,7,9,9,>,64,48"), line(LIST, 4, "9,9,33,1,>,48,64"),
            rewrite(LIST, from_zero),
        ),
        warning("line", f"{LIST}:2") + warning("line", f"{LIST}:4") + error("coordinates", LIST),
    ),
    Fault(
        "diw", "archives not extracted", archives_only,
        error("list", ".") + error("archive", "DIW_Annotations.tar.gz")
        + error("archive", "DIW_test.tar.gz"),
    ),
    Fault("nyu_pairs", "=", line(NYU_LIST, 3, "1,1,9,9"), warning("line", f"{NYU_LIST}:3")),
    Fault(
        "nyu_pairs", "more pairs stated", line(NYU_LIST, 2, "../../data/train_imgs/1.png,0,31"),
        error("list", f"{NYU_LIST}:2"),
    ),
    Fault(
        "nyu_pairs", "image missing", delete("data/train_imgs/2.png"),
        error("unreadable", "data/train_imgs/2.png"),
    ),
    Fault(
        "nyu_pairs", "depth damaged", put(f"{NYU_TEST}/1_depth.h5", b"oops"),
        error("content", f"{NYU_TEST}/1_depth.h5"),
    ),
    Fault(
        "nyu_pairs", "other size", change("data/train_imgs/1.png", lambda image: image[:-1]),
        error("size", "data/train_imgs/1.png"),
    ),
    Fault("nyu_depth_v2", "raw is filled", arrays(fill_raw), warning("raw", ".")),
    Fault("nyu_depth_v2", "negative depth", arrays(negative), error("content", f"{MAT}#5")),
    Fault("nyu_depth_v2", "web page", put(MAT, b"<html>"), error("file", MAT)),
    Fault(
        "nyu_depth_v2", "image of train and test",
        lambda root: nyu_depth_v2.write_splits(root, (2, 3), (1, 3)), error("file", "splits.mat"),
    ),
    Fault(
        "kitti", "8-bit map", change(KITTI_MAP, lambda v: (v // 256).astype(np.uint8)),
        error("map type", KITTI_MAP),
    ),
    Fault("kitti", "other size", change(KITTI_MAP, lambda v: v[:-2]), error("size", KITTI_MAP)),
    Fault(
        "eth3d", "short map",
        cut("courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG"),
        error("content", "courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG"),
    ),
    Fault(
        "eth3d", "truncated image", cut("courtyard/images/dslr_images/DSC_0286.JPG", 0.9),
        error("unreadable", "courtyard/images/dslr_images/DSC_0286.JPG"),
    ),
    Fault(
        "sintel", "truncated map", cut("training/depth/alley_1/frame_0001.dpt"),
        error("unreadable", "training/depth/alley_1/frame_0001.dpt"),
    ),
    Fault("sintel", "NaN", sintel_nan, error("content", "training/final/alley_1/frame_0001.png")),
    Fault(
        "tum", "truncated file", cut("tum_hdf5/AjJV5tXVHJU_0001.jpg.h5"),
        error("content", "tum_hdf5/AjJV5tXVHJU_0001.jpg.h5"),
    ),
    Fault(
        "folder", "scores of both signs",
        lambda root: np.save(root / "depth/3.npy", np.linspace(-1, 1, 48 * 64).reshape(48, 64))
        or (root / "depth/3.png").unlink(),
        error("values", "rgb/3.jpg"),
    ),
    Fault(
        "folder", "zero is sky", change("depth/3.png", lambda v: v * (v < 9000)),
        error("values", "rgb/3.jpg"),
    ),
    Fault(
        "folder", "near and far exchanged",
        change_all("depth/*.png", lambda v: (65536 - v.astype(np.int64)).astype(np.uint16)),
        error("polarity", "."),
    ),
    Fault("folder", "map missing", delete("depth/3.png"), error("file", ".")),
    Fault("folder", "coloured map", put("depth/3.png", b"x"), error("unreadable", "depth/3.png")),
    Fault("folder", "map of another shape", change("depth/3.png", lambda v: v[:, :40]),
          error("size", "depth/3.png")),
    Fault(
        "folder", "no reading is the largest value",
        change_all("depth/*.png", lambda v: np.where(v < 9000, v, np.uint16(65535))),
        warning("mark", "."),
    ),
    Fault("folder", "other files", put("rgb/a.dng", b"x"), warning("left out", "rgb")),
    Fault("folder", "training image validates", copy("rgb/1.jpg", "rgb/8.jpg"),
          error("duplicate", "rgb/8.jpg")),
    Fault("da2k", "outside", da2k_outside, error("content", "DA-2K/images/indoor/0.jpg")),
    Fault(
        "da2k", "damaged annotations", cut("DA-2K/annotations.json"),
        error("list", "DA-2K/annotations.json"),
    ),
    Fault(
        "da2k", "image missing", delete("DA-2K/images/indoor/2.jpg"),
        error("unreadable", "DA-2K/images/indoor/2.jpg"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.data_set}: {fault.title}")
def test_planted_fault_is_found_and_no_other(fault: Fault, tmp_path: pathlib.Path):
    write(fault.data_set, tmp_path, **fault.options)
    fault.plant(tmp_path)
    found = examine(fault.data_set, tmp_path)
    expected = [(s, check, str(tmp_path / place)) for s, check, place in fault.expected]
    assert sorted(finding[:3] for finding in found) == sorted(expected), found
    for finding in found:
        assert REMEDY.search(finding.message), finding
        assert len(finding.message.splitlines()) == 1


@pytest.mark.parametrize(("count", "refused"), [(15, 0), (50, 1)])
def test_swapped_coordinates_are_told_from_stray_lines(count: int, refused: int, tmp_path):
    write("diw", tmp_path, count=count)
    rewrite(LIST, lambda f: [f[1], f[0], f[3], f[2], *f[4:]])(tmp_path)
    lines = [text.split(",") for text in (tmp_path / LIST).read_text().splitlines()[1::2]]
    outside = [
        2 * number + 2
        for number, (y_a, x_a, y_b, x_b, _, width, height) in enumerate(lines)
        if max(int(y_a), int(y_b)) > int(height) or max(int(x_a), int(x_b)) > int(width)
    ]
    assert len(outside) >= 2
    assert (len(outside) > 10) == bool(refused)
    found = examine("diw", tmp_path)
    assert [f.place for f in found if f.check == "line"] == [
        f"{tmp_path / LIST}:{number}" for number in outside
    ]
    assert [f.check for f in found if f.check != "line"] == ["list"] * refused + ["coordinates"]
    assert found[-1][:3] == ("error", "coordinates", str(tmp_path / LIST))
    good = count - len(outside)
    assert f"{good} of {count} pairs are valid as written, {count} with rows" in found[-1].message


def test_too_many_defective_lines_are_an_error(tmp_path: pathlib.Path):
    write("diw", tmp_path, count=15)
    for number in range(2, 24, 2):
        line(LIST, number, "1,1,9,9,=,64,48")(tmp_path)
    found = examine("diw", tmp_path)
    assert [f.place for f in found if f.check == "line"] == [
        f"{tmp_path / LIST}:{number}" for number in range(2, 24, 2)
    ]
    (refused,) = [f for f in found if f.check != "line"]
    assert refused[:3] == ("error", "list", f"{tmp_path / LIST}:2")
    assert "11 of 15 pairs are defective" in refused.message


def test_several_faults_are_all_found(tmp_path: pathlib.Path):
    write("redweb", tmp_path)
    delete("ReDWeb_V1/RDs/0000.png")(tmp_path)
    cut(IMG)(tmp_path)
    change("ReDWeb_V1/RDs/0002.png", tall)(tmp_path)
    turned("ReDWeb_V1/Imgs/0003.jpg", 3)(tmp_path)
    copy("ReDWeb_V1/Imgs/0003.jpg", "ReDWeb_V1/Imgs/0004.jpg")(tmp_path)
    assert sorted((f.check, f.place[-8:]) for f in examine("redweb", tmp_path)) == [
        ("duplicate", "0004.jpg"), ("exif", "0003.jpg"), ("exif", "0004.jpg"),
        ("partner", "0000.jpg"), ("size", "0002.png"), ("unreadable", "0001.jpg"),
    ]  # fmt: skip


def test_a_few_contradicting_images_are_no_finding(tmp_path: pathlib.Path):
    write("redweb", tmp_path, count=7)
    change_all("ReDWeb_V1/RDs/*.png", inverted)(tmp_path)
    assert examine("redweb", tmp_path) == []


def test_half_of_the_images_reversed_is_no_reversed_data_set(tmp_path: pathlib.Path):
    write("redweb", tmp_path, count=12)
    change_all("ReDWeb_V1/RDs/*[02468].png", inverted)(tmp_path)
    assert examine("redweb", tmp_path) == []


@pytest.mark.parametrize(
    ("wrong", "is_reversed"),
    [([13] * 8, True), ([12] * 8, False), ([13] * 7, False), ([20] * 4 + [6] * 4, False)],
)
def test_reversed_means_surely_less_than_two_fifths(wrong: list[int], is_reversed: bool):
    # Of 20 pairs an image: 7 agree with the rule, or 8; too few images; images that do not agree.
    seen = [
        whole_set.Examined("train", str(n), whole_set.Summary(b"", count, 20, True, 0.2, True, 1.0))
        for n, count in enumerate(wrong)
    ]
    found = whole_set.polarity("", seen, "root")
    assert [f[:3] for f in found] == [("error", "polarity", "root")] * is_reversed
    assert all("only in 35% of the pairs of points in 8 images" in f.message for f in found)


def test_same_image_in_training_and_held_out_validation(tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    rd = (np.arange(8, dtype=np.uint8)[::-1, None] * np.ones(8, np.uint8)) * 30
    for number in range(362):
        save(tmp_path / f"Imgs/{number:03}.png", rng.integers(0, 256, (8, 8, 3), np.uint8))
        save(tmp_path / f"RDs/{number:03}.png", rd)
    # 360 validate: the two that train are the last of the fixed order.
    bits = np.random.Philox(0).random_raw(362)
    trains, validates = (int(np.argsort(bits, kind="stable")[place]) for place in (361, 0))
    copy(f"Imgs/{trains:03}.png", f"Imgs/{validates:03}.png")(tmp_path)
    (finding,) = [f for f in examine("redweb", tmp_path) if f.check == "duplicate"]
    later = max(trains, validates)
    assert finding[:3] == ("error", "duplicate", str(tmp_path / f"Imgs/{later:03}.png"))


def test_images_that_another_data_set_has_too(tmp_path: pathlib.Path):
    train, test = tmp_path / "redweb", tmp_path / "diw"
    write("redweb", train)
    write("diw", test, lists="joined")
    # The training images show the same scenes.
    delete("diw/DIW_Annotations/DIW_train_val.csv")(tmp_path)
    copy(f"redweb/{IMG}", "diw/DIW_test/test002.thumb")(tmp_path)
    (finding,) = examine("redweb", train, against=[("diw", str(test))])
    assert finding[:3] == ("error", "duplicate", str(train / IMG))
    assert f"{test}/DIW_test/test002.thumb (diw test)" in finding.message


def test_counts_are_compared_with_the_published_ones(tmp_path: pathlib.Path):
    write("redweb", tmp_path)
    (finding,) = examine("redweb", tmp_path, partial=False)
    assert finding[:3] == ("warning", "counts", str(tmp_path))
    assert "6 of the 3600 published train images are here, 3594 are missing" in finding.message
    for kind in ("Imgs", "RDs"):
        shutil.rmtree(tmp_path / "ReDWeb_V1" / kind)
        (tmp_path / "ReDWeb_V1" / kind).mkdir()
    (finding,) = examine("redweb", tmp_path)
    assert finding[:2] == ("error", "counts")


def test_validation_images_need_no_list_of_their_own(tmp_path: pathlib.Path):
    write("diw", tmp_path, lists="joined")
    (finding,) = examine("diw", tmp_path, partial=False)
    assert "6 of the 74441 published test images" in finding.message
    delete("DIW_Annotations/DIW_test.csv")(tmp_path)
    (finding,) = examine("diw", tmp_path, partial=False)
    assert finding[:2] == ("warning", "counts")
    assert "the test list is not here" in finding.message
    write("nyu_pairs", tmp_path)
    delete(NYU_LIST)(tmp_path)
    *fewer, finding = examine("nyu_pairs", tmp_path, partial=False)
    assert [(f.severity, f.check) for f in fewer] == [("warning", "counts")] * 2
    assert finding[:2] == ("error", "counts")
    assert "the train list is not here" in finding.message


def test_what_the_reader_refuses_is_an_error(tmp_path: pathlib.Path, monkeypatch):
    def refuse(layout: object, data_set: str, root: str, part: str) -> None:
        raise DataError(f"{root}/ReDWeb_V1: something else")

    write("redweb", tmp_path)
    monkeypatch.setattr("reldepth_jax.data.reading.declaration.Folders.read", refuse)
    (finding,) = examine("redweb", tmp_path)
    assert finding[:3] == ("error", "reader", f"{tmp_path}/ReDWeb_V1")


def test_a_missing_part_is_reported_unless_partial(tmp_path: pathlib.Path):
    write("hr_wsi", tmp_path)
    shutil.rmtree(tmp_path / "HR-WSI/val")
    found = [(f.severity, f.check) for f in examine("hr_wsi", tmp_path, partial=False)]
    assert sorted(found) == [("error", "folder"), ("warning", "counts")]
    assert examine("hr_wsi", tmp_path) == []


def test_samples_are_a_fixed_choice(tmp_path: pathlib.Path):
    write("redweb", tmp_path)
    cut(IMG)(tmp_path)
    order = np.argsort(np.random.Philox(0).random_raw(6), kind="stable").tolist()
    place = order.index(1)
    examination = checks.Examination("redweb", str(tmp_path), sample=place, partial=True)
    calls = []
    if place:
        assert list(examination.findings(lambda *call: calls.append(call))) == []
        assert calls[-1] == (place, place)
    assert len(examine("redweb", tmp_path, sample=place + 1)) == 1


def test_raw_depth_that_is_hardly_measured():
    summary = whole_set.Summary(b"", 0, 0, False, 0.9, True, 1.0)
    (finding,) = whole_set.raw([whole_set.Examined("train", "x", summary)], "root")
    assert finding[:3] == ("warning", "raw", "root")
    assert "90%" in finding.message


# The command.


def main(*arguments: object) -> int:
    return check_data.main([*map(str, arguments)])


@pytest.mark.parametrize("name", checks.data_sets())
def test_script_on_clean_data(name: str, tmp_path: pathlib.Path, capsys):
    root, output = tmp_path / "data", tmp_path / "out"
    write(name, root)
    before = sorted(root.rglob("*"))
    assert main(name, root, "--partial", "--output", output) == 0
    assert sorted(root.rglob("*")) == before
    (summary,) = capsys.readouterr().out.splitlines()
    assert "0 errors, 0 warnings: training may start" in summary
    report = json.loads((output / f"check_{name}.json").read_text())
    assert report["findings"] == []
    with Image.open(output / f"check_{name}.png") as picture:
        picture.load()
        assert min(picture.size) > 100


def test_options_of_the_source_are_those_of_training(tmp_path: pathlib.Path, capsys):
    root, out = tmp_path / "data", ("--output", tmp_path / "out")
    write("folder", root)
    change_all("depth/*.png", lambda v: v * (v < 9000))(root)
    assert main("folder", root, *out) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum("nothing says what it means" in line for line in lines) == 10
    assert main("folder", root, *out, "--config.data.source.invalid=0") == 0
    (summary,) = capsys.readouterr().out.splitlines()
    valid = [np.asarray(Image.open(path)) > 0 for path in (root / "depth").iterdir()]
    assert f"Ground truth at {np.mean(valid):.0%} of the pixels." in summary
    report = json.loads((tmp_path / "out/check_folder.json").read_text())
    assert report["options"] == {"invalid": [0.0]}
    assert report["valid"] == pytest.approx(np.mean(valid))


def test_list_of_kitti_is_that_of_the_evaluation(tmp_path: pathlib.Path, capsys):
    write("kitti", tmp_path / "data")
    first = kitti.paths(1)
    (tmp_path / "data/list.txt").write_text(" ".join(first) + "\n")
    assert main("kitti", tmp_path / "data", "--partial", "--output", tmp_path / "out") == 0
    assert "kitti: 1 samples, 0 errors" in capsys.readouterr().out
    (tmp_path / "data/list.txt").write_text(f"{first[0]} {first[1]}x\n")
    assert main("kitti", tmp_path / "data", "--partial", "--output", tmp_path / "out") == 1
    assert f"{tmp_path}/data/list.txt" in capsys.readouterr().out


def test_script_prints_twenty_of_each_kind_and_writes_all(tmp_path, capsys):
    root, output = tmp_path / "data", tmp_path / "out"
    write("redweb", root, count=30)
    for number in range(25):
        cut(f"ReDWeb_V1/RDs/{number:04}.png")(root)
    turned("ReDWeb_V1/Imgs/0029.jpg", 6)(root)
    assert main("redweb", root, "--partial", "--output", output) == 1
    *lines, more, exif, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == 20
    assert all(re.match(r"error: \S+/RDs/\d{4}\.png: .* \[unreadable\]$", line) for line in lines)
    assert more.startswith("error: … and 5 more, see ")
    assert exif.startswith(f"warning: {root}/ReDWeb_V1/Imgs/0029.jpg: ")
    assert "30 samples, 25 errors, 1 warnings: training may not start" in summary
    report = json.loads((output / "check_redweb.json").read_text())
    assert len(report["findings"]) == 26
    assert (output / "check_redweb.png").stat().st_size > 1000


def test_warnings_alone_do_not_forbid_training(tmp_path, capsys):
    write("redweb", tmp_path / "data")
    out = ("--output", tmp_path / "out")
    assert main("redweb", tmp_path / "data", *out) == 0
    assert "0 errors, 1 warnings: training may start" in capsys.readouterr().out


def test_script_as_a_person_runs_it(tmp_path: pathlib.Path):
    write("redweb", tmp_path / "data")

    def run(*arguments: object) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "scripts/check_data.py", *map(str, arguments)],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    out = ("--partial", "--output", tmp_path / "out")
    clean = run("redweb", tmp_path / "data", *out)
    assert (clean.returncode, clean.stderr.strip(), clean.stdout.count("\n")) == (0, "", 1), clean
    archive = tmp_path / "data.zip"
    archive.write_bytes(b"PK\x03\x04")
    found = run("redweb", archive, *out)
    assert found.returncode == 1
    assert f"error: {archive}: is a file, not a folder; extract it first" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["redwep", "."], "Did you mean 'redweb'"),
        (["redweb", "nowhere"], "nowhere is no folder"),
        (["redweb", "DATA", "--output", "DATA/x"], "lies in the data set"),
        (["redweb", "DATA", "--against", "diw"], "NAME:PATH"),
        (["redweb", "DATA", "--sample", "-1"], "--sample"),
        (["redweb", "DATA", "--sampel=1"], "--sample"),
        (["redweb", "DATA", "--config.train.steps=1"], "train.steps: only options of the source"),
        (["folder", "DATA", "--config.data.source.inwalid=0"], "Did you mean 'invalid'"),
    ],
)
def test_wrong_usage(arguments, message, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    arguments = [argument.replace("DATA", str(data)) for argument in arguments]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        main(*arguments)
    assert len(str(caught.value).splitlines()) == 1
