"""Frames of the game: same everywhere, true to its law of depth, and leaving no trace."""

import hashlib
import importlib.util
import itertools
import os
import pathlib
import pickle
import re
import signal
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import vizdoom

from reldepth_jax import config
from reldepth_jax.config import ConfigError
from reldepth_jax.data.prepared import writing
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.sources.vizdoom import COUNTS, LEVELS, Views, depth_of, driver
from reldepth_jax.data.sources.vizdoom.game import Visit, is_worth_keeping
from reldepth_jax.registry import SOURCES


def create(split="val", **options):
    return SOURCES.create("vizdoom", split=split, size=(96, 128), **options)


@pytest.fixture(scope="module")
def views():
    return Views("val", 0, 64, 480)


@pytest.fixture(scope="module")
def buffers(views):
    """Four maps, among them two of each WAD."""
    return np.stack([views[i]["maps"]["buffer"] for i in range(64) if i % 8 in (0, 2, 5, 6)])


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def same(one, other):
    maps = one["maps"], other["maps"]
    return (one["name"], one["image"]) == (other["name"], other["image"]) and equal(*maps)


def test_every_map_of_both_files_is_in_exactly_one_split():
    found = {}
    for wad in ("freedoom1.wad", "freedoom2.wad"):
        data = (pathlib.Path(vizdoom.__file__).parent / wad).read_bytes()
        count, start = struct.unpack("<ii", data[4:12])
        names = [data[start + 16 * k + 8 :][:8].rstrip(b"\0").decode() for k in range(count)]
        found[wad] = {name for name in names if re.fullmatch(r"E\dM\d|MAP\d\d", name)}
    assert sorted(sum(LEVELS.values(), [])) == sorted(
        (wad, name) for wad, names in found.items() for name in names
    )
    train = {name for _, name in LEVELS["train"]}
    first = {f"E{episode}M{number}" for episode in (1, 2, 3) for number in range(1, 10)}
    assert train == first | {f"MAP{number:02d}" for number in range(1, 27)}
    for split in ("val", "test"):
        assert {wad for wad, _ in LEVELS[split]} == set(found)


def test_floor_ahead_of_the_eye_has_the_depth_of_its_height_over_the_slope(buffers):
    # The eye is 41 units above the floor; 320 pixels of focal length, 1.2 times as many vertically.
    rows = np.arange(400, 480)
    expected = 41 * 1.2 * 320 / (rows + 0.5 - 240)
    error = depth_of(buffers.reshape(-1, 640))[:, 320].reshape(-1, 480)[:, 400:] - expected
    level = (np.abs(error) < 8).all(axis=1)
    # Elsewhere there are steps and things in the way.
    assert level.mean() > 0.3
    assert abs(np.median(error[level])) < 1.5


def test_straight_wall_is_straight_in_inverse_depth_along_a_row(buffers):
    # Planar depth of a plane is affine in 1 / z along a row, whatever plane it is.
    straight = 0
    for depth in depth_of(buffers.reshape(-1, 640)).reshape(buffers.shape)[:, 240]:
        for start in range(0, 640, 160):
            z = depth[start : start + 160]
            if np.isfinite(z).all() and z.min() > 60 and z.max() > 1.3 * z.min():
                fit = np.polyval(np.polyfit(np.arange(160), 1 / z, 1), np.arange(160))
                straight += fit.min() > 0 and np.abs(1 / fit - z).max() < 8
    assert straight >= 5


def test_frames_are_free_of_zeros_and_end_in_the_sky(buffers):
    assert buffers.min() >= 1
    sky = (buffers == 255).mean(axis=(1, 2))
    assert 0.1 < (sky > 0.02).mean() < 0.9
    assert sky.max() <= 0.5


def test_depth_grows_with_the_buffer_to_infinity_at_255():
    depth = depth_of(np.arange(1, 256, dtype=np.uint8)[None])[0]
    np.testing.assert_allclose(depth[[0, 9, 253]], [21.65, 86.0, 1830.6], rtol=1e-6)
    assert np.isinf(depth[254])
    assert np.isfinite(depth[:254]).all()


def test_sigma_of_the_config_calls_equal_what_differs_by_a_level_where_there_is_truth():
    sigma = config.load("configs/vizdoom.py").eval.sigma
    for variant in ("", ":mixed"):
        loaded = config.load(f"configs/vizdoom.py{variant}")
        assert loaded.loss.options["sigma"] == loaded.eval.sigma == sigma
        config.validate(loaded)
    z = 7.15 * np.arange(1, 255) + 14.5
    z = z[z >= create().near]
    assert (z[1:] / z[:-1] < 1 + sigma).all()


def test_samples_are_frames_of_the_wanted_height_with_near_pixels_masked():
    source = create(height=120, length=9)
    sample = source[8]
    assert sample["image"].shape == (120, 160, 3)
    assert sample["image"].dtype == np.uint8
    assert sample["depth"].dtype == np.float32
    np.testing.assert_array_equal(sample["mask"], sample["depth"] >= 60)
    whole = create(height=480, length=9, near=0.0)[8]
    assert whole["mask"].all()
    np.testing.assert_array_equal(sample["depth"], whole["depth"][2::4, 2::4])
    mean = whole["image"].reshape(120, 4, 160, 4, 3).mean(axis=(1, 3))
    assert np.abs(sample["image"] - mean).max() <= 0.51


def test_fewer_frames_are_the_first_of_more_and_out_of_range_is_an_error():
    assert len(create("train")) == COUNTS["train"] == 4000
    assert len(create("test")) == 500
    assert len(create("train", length=7)) == len(create("val", length=7)) == 7
    assert equal(create(length=9, height=480)[8], create(length=400, height=480)[8])
    with pytest.raises(IndexError, match="sample 9 of 9"):
        create(length=9)[9]


def test_any_order_any_thread_and_a_pickled_copy_give_the_same_records(views):
    wanted = [0, 1, 8, 9]
    expected = {index: views[index] for index in wanted}
    copy = pickle.loads(pickle.dumps(views))
    assert len(pickle.dumps(views)) < 1000
    got = {}

    def read(order):
        for index in order:
            record = copy[index]
            assert same(got.setdefault(index, record), record)

    threads = [threading.Thread(target=read, args=(wanted[::step],)) for step in (-1, 1, -2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got.keys() == expected.keys()
    for index in wanted:
        assert same(got[index], expected[index])
    other = Views("val", 1, 64, 480)[0]
    assert not np.array_equal(other["maps"]["buffer"], expected[0]["maps"]["buffer"])


CHILD = """
import hashlib, os, signal, sys
from reldepth_jax.data.sources.vizdoom import Views, driver
heard = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(number))
views = Views("val", 0, 64, 480)
digests = []
for index in (9, 1, 17):
    if index == 17:
        game = driver.DRIVER._process.pid
        # As a terminal and a scheduler send them: to every process of the group and job.
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.killpg(game, signal.SIGINT)
        os.killpg(game, signal.SIGTERM)
    record = views[index]
    digests.append(hashlib.sha256(record["image"] + record["maps"]["buffer"].tobytes()).hexdigest())
record = Views("val", 0, 64, 480)[9]
again = hashlib.sha256(record["image"] + record["maps"]["buffer"].tobytes()).hexdigest()
assert game == driver.DRIVER._process.pid  # it was not started again
print(game, *map(int, heard), again == digests[0], *digests, flush=True)
os._exit(0)  # as workers end: no time to tidy up
"""


def test_another_process_sees_the_same_keeps_its_signals_and_leaves_nothing(views, tmp_path):
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    root = os.environ["PYTHONPATH"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=home, capture_output=True, text=True, timeout=100,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": root},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    game, interrupted, terminated, again, *digests = child.stdout.split()
    assert (int(interrupted), int(terminated)) == (signal.SIGINT, signal.SIGTERM)
    assert again == "True"
    for index, digest in zip((9, 1, 17), digests, strict=True):
        record = views[index]
        data = record["image"] + record["maps"]["buffer"].tobytes()
        assert hashlib.sha256(data).hexdigest() == digest
    deadline = time.monotonic() + 20
    while os.path.exists(f"/proc/{game}") or list(temporary.iterdir()):
        assert time.monotonic() < deadline, "the game outlives the process that used it"
        time.sleep(0.1)
    assert not list(home.iterdir())
    assert child.stderr == ""


def children(pid):
    """Return the processes that a process started, each with its command line."""
    found = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(word) for path in found for word in path.read_text().split()]
    return {pid: pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}


def is_running(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_game_that_was_killed_is_started_again_and_its_engine_ended(views):
    views[0]
    copy = pickle.loads(pickle.dumps(views))
    process = driver.DRIVER._process
    assert process is not None
    folder, engines = driver.DRIVER._home, children(process.pid)
    ids = [re.findall(r"\+viz_instance_id\0(\w+)", told)[0] for told in engines.values()]
    assert engines
    os.kill(process.pid, signal.SIGKILL)
    assert same(copy[8], views[8])
    assert not any(is_running(pid) for pid in engines)
    assert not os.path.exists(folder)
    # What an engine that was killed shares with others, it cannot remove.
    for left in itertools.chain(*(pathlib.Path("/dev/shm").glob(f"ViZDoom*{id}") for id in ids)):
        left.unlink()


def test_map_that_does_not_exist_or_gives_too_little_is_one_line(monkeypatch):
    with pytest.raises(DataError, match=r"^vizdoom: E9M9 cannot be rendered: [^\n]+$"):
        driver.DRIVER.ask(Visit("freedoom3.wad", "E9M9", 0, 1, 1))
    monkeypatch.setattr(driver.Driver, "_try", lambda self, visit: [(b"", b"")] * 3)
    with pytest.raises(DataError, match="MAP01 has 3 views worth keeping of 16 with seed 5"):
        driver.DRIVER.ask(Visit("freedoom2.wad", "MAP01", 5, 16, 1))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_without_vizdoom_one_line_says_what_to_install(split, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=re.escape("pip install 'reldepth-jax[vizdoom]'")):
        create(split)


@pytest.mark.parametrize("option", [{"seed": -1}, {"length": 0}, {"height": 100}, {"near": -1.0}])
def test_impossible_option_is_one_line_that_names_it(option):
    with pytest.raises(ConfigError, match=rf"data\.source\.{next(iter(option))} must be [^\n]*$"):
        create(**option)


def test_frames_that_cannot_be_trusted_or_seen_are_not_kept():
    bright = np.full((480, 640, 3), 90, np.uint8)
    good = np.broadcast_to(np.linspace(5, 120, 640).astype(np.uint8), (480, 640)).copy()
    assert is_worth_keeping(bright, good)
    assert not is_worth_keeping(bright // 6, good)
    zero = good.copy()
    zero[479, 3] = 0
    assert not is_worth_keeping(bright, zero)
    sky = good.copy()
    sky[:241] = 255
    assert not is_worth_keeping(bright, sky)
    sky[240] = good[240]
    assert is_worth_keeping(bright, sky)
    assert not is_worth_keeping(bright, np.full_like(good, 50))
    # Median below 70 units; distances that differ too little.
    assert not is_worth_keeping(bright, np.where(good > 110, good, 5).astype(np.uint8))
    assert not is_worth_keeping(bright, (good // 2 + 60).astype(np.uint8))


def test_prepared_shards_give_the_samples_that_are_rendered(tmp_path, monkeypatch):
    for split, count in (("train", 2), ("val", 2), ("test", 1)):
        monkeypatch.setitem(COUNTS, split, count)
    folder = writing.prepare("vizdoom", "", str(tmp_path), say=lambda line: None)
    assert folder == tmp_path / "vizdoom" / "1.0.0"
    prepared = create(prepared=str(tmp_path))
    assert len(prepared) == 2
    assert equal(prepared[1], create(length=2)[1])


def test_prepare_script_wants_no_folder_for_what_is_rendered(tmp_path):
    result = subprocess.run(
        [sys.executable, "scripts/prepare_data.py", "vizdoom",
         "--data-dir", str(tmp_path), "--manual-dir", "x"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert "vizdoom is rendered; leave --manual-dir" in result.stderr
