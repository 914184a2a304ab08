import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from reldepth_jax import config
from reldepth_jax.data.cropping import Crop
from reldepth_jax.data.images.io import UnreadableFile
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.registry import SOURCES

RNG = np.random.default_rng(0)


def add(root: pathlib.Path, name: str, values: np.ndarray, size: tuple[int, int] | None = None):
    """Write one photograph, whose red channel is the number of files there, and its map."""
    for folder in ("rgb", "depth"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    red = sum(1 for path in (root / "rgb").rglob("*") if path.is_file())
    image = np.full((*(size or values.shape), 3), (red, 0, 0), np.uint8)
    Image.fromarray(image).save(root / "rgb" / f"{name}.png")
    np.save(root / "depth" / f"{name}.npy", values)


def create(root: pathlib.Path, split: str = "test", **options):
    if split != "train":
        options = {split: ":"} | options
    return SOURCES.create("folder", split=split, size=(32, 32), root=str(root), **options)


def ten(root: pathlib.Path) -> pathlib.Path:
    for number in range(10):
        add(root, f"{number:03}", np.full((4, 5), number + 1.0, np.float32))
    return root


def test_splits_are_disjoint_ranges_in_the_order_of_names(tmp_path):
    ten(tmp_path)
    found = {
        split: [
            int(sample["image"][0, 0, 0])
            for source in [SOURCES.create("folder", split=split, size=(1, 1), root=str(tmp_path))]
            for sample in (source[index] for index in range(len(source)))
        ]
        for split in ("train", "val", "test")
    }
    assert found == {"train": list(range(8)), "val": [8], "test": [9]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:3", [0, 1, 2]), ("7:", [7, 8, 9]), (":25%", [0, 1]), ("8:99", [8, 9]), ("95%:", [9])],
)
def test_ranges(tmp_path, text, expected):
    source = create(ten(tmp_path), test=text)
    assert [source[i]["image"][0, 0, 0] for i in range(len(source))] == expected
    with pytest.raises(IndexError):
        source[len(source)]


def test_image_and_depth_belong_together(tmp_path):
    source = create(ten(tmp_path), "train", scale=0.5)
    for index in range(len(source)):
        sample = source[index]
        assert (sample["depth"] == (sample["image"][0, 0, 0] + 1) * 0.5).all()
        assert sample["depth"].dtype == np.float32
        assert sample["mask"].all()


def test_subfolders_are_searched_and_other_files_ignored(tmp_path):
    add(tmp_path, "a/x", np.full((4, 4), 1.0))
    add(tmp_path, "b/c/x", np.full((4, 4), 2.0))
    (tmp_path / "rgb" / "notes.txt").write_text("hello")
    (tmp_path / "depth" / ".hidden.png").write_bytes(b"")
    source = create(tmp_path)
    assert [source[i]["depth"][0, 0] for i in range(len(source))] == [1, 2]


def test_maps_may_lie_inside_the_image_folder(tmp_path):
    add(tmp_path, "x", np.full((4, 4), 3.0))
    (tmp_path / "rgb" / "x.png").rename(tmp_path / "x.png")
    (tmp_path / "rgb").rmdir()
    assert create(tmp_path, images=".")[0]["depth"][0, 0] == 3


FILE_VALUES = np.array([[0.0, 2.0, 4.0, 255.0, np.nan, np.inf, -np.inf, -3.0, -0.0]], np.float32)
INF = np.inf


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # None: without ground truth.
        ({"invalid": (0.0, -3.0)}, [None, 2, 4, 255, None, INF, None, None, None]),
        (
            {"scale": 0.5, "invalid": (4.0, 0.0, -3.0)},
            [None, 1, None, 127.5, None, INF, None, None, None],
        ),
        ({"scale": 0.5, "offset": 4.0}, [2, 3, 4, 129.5, None, INF, None, 0.5, 2]),
        (
            {"infinity": (255.0,), "invalid": (0.0, -3.0)},
            [None, 2, 4, INF, None, INF, None, None, None],
        ),
        (
            {"max_depth": 3.0, "infinity": (255.0,), "invalid": (0.0, -3.0)},
            [None, 2, None, INF, None, None, None, None, None],
        ),
        (
            {"polarity": "disparity", "invalid": (0.0, -3.0)},
            [None, 1 / 2, 1 / 4, 1 / 255, *[None] * 5],
        ),
        (
            {"polarity": "disparity", "scale": 0.5, "invalid": (255.0, -3.0)},
            [INF, 1, 1 / 2, None, None, None, None, None, INF],
        ),
        (
            {"polarity": "disparity", "infinity": (0.0,), "invalid": (-3.0,)},
            [INF, 1 / 2, 1 / 4, 1 / 255, None, None, None, None, INF],
        ),
        # A disparity of 0 is beyond every limit.
        (
            {"polarity": "disparity", "max_depth": 0.3, "invalid": (-3.0,)},
            [None, None, 1 / 4, 1 / 255, *[None] * 5],
        ),
        # Places in the range from -3 to 255.
        (
            {"polarity": "ordinal"},
            [*np.exp(np.array([3, 5, 7, 258]) / 258), None, INF, None, 1, np.exp(3 / 258)],
        ),
        (
            {"polarity": "inverse_ordinal", "invalid": (255.0,), "infinity": (0.0,)},
            [INF, np.exp(2 / 7), 1, None, None, None, INF, np.exp(1), INF],
        ),
    ],
)
def test_file_values_become_depth(tmp_path, options, expected):
    add(tmp_path, "x", FILE_VALUES)
    sample = create(tmp_path, **options)[0]
    found = [
        float(depth) if valid else None
        for depth, valid in zip(sample["depth"][0], sample["mask"][0], strict=True)
    ]
    assert [value is None for value in found] == [value is None for value in expected]
    np.testing.assert_allclose(
        [value for value in found if value is not None],
        [value for value in expected if value is not None],
        rtol=2e-7,
    )


@pytest.mark.parametrize(
    ("options", "told", "ways"),
    [
        # Half of the map is below zero, a quarter is zero.
        (
            {},
            "75% of its depth map is -2 to 0, which is no depth",
            ["invalid=-2,-1,0", "polarity=ordinal"],
        ),
        ({"invalid": (-2.0, -1.0)}, "25% of its depth map is 0", ["invalid=0,-2,-1", "=none"]),
        ({"invalid": ()}, "50% of its depth map is -2 to -1", ["polarity=ordinal"]),
        (
            {"polarity": "disparity"},
            "75% of its depth map is -2 to 0, which is no disparity",
            ["infinity=0", "polarity=inverse_ordinal"],
        ),
        ({"polarity": "disparity", "invalid": (7.0,)}, "50% of its depth map is -2 to -1", []),
        ({"scale": 2.0, "offset": 1.0}, "50% of its depth map is -2 to -1", []),
    ],
)
def test_values_that_nobody_declared_are_refused_with_the_numbers(tmp_path, options, told, ways):
    add(tmp_path, "x", np.array([[-1, -2, 0, 5]] * 4, np.float32))
    source = create(tmp_path, **options)
    with pytest.raises(UnreadableFile) as caught:
        source[0]
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/rgb/x.png: {told}")
    assert all(way in line for way in ways), line
    assert len(line.splitlines()) == 1
    # Wherever the crop is.
    with pytest.raises(UnreadableFile, match="nothing says what it means"):
        source.open(0).read(Crop((4, 4), (4, 4), (0, 3), (4, 1)))


def test_nothing_is_invalid_if_that_is_said(tmp_path):
    add(tmp_path, "x", np.array([[0, 1, 2, 255]] * 4, np.uint8))
    settings = config.override(
        config.Config(), {"data.source.name": "folder", "data.source.invalid": "none"}
    )
    invalid = settings.data.source.options["invalid"]
    assert invalid == ()
    near = create(tmp_path, invalid=invalid)[0]
    assert near["mask"].all()
    assert near["depth"][0].tolist() == [0, 1, 2, 255]
    sky = create(tmp_path, invalid=invalid, polarity="disparity")[0]
    assert sky["mask"].all()
    assert sky["depth"][0, :3].tolist() == [INF, 1, 0.5]


def test_rotated_bits_of_sun_rgbd_are_turned_back(tmp_path):
    """SUNRGBDtoolbox: depth = bitor(bitshift(d, -3), bitshift(d, 16 - 3)), here by integers."""
    depth = np.array([[0, 1, 7, 8, 1000, 8191, 8192, 65535]], np.int64)
    stored = (depth * 8) % 65536 + (depth * 8) // 65536
    add(tmp_path, "x", stored.astype(np.uint16))
    sample = create(tmp_path, rotated_bits=3, invalid=(0.0,), scale=0.001)[0]
    np.testing.assert_allclose(sample["depth"][0], depth[0] / 1000, rtol=1e-6)
    add(tmp_path, "y", stored.astype(np.float32))
    with pytest.raises(UnreadableFile, match="has float32 values, not 16 bits that can be rot"):
        create(tmp_path, rotated_bits=3)[1]
    with pytest.raises(DataError, match="rotated_bits must be 0 to 15, got 16"):
        create(tmp_path, rotated_bits=16)


@pytest.mark.parametrize(
    ("values", "mark"),
    [
        (np.array([65535] * 3 + [900] * 7, np.uint16), {"65535": 0.3}),
        (np.array([255] + [90] * 9, np.uint8), {"255": 0.1}),
        (np.array([1e10, 1e10, *[4.0] * 8], np.float32), {"1e+10": 0.2}),
        (np.array([np.inf, *[4.0] * 9], np.float32), {"inf": 0.1}),
        (np.array([255] + [90] * 199, np.uint8), {}),
    ],
)
def test_values_that_are_often_marks_are_doubted(tmp_path, values, mark):
    add(tmp_path, "x", values[None])
    assert create(tmp_path).doubtful({"depth": values[None]}) == pytest.approx(mark)
    declared = tuple(map(float, mark))
    assert create(tmp_path, invalid=declared or (1.0,)).doubtful({"depth": values[None]}) == {}
    assert create(tmp_path, infinity=declared).doubtful({"depth": values[None]}) == (
        {} if declared else mark
    )
    assert create(tmp_path, max_depth=50.0).doubtful({"depth": values[None]}) == {}


def test_a_map_that_lies_otherwise_than_its_photograph_says_so(tmp_path):
    add(tmp_path, "x", np.ones((192, 256)), size=(400, 300))
    with pytest.raises(UnreadableFile, match=r"256x192 .*300x400, but would if it were turned"):
        create(tmp_path)[0]


def test_few_images_say_how_to_choose_them(tmp_path):
    for name in "abc":
        add(tmp_path, name, np.ones((2, 2)))
    with pytest.raises(DataError, match=r"none of the 3 .*--config\.data\.source\.val=2:$"):
        SOURCES.create("folder", split="val", size=(1, 1), root=str(tmp_path))


def test_scores_of_any_sign_keep_their_order_and_their_ties(tmp_path):
    scores = RNG.normal(-40, 7, (6, 8)).astype(np.float32)
    scores[0, :3] = scores[5, 5]
    add(tmp_path, "x", scores)
    for polarity, sign in (("ordinal", 1), ("inverse_ordinal", -1)):
        sample = create(tmp_path, polarity=polarity)[0]
        assert sample["mask"].all()
        depth = sample["depth"].astype(np.float64).ravel()
        assert (depth > 0).all()
        wanted = np.sign(np.subtract.outer(sign * scores.ravel(), sign * scores.ravel()))
        assert (np.sign(np.subtract.outer(depth, depth)) == wanted).all()
        # Equal within a ratio of 1 + sigma: within log(1 + sigma) of the range.
        place = scores.ravel().astype(np.float64) / np.ptp(scores)
        apart = np.abs(np.subtract.outer(place, place)) > np.log(1.02)
        ratio = np.exp(np.abs(np.subtract.outer(np.log(depth), np.log(depth))))
        assert ((ratio > 1.02) == apart).all()


def test_the_certainty_of_scores_gives_the_probability_that_their_network_states(tmp_path):
    scores = RNG.normal(-40, 7, (6, 8)).astype(np.float32)
    scores[0, 0], scores[0, 1], scores[0, 2] = np.nan, 1000, np.inf
    add(tmp_path, "x", scores)
    for polarity, sign in (("ordinal", 1), ("inverse_ordinal", -1)):
        sample = create(tmp_path, polarity=polarity, temperature=2.5, invalid=(1000.0,))[0]
        assert sample["certainty"].dtype == np.float32
        log_depth = np.log(sample["depth"][2:].astype(np.float64)).ravel()
        log_odds = sample["certainty"] * np.subtract.outer(log_depth, log_depth)
        values = sign * scores[2:].astype(np.float64).ravel()
        np.testing.assert_allclose(log_odds, np.subtract.outer(values, values) / 2.5, atol=1e-4)
    assert "certainty" not in create(tmp_path, polarity="ordinal")[0]
    add(tmp_path, "y", np.full((2, 2), 3.0))
    assert create(tmp_path, polarity="ordinal", temperature=1.0)[1]["certainty"] == 0
    with pytest.raises(DataError, match="temperature must be .* 0 for values that are not ordinal"):
        create(tmp_path, temperature=1.0)


def test_what_does_not_count_is_told_by_reason(tmp_path):
    add(tmp_path, "x", np.array([[0, 0, 1, 2, 90, 91, 92, np.nan, 255, 3]], np.float32))
    source = create(tmp_path, invalid=(0.0,), max_depth=80.0, infinity=(255.0,))
    assert source.left_out(source.record(0)["maps"]) == pytest.approx(
        {"declared invalid": 0.2, "not a number": 0.1, "beyond max_depth=80": 0.3}
    )
    assert source[0]["mask"].mean() == pytest.approx(0.4)
    with pytest.raises(DataError, match="max_depth must be at least 0, and 0 for ordinal"):
        create(tmp_path, polarity="ordinal", max_depth=80.0)


def test_smaller_map_is_resized_without_new_values(tmp_path):
    values = RNG.uniform(1, 2, (6, 8)).astype(np.float32)
    values[2, 3] = 0
    add(tmp_path, "x", values, size=(12, 16))
    sample = create(tmp_path, invalid=(0.0,))[0]
    np.testing.assert_array_equal(sample["depth"], values.repeat(2, 0).repeat(2, 1))
    assert (~sample["mask"]).sum() == 4


@pytest.mark.parametrize(("size", "fits"), [((100, 101), True), ((100, 103), False)])
def test_map_of_another_shape_is_refused_by_name(tmp_path, size, fits):
    add(tmp_path, "x", np.ones((50, 50)), size=size)
    source = create(tmp_path)
    if fits:
        assert source[0]["depth"].shape == size
    else:
        with pytest.raises(UnreadableFile, match=r"x\.png: .*depth map of 50x50 .* 103x100"):
            source[0]


def test_map_goes_with_the_photograph_as_displayed(tmp_path):
    add(tmp_path, "x", np.arange(1.0, 13.0).reshape(4, 3))
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (4, 3)).save(tmp_path / "rgb" / "x.png", exif=exif)
    sample = create(tmp_path)[0]
    assert sample["image"].shape == (4, 3, 3)
    np.testing.assert_array_equal(sample["depth"], np.arange(1.0, 13.0).reshape(4, 3))


def test_source_survives_pickling_and_reads_the_same_twice(tmp_path):
    source = create(ten(tmp_path), "train")
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    for name in ("image", "depth", "mask"):
        np.testing.assert_array_equal(copy[3][name], source[3][name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": ""}, "root is not set"),
        ({"root": "nowhere"}, "nowhere/rgb is no folder"),
        ({"maps": "disparity"}, "disparity is no folder"),
        ({"maps": "rgb"}, "the same"),
        ({"scale": 0.0}, "scale must be greater than 0"),
        ({"test": "first"}, "'first' is not a range"),
        ({"test": "-3:"}, "not a range"),
        ({"test": "20:30"}, "'20:30' selects none of the 10 samples"),
        ({"split": "train", "train": "0:95%"}, "val='80%:90%' share 1 of 10"),
        ({"split": "train", "train": "0:9", "val": "9:", "test": "8:"}, "'8:' share 1 of 10"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
    ten(tmp_path)
    arguments = {"split": "test", "root": str(tmp_path)} | options
    with pytest.raises(DataError, match=message) as caught:
        SOURCES.create("folder", size=(1, 1), **arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_partners_are_counted_and_named(tmp_path):
    ten(tmp_path)
    for number in (1, 3, 5, 7):
        (tmp_path / "depth" / f"00{number}.npy").unlink()
    with pytest.raises(DataError, match="4 of 10 photographs have no map: 001, 003, 005, …"):
        create(tmp_path)
    for number in (1, 3, 5, 7, 9):
        (tmp_path / "rgb" / f"00{number}.png").unlink()
    with pytest.raises(DataError, match="1 of 6 maps have no photograph: 009$"):
        create(tmp_path)


def test_folders_without_a_pair(tmp_path):
    for name in ("rgb/a.jpg", "depth/b.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"photographs: 1 files, maps: 1 files"):
        create(tmp_path)


def test_two_photographs_of_one_name_are_refused(tmp_path):
    ten(tmp_path)
    (tmp_path / "rgb" / "004.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="two files have one name"):
        create(tmp_path)


def test_unreadable_files_name_themselves(tmp_path):
    ten(tmp_path)
    (tmp_path / "rgb" / "002.png").write_bytes(b"oops")
    (tmp_path / "depth" / "003.npy").write_bytes(b"oops")
    source = create(tmp_path)
    with pytest.raises(UnreadableFile, match=r"002\.png"):
        source[2]
    with pytest.raises(UnreadableFile, match=r"003\.npy"):
        source[3]


def test_every_option_can_be_set_from_the_command_line():
    assignments = {
        "name": "folder",
        "root": "somewhere",
        "polarity": "disparity",
        "scale": "0.001",
        "invalid": "0,65535",
        "max_depth": "80",
        "rotated_bits": "3",
        "key": "depth",
        "infinity": "255",
        "train": "0:40",
    }
    changed = config.override(
        config.Config(), {f"data.source.{name}": value for name, value in assignments.items()}
    )
    config.validate(changed)
    assert changed.data.source.options == {
        "root": "somewhere",
        "polarity": "disparity",
        "scale": 0.001,
        "invalid": (0.0, 65535.0),
        "max_depth": 80.0,
        "rotated_bits": 3,
        "key": "depth",
        "infinity": (255.0,),
        "train": "0:40",
    }


def test_linked_folders_of_photographs_and_maps_are_read(tmp_path):
    ten(tmp_path / "data")
    ten(tmp_path / "second")
    for folder in ("rgb", "depth"):
        (tmp_path / "data" / folder / "scene2").symlink_to(tmp_path / "second" / folder)
    source = create(tmp_path / "data")
    assert len(source) == 20
    assert source.names()[10].endswith("scene2/000.png")
    assert source[10]["depth"][0, 0] == 1


def test_files_that_are_left_out_are_remarked(tmp_path):
    ten(tmp_path)
    assert create(tmp_path).remarks() == []
    for name in ("rgb/a.dng", "rgb/b.dng", "depth/notes.txt"):
        (tmp_path / name).touch()
    photographs, maps = create(tmp_path).remarks()
    assert photographs.startswith(f"{tmp_path}/rgb: 2 files left out: 2 .dng")
    assert maps == f"{tmp_path}/depth: 1 file left out: 1 .txt"
