"""Checkpoints: what is restored is what was saved, or the one before it, or a clear refusal.

The damage matrix and the random flips print their tables: `pytest -rA tests/run_dir`.
"""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from reldepth_jax import failpoints
from reldepth_jax.run_dir import checkpoints
from reldepth_jax.run_dir.checkpoints import CheckpointError, Checkpoints, Restored, StorageError
from reldepth_jax.run_dir.history import History
from reldepth_jax.run_dir.manifest import Manifest, read_manifest
from reldepth_jax.run_dir.saved_config import save_config
from reldepth_jax.training import run as training_run
from reldepth_jax.training.state import new_state
from reldepth_jax.weights.from_run import load_run
from tests.fixtures.training import TINY, with_devices

pytestmark = pytest.mark.usefixtures("strides_encoder")

State = dict[str, Any]
WIDE = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, decoder_width=64))
"""Its arrays have files of their own: those of smaller ones lie in Orbax's index."""


def a_state(step: int) -> State:
    """Return arrays that compress and arrays that do not, other ones for each step."""
    rng = np.random.default_rng(step)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    # What a careless copy would change: the sign of zero, the last bit, numbers below the normal.
    special = np.array([-0.0, np.nextafter(np.float32(1), np.float32(2)), 1e-42], np.float32)
    return {
        "params": {
            "kernel": jnp.asarray(noise(64, 48)),
            "bias": jnp.full(48, float(step)),
            "half": jnp.asarray(noise(33), jnp.bfloat16),
        },
        "momentum": [jnp.asarray(noise(3, 3, 40)), jnp.asarray(special)],
        "mask": jnp.arange(100) % 3 == 0,
        "step": jnp.asarray(step, jnp.int32),
    }


def abstract(state: State) -> State:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


LIKE = abstract(a_state(0))


def bits(state: State) -> list[tuple[str, bytes]]:
    return [(str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(state)]


BITS = {step: bits(a_state(step)) for step in range(1, 7)}


def saved(folder: pathlib.Path, *steps: int, keep: int = 9, **facts: Any) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(step, a_state(step), facts)
    checkpoints.wait()
    return checkpoints


def flip(path: pathlib.Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def arrays_file(folder: pathlib.Path) -> pathlib.Path:
    """Return the largest file of a checkpoint: the values of its arrays."""
    return max(files(folder), key=lambda path: path.stat().st_size)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def snapshot(folder: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of each file, to see that nothing was touched."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in files(folder)
    }


def rewrite_manifest(path: pathlib.Path, **changes: Any) -> None:
    """Write a manifest with other values and a valid seal, as another version would."""
    values = json.loads(path.read_text().rsplit("\n", 2)[0]) | changes
    content = json.dumps(values)
    path.write_text(f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n")


# Saving and restoring


def test_what_is_restored_has_the_structure_and_the_bits(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path / "new" / "folder", 3, whdr=0.25, jax="0.1")
    restored = checkpoints.restore(LIKE)
    assert jax.tree.structure(restored.state) == jax.tree.structure(a_state(3))
    assert bits(restored.state) == BITS[3]
    assert restored.damaged == []
    assert (restored.manifest.step, restored.manifest.validation_whdr) == (3, 0.25)
    assert restored.manifest.facts["jax"] == "0.1"
    assert restored.manifest.facts["save_seconds"] > 0


def test_the_manifest_holds_the_digest_of_each_array(tmp_path: pathlib.Path):
    saved(tmp_path, 3)
    shape, dtype, digest = read_manifest(tmp_path / "00000003.json", 3).arrays["['params']['bias']"]
    # 48 times 3.0 as little-endian float32.
    expected = hashlib.sha256(b"\x00\x00\x40\x40" * 48).hexdigest()
    assert (shape, dtype, digest) == ((48,), "float32", expected)


def test_a_step_that_is_asked_for_is_restored_and_no_other(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    assert bits(checkpoints.restore(LIKE, 1).state) == BITS[1]
    flip(arrays_file(tmp_path / "00000002"), 999)
    with pytest.raises(CheckpointError, match="step 2: 1 of 7 arrays are not what was saved"):
        checkpoints.restore(LIKE, 2)


def test_the_newest_and_the_best_are_kept(tmp_path: pathlib.Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    kept = []
    for step, score in ((1, 0.3), (2, 0.1), (3, None), (4, 0.2), (5, 0.1), (6, 0.4)):
        checkpoints.save(step, a_state(step), {} if score is None else {"whdr": score})
        checkpoints.wait()
        kept.append((checkpoints.steps(), checkpoints.best()))
    assert kept == [
        ([1], 1), ([1, 2], 2), ([2, 3], 2), ([2, 3, 4], 2), ([4, 5], 5), ([5, 6], 5)
    ]  # fmt: skip
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000005", "00000005.json", "00000006", "00000006.json"]


def test_saving_a_committed_step_again_changes_nothing(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1)
    before = snapshot(tmp_path)
    checkpoints.save(1, a_state(2), {"whdr": 0.5})
    checkpoints.wait()
    assert snapshot(tmp_path) == before


@pytest.fixture
def at_point(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes a named point of saving call something."""
    actions: dict[str, Callable[[], object]] = {}
    monkeypatch.setattr(failpoints, "reach", lambda point: actions.get(point, lambda: None)())
    return actions.__setitem__


def test_a_save_holds_the_state_of_that_moment_and_does_not_block(tmp_path: pathlib.Path, at_point):
    go_on = threading.Event()
    at_point("save.arrays", lambda: go_on.wait(30))
    checkpoints = Checkpoints(tmp_path)
    state = jax.tree.map(np.array, a_state(2))
    checkpoints.save(2, state, {})
    state["params"]["kernel"][:] = 0
    checkpoints.poll()
    assert checkpoints.busy
    assert checkpoints.steps() == []
    go_on.set()
    checkpoints.wait()
    assert not checkpoints.busy
    assert bits(checkpoints.restore(LIKE).state) == BITS[2]


def test_a_save_that_is_waited_for_counts_as_busy(tmp_path: pathlib.Path, at_point):
    # Whoever ends the process when nothing is under way must not take waiting for being done.
    seen = []
    checkpoints = Checkpoints(tmp_path)

    def look() -> None:
        time.sleep(0.3)
        seen.append(checkpoints.busy)

    at_point("save.synced", look)
    checkpoints.save(1, a_state(1), {})
    checkpoints.wait()
    assert seen == [True]


def test_whoever_asked_is_told_when_a_step_is_durable(tmp_path: pathlib.Path):
    told = []
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        4, a_state(4), {}, then=lambda step, seconds: told.append((step, checkpoints.steps()))
    )
    checkpoints.wait()
    assert told == [(4, [4])]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["kernel", "half"])
def test_a_state_that_is_not_finite_is_refused(tmp_path: pathlib.Path, where: str, value: float):
    checkpoints = saved(tmp_path, 1)
    state = a_state(2)
    state["params"][where] = state["params"][where].at[7].set(value)
    checkpoints.save(2, state, {})
    with pytest.raises(CheckpointError, match=rf"step 2 .*\['{where}'\] is not finite"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_moved_linked_and_relative_directories_still_restore(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path / "first", 1).close()
    (tmp_path / "first").rename(tmp_path / "moved")
    assert bits(Checkpoints(tmp_path / "moved").restore(LIKE).state) == BITS[1]
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    shutil.rmtree(tmp_path / "moved")
    (tmp_path / "link").symlink_to("copied")
    assert bits(Checkpoints(tmp_path / "link").restore(LIKE).state) == BITS[1]
    monkeypatch.chdir(tmp_path)
    relative = Checkpoints(pathlib.Path("link"))
    assert bits(relative.restore(LIKE).state) == BITS[1]
    relative.save(2, a_state(2), {})
    # Where it was opened counts, not where the process is later.
    monkeypatch.chdir("/")
    relative.wait()
    assert bits(Checkpoints(tmp_path / "copied").restore(LIKE).state) == BITS[2]


def test_other_numbers_of_devices_restore_the_same_bits(tmp_path: pathlib.Path):
    values = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    one = Checkpoints(tmp_path / "from_1")
    one.save(1, {"a": jnp.asarray(values)}, {})
    one.close()
    program = f"""
        import pathlib, jax, numpy as np
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from reldepth_jax.run_dir.checkpoints import Checkpoints
        folder = pathlib.Path({os.fspath(tmp_path)!r})
        assert len(jax.devices()) == 4
        def like(count, *spec):
            mesh = Mesh(np.array(jax.devices()[:count]), ("data",))
            place = NamedSharding(mesh, PartitionSpec(*spec))
            return {{"a": jax.ShapeDtypeStruct((8, 6), np.float32, sharding=place)}}
        for count, *spec in ((4,), (4, "data"), (2, "data")):
            array = Checkpoints(folder / "from_1").restore(like(count, *spec)).state["a"]
            assert len(array.devices()) == count
            print(np.asarray(array).tobytes().hex())
            checkpoints = Checkpoints(folder / f"from_{{count}}{{''.join(spec)}}")
            checkpoints.save(1, {{"a": array}}, {{}})
            checkpoints.close()
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | with_devices(4),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [values.tobytes().hex()] * 3
    like = {"a": jax.ShapeDtypeStruct((8, 6), np.float32)}
    for name in ("from_4", "from_4data", "from_2data"):
        restored = Checkpoints(tmp_path / name).restore(like).state["a"]
        assert np.asarray(restored).tobytes() == values.tobytes()


def test_a_reader_beside_the_writer_sees_whole_states_only(tmp_path: pathlib.Path):
    # With one kept, what the reader has just listed is often gone when it looks.
    writer = Checkpoints(tmp_path, keep=1)
    writer.save(1, a_state(1), {})
    writer.wait()
    done = threading.Event()

    def write() -> None:
        for step in range(2, 40):
            writer.save(step, a_state(step), {})
        writer.wait()
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reader = Checkpoints(tmp_path, keep=1)
    seen = []
    while not done.is_set():
        restored = reader.restore(LIKE)
        assert restored.damaged == []
        assert bits(restored.state) == bits(a_state(restored.manifest.step))
        seen.append(restored.manifest.step)
    thread.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "the reader saw too little of the writing to show anything"


# When writing fails


def fail(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    "point", ["save.arrays", "save.arrays_done", "save.synced", "commit.written"]
)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.ENXIO, "No such device or address"), "No such device or address"),
        # As Orbax tells it.
        (ValueError("INTERNAL: write: Disk quota exceeded [errno=122]"), "Disk quota exceeded"),
    ],
)
def test_a_failed_save_surfaces_and_leaves_the_last_checkpoint(
    tmp_path: pathlib.Path, at_point, point: str, error: Exception, reason: str
):
    checkpoints = saved(tmp_path, 1)
    before = snapshot(tmp_path)
    at_point(point, fail(error))
    checkpoints.save(2, a_state(2), {})
    while checkpoints.busy:
        time.sleep(0.01)
    with pytest.raises(StorageError, match=f"00000002 cannot be saved: {reason}; step 1 is") as it:
        checkpoints.poll()
    assert it.value.exit_code == 6
    # Told once; what it left is gone, what was there is untouched.
    checkpoints.wait()
    assert snapshot(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2
    # As when there is space again.
    at_point(point, lambda: None)
    checkpoints.save(2, a_state(2), {})
    checkpoints.wait()
    assert bits(checkpoints.restore(LIKE).state) == BITS[2]


@pytest.mark.parametrize("how", ["wait", "save", "close"])
def test_a_failed_save_surfaces_at_the_latest_when_the_next_begins(
    tmp_path: pathlib.Path, at_point, how: str
):
    checkpoints = Checkpoints(tmp_path)
    at_point("save.arrays", fail(OSError(errno.EROFS, "Read-only file system")))
    checkpoints.save(1, a_state(1), {})
    arguments = (2, a_state(2), {}) if how == "save" else ()
    with pytest.raises(StorageError, match="Read-only file system; no earlier one is there"):
        getattr(checkpoints, how)(*arguments)


def test_an_error_that_is_not_of_storage_stays_what_it_is(tmp_path: pathlib.Path, at_point):
    checkpoints = saved(tmp_path, 1)
    at_point("save.arrays_done", fail(RuntimeError("a mistake of ours")))
    checkpoints.save(2, a_state(2), {})
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_too_little_space_is_seen_before_writing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    usage = collections.namedtuple("usage", "free")
    checkpoints = Checkpoints(tmp_path)
    state = {"a": np.zeros(5_000_000, np.float32)}  # 20 MB, and a fifth for the rest
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(23_000_000))
    checkpoints.save(1, state, {})
    with pytest.raises(StorageError, match="24 MB are needed, 23 MB are free"):
        checkpoints.wait()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(25_000_000))
    checkpoints.save(1, state, {})
    checkpoints.wait()
    assert checkpoints.steps() == [1]


def test_what_cannot_be_deleted_does_not_fail_a_save(tmp_path: pathlib.Path, at_point):
    checkpoints = saved(tmp_path, 1, keep=1)
    at_point("retain.moved", fail(OSError(errno.EIO, "Input/output error")))
    checkpoints.save(2, a_state(2), {})
    checkpoints.wait()
    assert checkpoints.steps() == [2]


def test_everything_is_durable_before_the_manifest_says_so(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[tuple[str, str]] = []
    replace, fsync = os.replace, os.fsync

    def name(path: Any) -> str:
        return os.path.relpath(path, tmp_path)

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("fsync", name(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def note_replace(source: Any, target: Any) -> None:
        replace(source, target)
        calls.append(("replace", f"{name(source)} {name(target)}"))

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    saved(tmp_path / "c", 5)
    folder = tmp_path / "c/00000005"
    commit = calls.index(("replace", "c/00000005.json.tmp c/00000005.json"))
    before = {path for call, path in calls[:commit] if call == "fsync"}
    every = [folder, *folder.rglob("*")]
    assert len(every) > 10
    assert {name(path) for path in every} <= before
    # The names in the folder, its own name, and the content of the manifest.
    assert {"c", ".", "c/00000005.json.tmp"} <= before
    # The manifest last of all, then its name.
    assert calls[commit - 1 :] == [
        ("fsync", "c/00000005.json.tmp"),
        ("replace", "c/00000005.json.tmp c/00000005.json"),
        ("fsync", "c"),
    ]


# What does not count as saved


def test_only_what_has_a_manifest_counts_and_the_rest_is_cleaned(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    # Two saves that were cut short, and the arrays of one that was complete.
    for step in (5, 6, 8):
        shutil.copytree(tmp_path / "00000002", tmp_path / f"0000000{step}")
    for step in (5, 6):
        (tmp_path / f"0000000{step}.json.tmp").write_text("left behind")
    not_ours = ["abc", "0000012", "000000003", "20261128", "a.orbax-checkpoint-tmp", "bad-holiday"]
    tmp_names = ["00000007.orbax-checkpoint-tmp", "00000002.orbax-checkpoint-tmp-123"]
    for folder in (*tmp_names, *not_ours):
        (tmp_path / folder / "d").mkdir(parents=True)
    others = [
        "00000098", "7", "notes.txt", "abc.json", "0000012.json", "000000003.json", "a.json.tmp",
        ".trash-", ".trash-..", ".trash-abc",
    ]  # fmt: skip
    for file in (*others, "00000009.json.tmp", ".trash-00000001", ".trash-00000003"):
        (tmp_path / file).write_text("not ours")
    assert checkpoints.steps() == [1, 2]
    assert bits(checkpoints.restore(LIKE).state) == BITS[2]
    stays = [
        f"{tmp_path}/{name} is no checkpoint of this run and stays as it is"
        for name in ("00000098", "20261128")
    ]
    assert sorted(checkpoints.clean()) == [
        *stays,
        "checkpoint 00000008 has lost its manifest; set aside as bad-1-00000008",
        "removed 00000002.orbax-checkpoint-tmp-123, which was not saved completely",
        "removed 00000005, which was not saved completely",
        "removed 00000006, which was not saved completely",
        "removed 00000007.orbax-checkpoint-tmp, which was not saved completely",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "00000001", "00000001.json", "00000002", "00000002.json", "bad-1-00000008",
        *not_ours, *others,
    }  # fmt: skip
    assert all((tmp_path / folder / "d").is_dir() for folder in not_ours)
    assert sorted(checkpoints.clean()) == stays
    assert bits(checkpoints.restore(LIKE).state) == BITS[2]


def test_a_directory_that_does_not_exist_holds_nothing(tmp_path: pathlib.Path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert checkpoints.best() is None
    assert checkpoints.clean() == []
    with pytest.raises(CheckpointError, match="no checkpoint can be restored: none is left"):
        checkpoints.restore(LIKE)
    assert not (tmp_path / "none").exists()


def test_what_is_at_the_place_of_a_step_is_set_aside_unless_it_is_a_leftover(
    tmp_path: pathlib.Path,
):
    left = saved(tmp_path / "other", 2)._folder / "00000002"
    folder = tmp_path / "c"
    for step in (3, 5):
        shutil.copytree(left, folder / f"0000000{step}")
    (folder / "00000005.json.tmp").touch()
    (folder / "00000004").write_text("a file named like a step")
    checkpoints = saved(folder, 3, 4, 5)
    for step in (3, 4, 5):
        assert bits(checkpoints.restore(LIKE, step).state) == BITS[step]
    assert sorted(path.name for path in folder.glob("bad*")) == ["bad-1-00000003", "bad-1-00000004"]
    assert files(folder / "bad-1-00000003")
    assert (folder / "bad-1-00000004").read_text() == "a file named like a step"


@pytest.mark.parametrize("point", ["retain.manifest_gone", "retain.moved"])
def test_a_deletion_that_was_cut_short_is_finished_and_is_no_damage(
    tmp_path: pathlib.Path, at_point, point: str
):
    checkpoints = saved(tmp_path, 1, keep=1)
    at_point(point, fail(OSError("cut short")))
    checkpoints.save(2, a_state(2), {})
    checkpoints.wait()
    assert any(path.name.startswith(".trash") for path in tmp_path.iterdir())
    assert Checkpoints(tmp_path).clean() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000002.json"]


# Damage


def test_damage_falls_back_to_the_one_before_and_says_why(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2, 3)
    flip(arrays_file(tmp_path / "00000003"), 777)
    (tmp_path / "00000002.json").write_text("")
    before = snapshot(tmp_path)
    restored = checkpoints.restore(LIKE)
    assert bits(restored.state) == BITS[1]
    assert restored.manifest.step == 1
    assert len(restored.damaged) == 2
    assert re.fullmatch(
        r"step 3: 1 of 7 arrays are not what was saved, first \['(params|momentum)'\].*",
        restored.damaged[0],
    )
    assert restored.damaged[1] == "step 2: its manifest 00000002.json is damaged"
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "is damaged"),
        (lambda path: path.write_bytes(b"\xff" * 900), "is damaged"),
        (lambda path: path.write_text("{}\n"), "is damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
        (lambda path: shutil.copy(path.with_name("00000001.json"), path), "is that of step 1"),
    ],
    ids=["emptied", "truncated", "seal cut", "noise", "other JSON", "directory", "other step"],
)
def test_a_damaged_manifest_is_told(
    tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], object], reason: str
):
    checkpoints = saved(tmp_path, 1, 2)
    damage(tmp_path / "00000002.json")
    restored = checkpoints.restore(LIKE)
    assert bits(restored.state) == BITS[1]
    assert len(restored.damaged) == 1
    assert reason in restored.damaged[0]
    assert isinstance(checkpoints.manifests()[2], str)


def test_a_deleted_manifest_makes_a_step_unsaved(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "00000002.json").unlink()
    assert checkpoints.steps() == [1]
    assert bits(checkpoints.restore(LIKE).state) == BITS[1]


def test_a_flipped_bit_of_a_manifest_is_seen_wherever_it_is(tmp_path: pathlib.Path):
    path = saved(tmp_path, 1, whdr=0.25)._folder / "00000001.json"
    whole = path.read_bytes()
    other = tmp_path / "flipped.json"
    unseen = []
    # Of eight bytes in a row each bit, and of each byte one or two.
    for bit in range(0, 8 * len(whole), 7):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        other.write_bytes(content)
        with contextlib.suppress(ValueError):
            read_manifest(other, 1)
            unseen.append(bit)
    assert unseen == []
    assert len(whole) > 1000


def test_a_manifest_of_a_later_version_is_not_damage(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    rewrite_manifest(tmp_path / "00000002.json", schema=1)
    assert checkpoints.restore(LIKE).manifest.step == 2
    rewrite_manifest(tmp_path / "00000002.json", schema=2, news="something")
    before = snapshot(tmp_path)
    with pytest.raises(
        CheckpointError, match="step 2 .* schema 2, .* reads 1; update reldepth_jax"
    ):
        checkpoints.restore(LIKE, repair=True)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"news": 1}, "news: is unknown"),
        ({"step": None}, "step: expected a whole number"),
        ({"step": True}, "step: expected a whole number"),
        ({"schema": "1"}, "schema: expected a whole number"),
        ({"arrays": []}, "arrays: expected an object"),
        ({"arrays": {"a": [[2], "int8"]}}, "arrays.a: expected a list of 3"),
        ({"arrays": {"\x1b[2J": [[-2], "int8", ""]}}, r"arrays.\x1b[2J.0: expected a whole"),
        ({"facts": {"whdr": "low"}}, "facts.whdr: expected a number"),
        ({"facts": {"whdr": float("nan")}}, "facts.whdr: expected a number"),
        ({"facts": {"skipped": [1]}}, "facts.skipped: expected a whole number"),
        ({"facts": None}, "facts: expected an object"),
    ],
    ids=str,
)
def test_a_sealed_manifest_of_another_form_falls_back(
    tmp_path: pathlib.Path, changes: dict[str, Any], reason: str
):
    checkpoints = saved(tmp_path, 1, 2)
    rewrite_manifest(tmp_path / "00000002.json", **changes)
    restored = checkpoints.restore(LIKE)
    assert restored.manifest.step == 1
    (told,) = restored.damaged
    assert told.startswith(f"step 2: its manifest 00000002.json is damaged: {reason}")
    assert told.isprintable()
    assert isinstance(checkpoints.manifests()[2], str)


@pytest.mark.parametrize("name", ["step", "arrays", "facts", "schema"])
def test_a_sealed_manifest_without_a_field_falls_back(tmp_path: pathlib.Path, name: str):
    checkpoints = saved(tmp_path, 1, 2)
    path = tmp_path / "00000002.json"
    values = json.loads(path.read_text().rsplit("\n", 2)[0])
    del values[name]
    content = json.dumps(values)
    path.write_text(f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n")
    told = f"step 2: its manifest 00000002.json is damaged: {name}: is missing"
    assert checkpoints.restore(LIKE).damaged == [told]


def changed(**changes: Any) -> State:
    return LIKE | changes


KERNEL = jax.ShapeDtypeStruct((64, 48), np.float32)


@pytest.mark.parametrize(
    ("like", "told"),
    [
        (changed(mask=jax.ShapeDtypeStruct((100,), np.int8)),
         "['mask']: saved bool[100], wanted int8[100]"),
        (changed(step=jax.ShapeDtypeStruct((1,), np.int32)),
         "['step']: saved int32[], wanted int32[1]"),
        (changed(params=LIKE["params"] | {"kernel": jax.ShapeDtypeStruct((64, 48), jnp.bfloat16)}),
         "['params']['kernel']: saved float32[64,48], wanted bfloat16[64,48]"),
        (changed(params=LIKE["params"] | {"scale": KERNEL}),
         "['params']['scale']: saved nothing, wanted float32[64,48]"),
        ({name: part for name, part in LIKE.items() if name != "mask"},
         "['mask']: saved bool[100], wanted nothing"),
        (changed(params={}, mask=KERNEL),
         "['mask']: saved bool[100], wanted float32[64,48];"
         " ['params']['bias']: saved float32[48], wanted nothing;"
         " ['params']['half']: saved bfloat16[33], wanted nothing and 1 more"),
    ],
    ids=["dtype", "shape", "narrower", "extra", "missing", "many"],
)  # fmt: skip
def test_other_arrays_are_refused_with_the_difference(
    tmp_path: pathlib.Path, like: State, told: str
):
    checkpoints = saved(tmp_path, 1, 2)
    before = snapshot(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(like, repair=True)
    message = "checkpoint of step 2 is of another network or optimiser: "
    assert str(caught.value) == message + told
    assert snapshot(tmp_path) == before


def test_repairing_renames_and_never_deletes(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    for number in (1, 2):
        flip(arrays_file(tmp_path / "00000002"), 777)
        content = {name: entry[0] for name, entry in snapshot(tmp_path / "00000002").items()}
        manifest = (tmp_path / "00000002.json").read_bytes()
        restored = checkpoints.restore(LIKE, repair=True)
        assert restored.manifest.step == 1
        assert restored.damaged[0].endswith(f"(set aside as bad-{number}-00000002)")
        aside = tmp_path / f"bad-{number}-00000002"
        assert {name: entry[0] for name, entry in snapshot(aside).items()} == content
        assert aside.with_suffix(".json").read_bytes() == manifest
        # Its step can be saved again, and cleaning up leaves it alone.
        assert checkpoints.steps() == [1]
        assert checkpoints.clean() == []
        checkpoints.save(2, a_state(2), {})
        checkpoints.wait()
        assert bits(checkpoints.restore(LIKE).state) == BITS[2]
    assert len(list(tmp_path.glob("bad-*"))) == 4


def test_a_lost_manifest_is_damage_and_a_save_cut_short_is_none(tmp_path: pathlib.Path, at_point):
    checkpoints = saved(tmp_path, 1, 2)
    content = snapshot(tmp_path / "00000002")
    (tmp_path / "00000002.json").unlink()

    class Cut(BaseException):
        """As if the process had ended: nothing cleans up."""

    for step, point in ((3, "save.arrays_done"), (4, "commit.written")):
        at_point(point, fail(Cut()))
        checkpoints.save(step, a_state(step), {})
        with pytest.raises(Cut):
            checkpoints.wait()
        at_point(point, lambda: None)
    assert Checkpoints(tmp_path).clean() == [
        "checkpoint 00000002 has lost its manifest; set aside as bad-1-00000002",
        "removed 00000003, which was not saved completely",
        "removed 00000004, which was not saved completely",
    ]
    assert snapshot(tmp_path / "bad-1-00000002") == content
    assert {path.name for path in tmp_path.iterdir()} == {
        "00000001", "00000001.json", "bad-1-00000002",
    }  # fmt: skip
    assert checkpoints.restore(LIKE).manifest.step == 1


def test_cleaning_that_is_cut_short_goes_on_the_next_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path, 1, 2)
    (tmp_path / "00000002.json").rename(tmp_path / "00000002.json.tmp")
    for path in files(tmp_path / "00000002"):
        if path.parent == tmp_path / "00000002":
            path.unlink()  # what a deletion that was cut short has reached
    removed = []
    monkeypatch.setattr(checkpoints, "_remove", lambda path: removed.append(path.name))
    Checkpoints(tmp_path).clean()
    assert removed == ["00000002", "00000002.json.tmp"]


def test_a_folder_that_cannot_be_written_to_is_met_before_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    Checkpoints(tmp_path / "new").require_writable()
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="/file cannot be written to: File exists"):
        Checkpoints(tmp_path / "file").require_writable()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoints.tempfile, "TemporaryFile", refuse)
    with pytest.raises(StorageError, match="new cannot be written to: Read-only file system"):
        Checkpoints(tmp_path / "new").require_writable()


def test_a_manifest_without_its_arrays_is_damage(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "00000002")
    restored = checkpoints.restore(LIKE, repair=True)
    assert restored.manifest.step == 1
    assert restored.damaged[0].startswith("step 2: its arrays cannot be read (")
    assert (tmp_path / "bad-1-00000002.json").exists()


def test_if_all_are_damaged_each_reason_is_told_and_all_stay(tmp_path: pathlib.Path):
    checkpoints = saved(tmp_path, 1, 2, 3)
    flip(arrays_file(tmp_path / "00000003"), 777)
    (tmp_path / "00000002.json").write_text("")
    shutil.rmtree(tmp_path / "00000001")
    before = snapshot(tmp_path)
    # The second time, too: nothing may depend on who looked before.
    for _ in range(2):
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(LIKE, repair=True)
        assert caught.value.exit_code == 3
        lines = str(caught.value)
        assert "step 3: 1 of 7 arrays are not what was saved" in lines
        assert "step 2: its manifest 00000002.json is damaged" in lines
        assert "step 1: its arrays cannot be read" in lines
    assert snapshot(tmp_path) == before


# Runs


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return a run directory with two states, of any values, as steps 2 and 4."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    save_config(folder, WIDE)
    checkpoints = Checkpoints(folder / "checkpoints")
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype),
        new_state(WIDE, abstract=True)[1],
    )
    for step in (2, 4):
        checkpoints.save(step, state._replace(step=jnp.asarray(step, jnp.int32)), {"whdr": 0.5})
        checkpoints.wait()
        History(folder).add("saved", step=step, seconds=0.1)
    checkpoints.close()
    return folder


def damage_arrays(folder: pathlib.Path) -> None:
    for step in (2, 4):
        flip(arrays_file(folder / f"checkpoints/0000000{step}"), 8 * 1000)


def lose_manifests(folder: pathlib.Path) -> None:
    for step in (2, 4):
        (folder / f"checkpoints/0000000{step}.json").unlink()


def lose_all(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "checkpoints")


def make_newer(folder: pathlib.Path) -> None:
    for step in (2, 4):
        rewrite_manifest(folder / f"checkpoints/0000000{step}.json", schema=2)


def lose_manifests_and_history(folder: pathlib.Path) -> None:
    lose_manifests(folder)
    (folder / "history.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_arrays, r"step 4: .* not what was saved.*; step 2: .* not what was saved"),
        (lose_manifests, "none is left; set aside: bad-1-00000002, bad-1-00000004"),
        (lose_manifests_and_history, "none is left; set aside: bad-1-00000002, bad-1-00000004"),
        (lose_all, "none is left"),
        (make_newer, "update reldepth_jax"),
    ],
)
def test_training_never_begins_anew_where_a_checkpoint_was(
    a_run: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[pathlib.Path], None],
    told: str,
):
    def begins(*_: Any, **__: Any) -> None:
        raise AssertionError("training begins")

    monkeypatch.setattr(training_run.loop, "fit", begins)
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    damage(folder)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=told):
            training_run.train(WIDE, folder, Console(quiet=True))


def test_loading_a_run_falls_back_says_so_and_renames_nothing(
    a_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    flip(arrays_file(folder / "checkpoints/00000004"), 8 * 1000)
    (folder / "checkpoints/00000008").mkdir()
    before = snapshot(folder)
    assert load_run(folder).step == 2
    said = capsys.readouterr().err
    assert re.search(r"step 4: \d+ of \d+ arrays are not .*; using step 2$", said.strip())
    with pytest.raises(CheckpointError, match="step 4: .* not what was saved"):
        load_run(folder, 4)
    assert load_run(folder, 2).step == 2
    assert snapshot(folder) == before
    assert (folder / "checkpoints/00000008").exists()


def test_another_network_is_refused_when_a_run_is_loaded(
    a_run: pathlib.Path, tmp_path: pathlib.Path
):
    folder = tmp_path / "run"
    shutil.copytree(a_run, folder)
    wider = dataclasses.replace(WIDE.model, decoder_width=8)
    save_config(folder, dataclasses.replace(WIDE, model=wider))
    with pytest.raises(CheckpointError, match=r"decoder.*: saved float32\[.*\], wanted float32\["):
        load_run(folder)


# The damage matrix


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("matrix") / "c"
    saved(folder, 1, 2).close()
    return folder


def files_of_step_2(folder: pathlib.Path) -> list[pathlib.Path]:
    return [*files(folder / "00000002"), folder / "00000002.json"]


def kind(path: pathlib.Path, folder: pathlib.Path) -> str:
    if path.suffix == ".json":
        return "commit manifest"
    inside = str(path.relative_to(folder / "00000002"))
    largest = path == arrays_file(folder / "00000002")
    return re.sub(r"[0-9a-f]{32}", "VALUES" if largest else "*", inside)


def outcome(restored: Restored[State], said: list[str]) -> str:
    """Return "harmless" or "detected" if it is true, otherwise what is wrong."""
    step = restored.manifest.step
    if bits(restored.state) != BITS[step]:
        return f"WRONG: not the bits of step {step}"
    if step == 2 and not said:
        return "harmless"
    if step == 1 and len(said) == 1 and re.match("step 2: |checkpoint 00000002 ", said[0]):
        return "detected"
    return f"WRONG: step {step}, said {said}"


def delete(path: pathlib.Path, _: random.Random) -> None:
    path.unlink()


def empty(path: pathlib.Path, _: random.Random) -> None:
    os.truncate(path, 0)


def halve(path: pathlib.Path, _: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_one(path: pathlib.Path, rng: random.Random) -> None:
    flip(path, rng.randrange(8 * path.stat().st_size))


DAMAGES = {"deleted": delete, "emptied": empty, "halved": halve, "1 bit flipped": flip_one}


def table(counts: dict[tuple[str, str], collections.Counter[str]], columns: list[str]) -> str:
    rows = [f"{'file':34}" + "".join(f"{column:>16}" for column in columns)]
    for name in sorted({name for name, _ in counts}):
        cells = [
            ", ".join(f"{number} {what}" for what, number in sorted(counts[name, column].items()))
            for column in columns
        ]
        rows.append(f"{name:34}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(rows)


def test_each_file_damaged_in_each_way_is_detected_or_harmless(
    two_steps: pathlib.Path, tmp_path: pathlib.Path
):
    rng = random.Random(0)
    counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    for index, path in enumerate(files_of_step_2(two_steps)):
        for what, damage in DAMAGES.items():
            folder = tmp_path / f"{index} {what}"
            shutil.copytree(two_steps, folder)
            damage(folder / path.relative_to(two_steps), rng)
            # As training does when it starts.
            checkpoints = Checkpoints(folder)
            said = checkpoints.clean()
            restored = checkpoints.restore(LIKE, repair=True)
            counts[kind(path, two_steps), what][outcome(restored, said + restored.damaged)] += 1
    total = sum(counts.values(), collections.Counter())
    print(f"\n{table(counts, list(DAMAGES))}\n{dict(total)}")
    assert set(total) == {"detected", "harmless"}
    assert total.total() == 4 * len(files_of_step_2(two_steps)) >= 40
    # The manifest is never harmless, nor are the values; but a bit may be one that no array uses.
    for name in ("commit manifest", "ocdbt.process_0/d/VALUES"):
        for what in DAMAGES:
            if (name, what) != ("ocdbt.process_0/d/VALUES", "1 bit flipped"):
                assert counts[name, what] == {"detected": 1}, (name, what)


def flips(folder: pathlib.Path, number: int) -> dict[tuple[str, str], collections.Counter[str]]:
    """Flip random bits of step 2, one at a time; return what came of it."""
    rng = random.Random(1)
    paths = files_of_step_2(folder)
    sizes = [path.stat().st_size for path in paths]
    counts: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(
        collections.Counter
    )
    checkpoints = Checkpoints(folder)
    for path in rng.choices(paths, sizes, k=number):
        whole = path.read_bytes()
        name = kind(path, folder)
        flip_one(path, rng)
        restored = checkpoints.restore(LIKE)
        counts[name, "1 bit flipped"][outcome(restored, restored.damaged)] += 1
        path.write_bytes(whole)
    return counts


def test_random_flipped_bits_are_never_restored(two_steps: pathlib.Path):
    counts = flips(two_steps, 200)
    total = sum(counts.values(), collections.Counter())
    print(f"\n{table(counts, ['1 bit flipped'])}\n{dict(total)}")
    assert set(total) <= {"detected", "harmless"}
    assert total.total() == 200
    assert total["detected"] > 150


def test_without_the_digests_flipped_bits_would_be_restored(
    two_steps: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    recorded = {}

    def remember(path: pathlib.Path, step: int) -> Manifest:
        manifest = read_manifest(path, step)
        recorded.update(manifest.arrays)
        return manifest

    monkeypatch.setattr(checkpoints, "read_manifest", remember)
    monkeypatch.setattr(checkpoints, "describe", lambda state: recorded)
    total = sum(flips(two_steps, 30).values(), collections.Counter())
    print(f"\n{dict(total)}")
    assert total["WRONG: not the bits of step 2"] >= 1


def test_what_fails_behind_the_renamed_manifest_does_not_discard_the_save(
    tmp_path: pathlib.Path, at_point
):
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    at_point("commit.renamed", fail)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, a_state(3), {})
    with pytest.raises(StorageError):
        checkpoints.wait()
    # It has its manifest: it counts as saved, so its arrays must be there.
    assert bits(Checkpoints(tmp_path).restore(LIKE).state) == BITS[3]


def test_of_a_damaged_checkpoint_the_manifest_is_renamed_last(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path, 1, 2)
    flip(arrays_file(tmp_path / "00000002"), 999)
    renamed: list[str] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        renamed.append(pathlib.Path(source).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    Checkpoints(tmp_path).restore(LIKE, repair=True)
    assert renamed == ["00000002", "00000002.json"]


def test_one_number_that_is_not_finite_among_others_is_refused(tmp_path: pathlib.Path):
    state = a_state(1)
    state["params"]["kernel"] = state["params"]["kernel"].at[3, 4].set(jnp.nan)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    with pytest.raises(CheckpointError, match="is not finite"):
        checkpoints.wait()


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError(f"DATA_LOSS: reading d/1: {os.strerror(errno.EIO)}"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_what_cannot_be_read_is_not_set_aside(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    saved(tmp_path, 1, 2)
    before = snapshot(tmp_path)

    def restore(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp.StandardCheckpointer, "restore", restore)
        with pytest.raises(CheckpointError, match="step 2 cannot be read: .*stays as it is"):
            Checkpoints(tmp_path).restore(LIKE, repair=True)
    assert snapshot(tmp_path) == before
    assert bits(Checkpoints(tmp_path).restore(LIKE).state) == BITS[2]


def of_many_arrays(seed: int) -> State:
    rng = np.random.default_rng(seed)
    return {f"a{number}": rng.normal(size=(100, 100)) for number in range(200)}


def test_a_damaged_file_and_a_failed_save_of_many_arrays_are_told_once(tmp_path: pathlib.Path):
    # The other arrays would print when they come back; not where pytest is listening.
    program = f"""
        import os, pathlib, resource, signal, time
        from reldepth_jax.run_dir.checkpoints import Checkpoints, StorageError
        from tests.run_dir.test_checkpoints import abstract, arrays_file, of_many_arrays
        folder = pathlib.Path({os.fspath(tmp_path)!r})
        store = Checkpoints(folder)
        for step in (1, 2):
            store.save(step, of_many_arrays(step), {{}})
        store.wait()
        values = arrays_file(folder / "00000002")
        os.truncate(values, values.stat().st_size // 2)
        restored = store.restore(abstract(of_many_arrays(0)))
        print(restored.manifest.step, *restored.damaged)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        store.save(3, of_many_arrays(3), {{}})
        try:
            store.close()
        except StorageError as error:
            print(error)
        time.sleep(0.3)
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.stderr == ""
    damaged, failed = ended.stdout.splitlines()
    assert damaged.startswith("1 step 2: its arrays cannot be read (")
    assert re.fullmatch(r".*/00000003 cannot be saved: File too large; step 2 is .*", failed)
    assert len(list(tmp_path.iterdir())) == 4
