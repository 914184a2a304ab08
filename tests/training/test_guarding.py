"""What may go wrong around a run: another job, the disk, numbers, samples, workers."""

import contextlib
import dataclasses
import errno
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax import failpoints
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.data.unreadable import SkipUnreadable, too_many
from reldepth_jax.inference import networks
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.run_dir.history import History
from reldepth_jax.training import run as training_run
from reldepth_jax.training import step as step_module
from reldepth_jax.training.loop import NonFiniteError
from reldepth_jax.training.metrics_writer import MetricsWriter
from tests.fixtures.marked import Marked, what_is_seen
from tests.fixtures.training import Child, Points, as_script, config, digests, newest, train, whole


def left_over(workdir: pathlib.Path) -> list[str]:
    """Return what lies in checkpoints/ beside whole ones."""
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    records = {name for name in names if re.fullmatch(r"\d{8}\.json", name)}
    return sorted(names ^ (records | {name.removesuffix(".json") for name in records}))


# One job for each run directory


def test_a_second_job_is_refused_and_the_first_one_goes_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    child = Child(run, "--config.train.steps=100000", MARKED_SLOW="0.05")
    child.wait_for("commit.done")
    before = newest(run)
    code, error = as_script(lambda: train(config(), run), capsys)
    assert code == 4
    (line,) = error.splitlines()
    assert line.startswith(f"error: {run} is in use by process {child.process.pid} on ")
    assert "--workdir" in line
    child.wait_for("commit.done", 4)
    assert newest(run) > before
    assert not (run / "config.json.tmp").exists()
    # The system frees the lock of a process that is killed: nothing has to be removed.
    child.send(signal.SIGKILL)
    assert child.end()[0] == -signal.SIGKILL
    saved = newest(run)
    code, said = train(config(train__steps=saved + 1), run)
    assert code == 0
    assert f"continuing at step {saved}" in said


# The disk


@contextlib.contextmanager
def disk(folder: pathlib.Path, options: str) -> Iterator[bool]:
    """Mount a file system of its own in memory; yields whether that is allowed here."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    allowed = os.geteuid() == 0 and subprocess.run(command, check=False).returncode == 0
    try:
        yield allowed
    finally:
        if allowed:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_directory_that_is_read_only_is_told_before_anything_is_computed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training_run, "new_state", lambda *_, **__: pytest.fail("has begun"))
    with disk(tmp_path / "disk", "ro,size=1m") as mounted:
        if not mounted:
            # A read-only folder does not stop root, and others need no mount.
            if os.geteuid() == 0:
                pytest.skip("neither can a read-only disk be mounted nor is this another user")
            (tmp_path / "disk").chmod(0o555)
        for run in (tmp_path / "disk", tmp_path / "disk/run"):
            code, error = as_script(lambda run=run: train(config(), run), capsys)
            assert code == 6
            (line,) = error.splitlines()
            assert line.startswith(f"error: {run} cannot be written to: ")


@pytest.mark.parametrize(
    ("point", "told"),
    [
        # The second save, of step 4: it finds no space, or the space ends while it writes.
        ("save", r"\d MB are needed, 0 MB are free"),
        ("save.arrays", "No space left on device"),
        ("save.synced", "No space left on device"),
    ],
)
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    told: str,
):
    with disk(tmp_path / "disk", "size=8m") as mounted:
        run, ballast = tmp_path / "disk/run", tmp_path / "disk/ballast"

        def fill() -> None:
            if not mounted:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        if not mounted and point == "save":
            pytest.skip("a disk that is full cannot be mounted: needs root")
        points = Points(point, 2, fill)
        with monkeypatch.context() as patch:
            patch.setattr(failpoints, "reach", points)
            code, error = as_script(lambda: train(config(), run), capsys)
        assert points.seen.count(point) == 2
        assert code == 6
        (line,) = error.splitlines()
        where = re.escape(f"error: {run}/checkpoints/00000004 cannot be saved: ")
        assert re.match(f"{where}{told}; step 3 is the newest saved. Free some space", line), line
        assert (newest(run), left_over(run)) == (3, [])
        assert len(digests(run)) > 10  # verified
        if mounted:
            fill()  # the room of what was given up
            code, error = as_script(lambda: train(config(), run), capsys)
            assert (code, len(error.splitlines())) == (6, 1)
            assert (newest(run), left_over(run)) == (3, [])
        ballast.unlink(missing_ok=True)
        code, said = train(config(), run)
        assert code == 0
        assert "continuing at step 3" in said
        assert digests(run) == whole()
        assert left_over(run) == []


def test_records_that_cannot_be_written_do_not_stop_a_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    for name in ("tensorboard", "pictures"):
        (tmp_path / name).write_text("not a folder")
    code, said = train(config(train__writers="tensorboard,csv,wandb"), tmp_path)
    assert code == 0
    warnings = [line for line in said.splitlines() if "cannot be written" in line]
    assert sorted(line.partition(" cannot")[0] for line in warnings) == [
        "Weights & Biases",
        "metrics and pictures",
    ]
    assert all("training goes on" in line for line in warnings)
    assert digests(tmp_path) == whole()


def test_a_disk_that_fills_up_loses_records_and_nothing_else(tmp_path: pathlib.Path):
    with disk(tmp_path / "disk", "size=64k") as mounted:
        if not mounted:
            pytest.skip("a small disk cannot be mounted: needs root")
        warnings: list[str] = []
        records = MetricsWriter(tmp_path / "disk", config(), warnings.append)
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for step in range(20):
            records.scalars(step, "train", {"loss": 1.0})
            records.picture(step, "val", picture)
        records.close()
        assert len(warnings) == 1
        assert "No space left on device" in warnings[0]
        assert not list((tmp_path / "disk").rglob("*tmp*"))


# Numbers


def poisoned(number: int) -> Any:
    """Return what stands in for the registry of losses: NaN for batches with a red of `number`."""

    def loss(score: Any, batch: Any, pairs: Any) -> Any:
        bad = jnp.any(batch["image"][..., 2] == number)
        return RankingLoss()(score, batch, pairs) * jnp.where(bad, jnp.nan, 1.0)

    return types.SimpleNamespace(create=lambda *_, **__: loss)


def samples_of(start: int, stop: int) -> list[set[int]]:
    """Return which samples stand in the batch of each step."""
    source = Marked(split="train", size=(32, 64))
    batches = train_batches(config(), [source], start=start)
    found = []
    for batch in itertools.islice(batches, stop - start):
        found.append({what_is_seen(image)[0] for image in batch["image"]})
    return found


def test_a_step_that_is_not_finite_is_skipped_and_counted_over_interruptions(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    # A sample of the third step of the first epoch; it comes again in the second epoch.
    sample = min(samples_of(2, 3)[0])
    bad = [sample in samples for samples in samples_of(0, 12)]
    assert bad[2]
    assert sum(bad) == 2
    monkeypatch.setattr(step_module, "LOSSES", poisoned(sample))
    settings = config(train__checkpoint_every=1, train__steps=12)
    with monkeypatch.context() as patch:
        points = Points("step", 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        patch.setattr(failpoints, "reach", points)
        assert train(settings, tmp_path)[0] == 143
    assert train(settings, tmp_path)[0] == 0

    states = {step: digests(tmp_path, step) for step in range(1, 13)}
    learnt = {name for name in states[1] if not re.search(r"step|skipped|count", name)}
    assert len(learnt) > 30
    skipped = 0
    for step in range(1, 12):
        before, after = states[step], states[step + 1]
        same = {name for name in learnt if before[name] == after[name]}
        # Parameters, optimiser and BatchNorm: bit for bit, or all of them change.
        assert same == (learnt if bad[step] else set()), step
        skipped += bad[step]
        counted, in_a_row = (
            int(np.frombuffer(after[name], np.int32)[0])
            for name in (".skipped", ".skipped_in_a_row")
        )
        assert (counted, in_a_row) == (skipped, int(bad[step]))
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    train_lines = [line for line in lines if line["group"] == "train"]
    assert [line["skipped"] for line in train_lines] == list(np.cumsum(bad))
    assert [not np.isfinite(line["loss"]) for line in train_lines] == bad


def test_too_many_skipped_steps_end_the_run_with_the_last_finite_state_kept(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    real = training_run.train_batches

    def from_step_5(settings: Any, sources: Any, **rest: Any) -> Iterator[Any]:
        for step, batch in enumerate(real(settings, sources, **rest), rest["start"]):
            if step >= 5:
                batch["image"] = np.full_like(batch["image"], 255)
            yield batch

    monkeypatch.setattr(step_module, "LOSSES", poisoned(255))
    monkeypatch.setattr(training_run, "train_batches", from_step_5)
    settings = config(train__max_skipped=3, train__steps=20, train__eval_every=100)
    code, error = as_script(lambda: train(settings, tmp_path), capsys)
    assert code == 5
    (line,) = error.splitlines()
    assert line.startswith("error: step 8: loss nan with gradient norm")
    assert "3 steps were not finite, up to 3 in a row, and none was applied" in line
    # Saved at 3, 6 and, because it stops there, 8: all with what step 5 left.
    assert newest(tmp_path) == 8
    run = networks.from_run(tmp_path)
    assert run.step == 8
    images = np.zeros((1, 32, 64, 3), np.uint8)
    assert np.isfinite(run(images)).all()
    six, eight = digests(tmp_path, 6), digests(tmp_path, 8)
    assert {name for name in six if six[name] != eight[name]} == {
        ".step", ".skipped", ".skipped_in_a_row",
    }  # fmt: skip


def test_skipped_steps_in_a_row_are_counted_over_interruptions(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    real = training_run.train_batches

    def poison(settings: Any, sources: Any, **rest: Any) -> Iterator[Any]:
        for batch in real(settings, sources, **rest):
            batch["image"] = np.full_like(batch["image"], 255)
            yield batch

    monkeypatch.setattr(step_module, "LOSSES", poisoned(255))
    monkeypatch.setattr(training_run, "train_batches", poison)
    settings = config(train__max_skipped=5)
    with monkeypatch.context() as patch:
        patch.setattr(
            failpoints, "reach", Points("step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        )
        assert train(settings, tmp_path)[0] == 143
    with pytest.raises(NonFiniteError, match="5 steps were not finite, up to 5 in a row"):
        train(settings, tmp_path)
    assert newest(tmp_path) == 5


# Samples


def batches(workers: int, log: pathlib.Path, steps: int) -> list[dict[str, np.ndarray]]:
    source = SkipUnreadable(Marked(split="train", size=(32, 64)), 0, str(log), (32, 64))
    found = train_batches(config(data__workers=workers), [source], start=0)
    return list(itertools.islice(found, steps))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_keep_their_place_and_are_named_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    steps = 18  # three epochs of 23, by 4
    clean = batches(0, tmp_path / "clean.jsonl", steps)
    assert not any(batch["unreadable"].any() for batch in clean)
    assert not (tmp_path / "clean.jsonl").exists()
    monkeypatch.setenv("MARKED_BAD", "3,8")
    disturbed = batches(workers, tmp_path / "bad.jsonl", steps)
    found = 0
    for one, other in zip(clean, disturbed, strict=True):
        for slot, image in enumerate(one["image"]):
            if what_is_seen(image)[0] in (3, 8):
                found += 1
                assert other["unreadable"][slot]
                assert not other["mask"][slot].any()
                continue
            for name in one:
                np.testing.assert_array_equal(one[name][slot], other[name][slot])
    assert found == 6
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert sorted((line["source"], line["index"], line["error"]) for line in lines) == [
        (0, 3, "3.png: is truncated"), (0, 8, "8.png: is truncated"),
    ]  # fmt: skip


def test_bad_samples_are_counted_and_named_once_over_sessions(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    expected = [len(samples & {3, 8, 11}) for samples in samples_of(0, 12)]
    monkeypatch.setenv("MARKED_BAD", "3,8,11")
    settings = config(train__steps=12)
    with monkeypatch.context() as patch:
        patch.setattr(
            failpoints, "reach", Points("step", 6, lambda: os.kill(os.getpid(), signal.SIGTERM))
        )
        assert train(settings, tmp_path)[0] == 143
    assert train(settings, tmp_path)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    counted = [line["bad_samples"] for line in lines if line["group"] == "train"]
    assert counted == expected
    assert sum(expected) >= 6
    bad = [json.loads(line) for line in (tmp_path / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(line["index"] for line in bad) == [3, 8, 11]


def test_more_bad_samples_than_allowed_end_the_run_after_saving(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # None is allowed; the first one is met in the fourth step.
    sample = min(samples_of(3, 4)[0])
    monkeypatch.setenv("MARKED_BAD", str(sample))
    code, error = as_script(lambda: train(config(data__max_unreadable=0), tmp_path), capsys)
    assert code == 3
    (line,) = error.splitlines()
    assert "1 of 23 samples cannot be read, more than 0 (data.max_unreadable)" in line
    assert f"{sample}.png: is truncated" in line
    assert newest(tmp_path) == 4
    # It goes on where it stopped when more are allowed (or the file is mended).
    code, said = train(config(), tmp_path)
    assert (code, newest(tmp_path)) == (0, 8)
    assert "continuing at step 4" in said


@pytest.mark.parametrize(
    ("bad", "samples", "share", "allowed"),
    [
        (1, 100, 0.0, 0), (1, 100, 0.01, 10), (10, 100, 0.01, 10), (11, 100, 0.01, 10),
        (20, 2000, 0.01, 20), (21, 2000, 0.01, 20), (1, 1, 0.5, 0), (2, 3, 0.5, 2), (3, 3, 0.5, 2),
    ],
)  # fmt: skip
def test_so_many_samples_may_be_bad(
    tmp_path: pathlib.Path, bad: int, samples: int, share: float, allowed: int
):
    # Twice each, as an earlier version or another worker may have written them; one line cut off.
    lines = [json.dumps({"source": 0, "index": i, "error": f"e{i}"}) for i in range(bad)] * 2
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines, lines[0][:9]]))
    told = too_many(tmp_path / "bad.jsonl", samples, share)
    assert (told is not None) == (bad > allowed)
    assert too_many(tmp_path / "none.jsonl", samples, share) is None
    if told:
        assert f"{bad} of {samples} samples cannot be read, more than {allowed}" in told
        assert "e0" in told


# Workers


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    # More steps than there are batches under way when they die.
    settings = config(train__steps=40, train__checkpoint_every=20, train__eval_every=40)
    assert train(settings, tmp_path / "whole")[0] == 0
    killed: list[int] = []

    def kill() -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reach", Points("step", 1, kill))
        data = dataclasses.replace(settings.data, workers=2)
        code, said = train(dataclasses.replace(settings, data=data), tmp_path / "run")
    assert len(killed) == 2
    assert code == 0
    assert "a data worker died" in said
    assert "exit code -9" in said
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    events = [event["event"] for event in History(tmp_path / "run").events()]
    assert 1 <= events.count("worker_died") <= 2
