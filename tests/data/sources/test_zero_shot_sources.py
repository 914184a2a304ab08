"""KITTI, ETH3D, Sintel and TUM: what the four have in common, then each format."""

import pickle
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from reldepth_jax.data.data_set import declared
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources import sintel
from reldepth_jax.registry import SOURCES
from tests.fixtures import eth3d as eth3d_fixture
from tests.fixtures import kitti as kitti_fixture
from tests.fixtures import sintel as sintel_fixture
from tests.fixtures import tum as tum_fixture
from tests.fixtures.scenes import save, scene

FIXTURES = {
    "kitti": kitti_fixture,
    "eth3d": eth3d_fixture,
    "sintel": sintel_fixture,
    "tum": tum_fixture,
}


def write(name, root):
    FIXTURES[name].write(root)
    return root


def create(name, root, split="test", **options):
    return SOURCES.create(name, split=split, size=(1, 1), root=str(root), **options)


def fails(source, message):
    with pytest.raises(UnreadableFile, match=message) as caught:
        source[0]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", FIXTURES)
def test_there_is_a_test_split_only(tmp_path, name, split):
    with pytest.raises(DataError, match=f"{name} has no {split} split; it is for testing only"):
        create(name, write(name, tmp_path), split)
    data_set = declared(name).data_set
    assert data_set.read(str(tmp_path), split) is None
    records = data_set.read(str(tmp_path), "test")
    assert {key: values.dtype for key, values in records[0]["maps"].items()} == data_set.dtypes


@pytest.mark.parametrize("name", FIXTURES)
def test_an_empty_folder_is_said_so(tmp_path, name):
    with pytest.raises(DataError, match="root is not set"):
        create(name, "")
    with pytest.raises(DataError, match=str(tmp_path)) as caught:
        create(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FIXTURES)
def test_source_survives_pickling_and_reads_the_same_twice(tmp_path, name):
    source = create(name, write(name, tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for key in ("image", "depth", "mask"):
        np.testing.assert_array_equal(copy[1][key], source[1][key])
    with pytest.raises(IndexError):
        source[len(source)]


@pytest.mark.parametrize("name", ["kitti", "eth3d", "sintel"])
def test_lonely_files_are_counted_and_named(tmp_path, name):
    write(name, tmp_path)
    maps = [path for path in sorted(tmp_path.rglob("*.*")) if "depth/" in str(path)]
    maps[1].unlink()
    with pytest.raises(DataError, match=r"1 of \d images have no depth map: \S+$"):
        create(name, tmp_path)


@pytest.mark.parametrize("name", FIXTURES)
def test_truncated_maps_name_themselves(tmp_path, name):
    source = create(name, write(name, tmp_path))
    maps = [p for p in sorted(tmp_path.rglob("*.*")) if "depth/" in str(p) or p.suffix == ".h5"]
    content = maps[0].read_bytes()
    maps[0].write_bytes(content[: len(content) // 2])
    fails(source, maps[0].name)


# KITTI


@pytest.mark.parametrize("inside", ["", "depth_selection", kitti_fixture.FOLDER])
def test_kitti_matches_the_scenes(tmp_path, inside):
    source = create("kitti", write("kitti", tmp_path) / inside)
    assert len(source) == 3
    for number in range(3):
        sample, (image, depth) = source[number], scene(number, 40, 120)
        np.testing.assert_array_equal(sample["image"], image)
        mask = kitti_fixture.measured(40, 120) & np.isfinite(depth)
        np.testing.assert_array_equal(sample["mask"], mask)
        assert np.abs(sample["depth"] - depth)[mask].max() <= 0.5 / 256 + 1e-5
        assert sample["depth"].dtype == np.float32


def test_kitti_values_are_metres_times_256(tmp_path):
    write("kitti", tmp_path)
    values = np.zeros((40, 120), np.uint16)
    values[2, 7:10] = 256, 65535, 1
    save(tmp_path / kitti_fixture.paths(0)[1], values)
    sample = create("kitti", tmp_path)[0]
    assert sample["depth"][2, 7:10].tolist() == [1.0, 65535 / 256, 1 / 256]
    assert np.argwhere(sample["mask"]).tolist() == [[2, 7], [2, 8], [2, 9]]


def test_kitti_map_without_measurement_has_an_empty_mask(tmp_path):
    write("kitti", tmp_path)
    save(tmp_path / kitti_fixture.paths(0)[1], np.zeros((40, 120), np.uint16))
    assert not create("kitti", tmp_path)[0]["mask"].any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((40, 120), np.uint8), "its depth map has uint8 values, not 16 bits"),
        (np.ones((41, 120), np.uint16), "120x40 pixels, but its depth map has 120x41"),
    ],
)
def test_kitti_maps_of_another_kind_are_refused(tmp_path, values, message):
    write("kitti", tmp_path)
    save(tmp_path / kitti_fixture.paths(0)[1], values)
    fails(create("kitti", tmp_path), message)


def test_kitti_list_selects_and_orders(tmp_path):
    write("kitti", tmp_path)
    lines = [" ".join(kitti_fixture.paths(number)) for number in (2, 0)]
    (tmp_path / "some.txt").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
    source = create("kitti", tmp_path, list=str(tmp_path / "some.txt"))
    assert len(source) == 2
    for index, number in enumerate((2, 0)):
        np.testing.assert_array_equal(source[index]["image"], scene(number, 40, 120)[0])
        mask = source[index]["mask"]
        difference = np.abs(source[index]["depth"] - scene(number, 40, 120)[1])
        assert difference[mask].max() <= 0.5 / 256 + 1e-5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png", r"some\.txt:3: expected 'image_path depth_path', got 1 fields"),
        ("a.png b.png 721.5", r"some\.txt:3: .* got 3 fields"),
        ("../a.png ../b.png", "leads out of the data"),
        (kitti_fixture.paths(0)[0] + " None", r"some\.txt:3: there is no file .*None"),
        ("none.png " + kitti_fixture.paths(0)[1], r"some\.txt:3: there is no file .*none\.png"),
    ],
)
def test_kitti_list_mistakes_name_the_line(tmp_path, line, message):
    write("kitti", tmp_path)
    (tmp_path / "some.txt").write_text(" ".join(kitti_fixture.paths(0)) + f"\n\n{line}\n")
    with pytest.raises(DataError, match=message):
        create("kitti", tmp_path, list=str(tmp_path / "some.txt"))


def test_kitti_list_that_is_missing_or_empty(tmp_path):
    write("kitti", tmp_path)
    with pytest.raises(UnreadableFile, match=r"some\.txt: no such file"):
        create("kitti", tmp_path, list=str(tmp_path / "some.txt"))
    (tmp_path / "some.txt").write_text("\n")
    with pytest.raises(DataError, match=r"some\.txt"):
        create("kitti", tmp_path, list=str(tmp_path / "some.txt"))


# ETH3D


def test_eth3d_matches_the_scenes(tmp_path):
    source = create("eth3d", write("eth3d", tmp_path))
    assert len(source) == 4
    for number in range(4):
        sample, (image, depth) = source[number], scene(number)
        assert np.abs(sample["image"].astype(int) - image).mean() < 3
        np.testing.assert_array_equal(sample["depth"], depth)
        # Unlike elsewhere inf is not sky: it is not measured.
        np.testing.assert_array_equal(sample["mask"], np.isfinite(depth))
        assert 0 < sample["mask"].sum() < sample["mask"].size


def test_eth3d_bytes_are_little_endian_rows_from_the_top(tmp_path):
    write("eth3d", tmp_path)
    values = bytearray(b"\x00\x00\x80\x7f" * (48 * 64))
    # 1.5 at row 1, column 2.
    values[4 * 66 : 4 * 67] = b"\x00\x00\xc0\x3f"
    name = "courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG"
    (tmp_path / name).write_bytes(values)
    sample = create("eth3d", tmp_path)[0]
    assert np.argwhere(sample["mask"]).tolist() == [[1, 2]]
    assert sample["depth"][1, 2] == 1.5
    (tmp_path / name).write_bytes(b"\x00\x00\x80\x7f" * (48 * 64))
    assert not create("eth3d", tmp_path)[0]["mask"].any()


def test_eth3d_sizes_must_agree(tmp_path):
    write("eth3d", tmp_path)
    save(tmp_path / "courtyard/images/dslr_images/DSC_0286.JPG", np.zeros((47, 64, 3), np.uint8))
    message = r"ground_truth_depth/.*DSC_0286\.JPG: has 12288 bytes; float32 for 64x47 .* 12032"
    fails(create("eth3d", tmp_path), message)


def test_eth3d_sizes_are_those_of_stored_pixels(tmp_path):
    write("eth3d", tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "courtyard/images/dslr_images/DSC_0286.JPG"
    Image.fromarray(scene(0)[0]).save(path, exif=exif)
    assert create("eth3d", tmp_path)[0]["image"].shape == (48, 64, 3)


@pytest.mark.parametrize("value", [np.nan, -1])
def test_eth3d_depth_that_cannot_be_is_refused(tmp_path, value):
    write("eth3d", tmp_path)
    depth = scene(0)[1]
    depth[40, 5] = value
    path = tmp_path / "courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG"
    path.write_bytes(depth.tobytes())
    fails(create("eth3d", tmp_path), r"DSC_0286\.JPG: its depth map holds negative values or NaN")


def test_eth3d_image_that_is_none(tmp_path):
    source = create("eth3d", write("eth3d", tmp_path))
    (tmp_path / "courtyard/images/dslr_images/DSC_0286.JPG").write_bytes(b"<html>")
    fails(source, r"images/dslr_images/DSC_0286\.JPG: is a web page, not an image")


# Sintel


@pytest.mark.parametrize("folder", ["training/depth", "depth"])
def test_sintel_matches_the_scenes(tmp_path, folder):
    sintel_fixture.write(tmp_path, depth=folder)
    source = create("sintel", tmp_path)
    assert len(source) == 4
    for number in range(4):
        sample = source[number]
        np.testing.assert_array_equal(sample["image"], scene(number)[0])
        np.testing.assert_array_equal(sample["depth"], sintel_fixture.depth_of(number))
        assert sample["mask"].all()


def test_dpt_files_are_little_endian_width_first(tmp_path):
    header = bytes.fromhex("50494548 03000000 02000000")
    (tmp_path / "x.dpt").write_bytes(header + np.arange(6, dtype="<f4").tobytes())
    np.testing.assert_array_equal(sintel.read_dpt(tmp_path / "x.dpt"), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("48454950 03000000 01000000 000000000000000000000000", "does not start with 202021.25"),
        ("50494548 0300", "does not start with 202021.25"),
        ("50494548 03000000 01000000 0000000000000000", "20 bytes, which is not what 3x1"),
        ("50494548 01000000 01000000 0000000000000000", "20 bytes, which is not what 1x1"),
        ("50494548 ffffffff ffffffff 00000000", "not what -1x-1"),
        ("50494548 00000000 01000000", "not what 0x1"),
        ("", "is empty"),
    ],
)
def test_damaged_dpt_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.dpt").write_bytes(bytes.fromhex(content))
    with pytest.raises(UnreadableFile, match=rf"x\.dpt: .*{message}"):
        sintel.read_dpt(tmp_path / "x.dpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda depth: depth[1:], r"frame_0001\.png: 64x48 pixels, but its depth map has 64x47"),
        (lambda depth: np.where(depth < 5, np.nan, depth), "holds negative values or NaN"),
        (lambda depth: -depth, "holds negative values or NaN"),
    ],
)
def test_sintel_depth_that_does_not_fit_is_refused(tmp_path, change, message):
    write("sintel", tmp_path)
    path = tmp_path / "training/depth/alley_1/frame_0001.dpt"
    sintel_fixture.write_dpt(path, change(sintel_fixture.depth_of(0)))
    fails(create("sintel", tmp_path), message)


@pytest.mark.parametrize(
    ("image", "depth"),
    [
        ("final", "depth"),
        ("final", "training/depth"),
        (
            "MPI-Sintel-complete/training/final",
            "MPI-Sintel-depth-training-20150305/training/depth",
        ),
    ],
)
def test_sintel_as_it_is_extracted(tmp_path, image, depth):
    sintel_fixture.write(tmp_path / "whole")
    for place, kind in ((image, "final"), (depth, "depth")):
        (tmp_path / "data" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "whole/training" / kind).rename(tmp_path / "data" / place)
    source = create("sintel", tmp_path / "data")
    assert len(source) == 4
    np.testing.assert_array_equal(source[3]["depth"], sintel_fixture.depth_of(3))


# TUM


def test_tum_matches_the_scenes(tmp_path):
    source = create("tum", write("tum", tmp_path))
    assert len(source) == 3
    for number in range(3):
        sample, (image, depth) = source[number], scene(number)
        np.testing.assert_array_equal(sample["image"], image)
        finite = np.isfinite(depth)
        np.testing.assert_array_equal(sample["mask"], finite)
        np.testing.assert_array_equal(sample["depth"][finite], depth[finite])
        assert sample["depth"].dtype == np.float32


def test_tum_map_without_measurement_has_an_empty_mask(tmp_path):
    depth = np.full((4, 6), np.nan)
    depth[0] = 0
    depth[1] = 1e-9
    tum_fixture.write_one(tmp_path / "x.h5", np.zeros((4, 6, 3)), depth)
    assert not create("tum", tmp_path)[0]["mask"].any()


IMAGE, DEPTH = np.zeros((4, 6, 3), np.float32), np.ones((4, 6), np.float32)


@pytest.mark.parametrize(
    ("image", "depth", "message"),
    [
        (IMAGE.transpose(2, 0, 1), DEPTH, r"gt/img_1 is \(3, 4, 6\) and gt/gt_depth \(4, 6\)"),
        (IMAGE, DEPTH.T, r"gt/gt_depth \(6, 4\)"),
        (IMAGE, DEPTH[..., None], r"gt/gt_depth \(4, 6, 1\)"),
        (IMAGE[:0], DEPTH[:0], r"not \(h, w, 3\)"),
        (IMAGE + 200, DEPTH, "gt/img_1 holds float values outside 0 … 1"),
        (IMAGE - 1, DEPTH, "outside 0 … 1"),
        (IMAGE * np.nan, DEPTH, "outside 0 … 1"),
        (IMAGE.astype(np.int32), DEPTH, "gt/img_1 holds int32 values"),
        (IMAGE, DEPTH.astype(np.uint16), "gt/gt_depth holds uint16 values, not metres"),
        (IMAGE, -DEPTH, "negative or infinite"),
        (IMAGE, DEPTH * np.inf, "negative or infinite"),
    ],
)
def test_tum_arrays_of_another_kind_are_refused(tmp_path, image, depth, message):
    tum_fixture.write_one(tmp_path / "x.h5", image, depth)
    fails(create("tum", tmp_path), r"x\.h5: .*" + message)


def test_tum_files_of_another_kind_are_refused(tmp_path, monkeypatch):
    (tmp_path / "x.h5").write_bytes(b"<html>" * 1000)
    source = create("tum", tmp_path)
    fails(source, r"x\.h5: is not HDF5")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["gt/img_1"] = IMAGE
    fails(source, r"x\.h5: has no data set 'gt/gt_depth'")
    (tmp_path / "x.h5").unlink()
    fails(source, r"x\.h5: no such file")
    write("tum", tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "reldepth-jax\[nyu\]"'):
        create("tum", tmp_path)[0]
