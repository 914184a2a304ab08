import pickle

import numpy as np
import pytest

from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.hr_wsi import HRWSI
from reldepth_jax.registry import SOURCES
from tests.fixtures import hr_wsi as fixture
from tests.fixtures.scenes import save, scene


def create(root, split="train", **options):
    return SOURCES.create("hr_wsi", split=split, size=(1, 1), root=str(root), **options)


@pytest.mark.parametrize("inside", ["", "HR-WSI"])
@pytest.mark.parametrize(("split", "numbers"), [("train", [0, 1, 2]), ("val", [3, 4])])
def test_samples_match_the_scenes(tmp_path, inside, split, numbers):
    fixture.write(tmp_path)
    source = create(tmp_path / inside, split)
    assert len(source) == len(numbers)
    for index, number in enumerate(numbers):
        sample, (image, depth) = source[index], scene(number)
        # JPEG changes pixels a little.
        assert np.abs(sample["image"].astype(int) - image).mean() < 3
        sky = np.isinf(depth)
        np.testing.assert_array_equal(np.isinf(sample["depth"]), sky)
        relative = depth[~sky].min() / depth[~sky]
        # 8 bits: half a step of disparity.
        assert np.abs(1 / sample["depth"][~sky] - relative).max() <= 0.5 / 255 + 1e-6
        expected = np.broadcast_to(np.arange(64) >= 2 + number, (48, 64))
        np.testing.assert_array_equal(sample["mask"], expected)
        assert sample["depth"].dtype == np.float32
    with pytest.raises(IndexError):
        source[len(source)]


def test_bright_is_near_and_black_infinitely_far(tmp_path):
    fixture.write(tmp_path, train=1, val=1)
    gt = np.zeros((48, 64), np.uint8)
    gt[0, :3] = 255, 51, 1
    save(tmp_path / "HR-WSI/train/gts/0000.png", gt)
    depth = create(tmp_path)[0]["depth"]
    np.testing.assert_allclose(depth[0, :4], [1, 5, 255, np.inf], rtol=1e-6)


def test_records_hold_what_the_files_hold(tmp_path):
    fixture.write(tmp_path)
    records = HRWSI.data_set.read(str(tmp_path), "val")
    assert records is not None
    record = records[0]
    assert record["name"] == "HR-WSI/val/imgs/0003.jpg"
    assert {name: values.dtype for name, values in record["maps"].items()} == HRWSI.data_set.dtypes
    np.testing.assert_array_equal(record["maps"]["gt"], fixture.disparity(scene(3)[1]))
    assert HRWSI.data_set.read(str(tmp_path), "test") is None


def test_smaller_maps_are_resized_without_new_values(tmp_path):
    fixture.write(tmp_path, train=1, val=1)
    gt = np.random.default_rng(0).integers(1, 256, (24, 32), np.uint8)
    valid = (gt > 99).astype(np.uint8)
    save(tmp_path / "HR-WSI/train/gts/0000.png", gt)
    save(tmp_path / "HR-WSI/train/valid_masks/0000.png", valid)
    sample = create(tmp_path)[0]
    np.testing.assert_allclose(1 / sample["depth"], (gt / 255).repeat(2, 0).repeat(2, 1), rtol=1e-5)
    np.testing.assert_array_equal(sample["mask"], (gt > 99).repeat(2, 0).repeat(2, 1))


def test_a_sample_may_have_no_valid_pixel(tmp_path):
    fixture.write(tmp_path, train=1, val=1)
    save(tmp_path / "HR-WSI/train/valid_masks/0000.png", np.zeros((48, 64), np.uint8))
    assert not create(tmp_path)[0]["mask"].any()


@pytest.mark.parametrize(
    ("kind", "shape", "dtype", "message"),
    [
        ("gts", (48, 64), np.uint16, "0000.jpg: its gt map has uint16 values, not 8 bits"),
        ("valid_masks", (48, 64), np.uint16, "its valid map has uint16 values, not 8 bits"),
        (
            "gts",
            (64, 48),
            np.uint8,
            "the gt map of 48x64 pixels does not go with the photograph's 64x48",
        ),
        ("valid_masks", (64, 48), np.uint8, "the valid map of 48x64 pixels"),
    ],
)
def test_maps_of_another_kind_are_refused(tmp_path, kind, shape, dtype, message):
    fixture.write(tmp_path, train=1, val=1)
    save(tmp_path / f"HR-WSI/train/{kind}/0000.png", np.ones(shape, dtype))
    with pytest.raises(UnreadableFile, match=message):
        create(tmp_path)[0]


@pytest.mark.parametrize("kind", ["imgs/0000.jpg", "gts/0000.png", "valid_masks/0000.png"])
def test_truncated_files_name_themselves(tmp_path, kind):
    fixture.write(tmp_path, train=1, val=1)
    path = tmp_path / "HR-WSI/train" / kind
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UnreadableFile, match=path.name) as caught:
        create(tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(DataError, match="root is not set"):
        create("")
    with pytest.raises(DataError, match="train is no folder"):
        create(tmp_path)
    fixture.write(tmp_path)
    with pytest.raises(DataError, match="no test split; take val"):
        create(tmp_path, "test")
    (tmp_path / "HR-WSI/train/valid_masks/0001.png").unlink()
    with pytest.raises(DataError, match="1 of 3 images have no disparity map or valid mask: 0001$"):
        create(tmp_path)


def test_source_survives_pickling_and_reads_the_same_twice(tmp_path):
    fixture.write(tmp_path)
    source = create(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for name in ("image", "depth", "mask"):
        np.testing.assert_array_equal(copy[1][name], source[1][name])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instance_masks_are_read_if_asked_for(tmp_path, dtype):
    fixture.write(tmp_path, train=2, val=1)
    ids = np.zeros((24, 32), dtype)
    ids[4:9, 10:20] = np.iinfo(dtype).max
    folder = tmp_path / "HR-WSI/train/masks"
    for name in ("0000", "0001"):
        save(folder / f"{name}.png", ids)
    sample = create(tmp_path, instances=True, instance_folder="masks")[1]
    assert sample["instances"].dtype == np.int32
    np.testing.assert_array_equal(sample["instances"], ids.repeat(2, 0).repeat(2, 1))
    plain = create(tmp_path)[1]
    assert plain.keys() == sample.keys() - {"instances"}
    for name, value in plain.items():
        np.testing.assert_array_equal(sample[name], value)
    assert "instances" not in create(tmp_path, "val", instances=True, instance_folder="masks")[0]
    # The folder by default, in which the fixture has no instance anywhere.
    assert not create(tmp_path, instances=True)[1]["instances"].any()


def test_mistakes_with_instance_masks_are_one_line(tmp_path):
    fixture.write(tmp_path)
    with pytest.raises(DataError, match="train/masks is no folder$"):
        create(tmp_path, instances=True, instance_folder="masks")
    with pytest.raises(DataError, match="prepared shards have no instance masks; give root"):
        create("", prepared="shards", instances=True)
    (tmp_path / "HR-WSI/train/instance_masks/0001.png").unlink()
    with pytest.raises(DataError, match="1 of 3 images have no .* or instance mask: 0001$"):
        create(tmp_path, instances=True)
