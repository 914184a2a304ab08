"""Processes killed with SIGKILL, at every named point and at random instants; nothing is lost.

The long run is `python -m tests.kills`. That the checks can fail is shown with each of the three
protections switched off, in this process, where that is the same and takes a tenth of the time.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import pathlib
import random
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from rich.console import Console

from reldepth_jax import config, failpoints
from reldepth_jax.config import Config
from reldepth_jax.run_dir import checkpoints
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.manifest import Manifest
from reldepth_jax.training import run as training_run
from reldepth_jax.training.state import new_state
from tests.kills import harness


def test_every_named_point_is_killed():
    sources = (harness.ROOT / "reldepth_jax").rglob("*.py")
    calls = [re.findall(r"failpoints\.reach\((.*)\)", path.read_text()) for path in sources]
    points = {point for call in sum(calls, []) for point in re.findall(r'"([\w.]+)"', call)}
    assert points == set(harness.FIRST_SAVE)
    later = {fault.partition("@")[0] for fault in harness.LATER_SAVES}
    assert {point for point in points if point.startswith(("save", "commit"))} <= later


def test_killed_at_every_point_and_in_every_phase_nothing_is_lost(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    seed = random.randrange(10**6)
    with capsys.disabled():
        print(f"\nseed {seed}")
        tally, _ = harness.campaign(
            tmp_path,
            chains=[harness.FIRST_SAVE],
            random_kills=9,
            seed=seed,
            say=print,
            cache=pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]),
        )
        print(tally.table())
    assert len(tally.hits) >= 25
    assert tally.finished >= 2


class Cut(BaseException):
    """Instead of a kill, within this process."""


class Trained:
    """A run directory trained in this process, and what was printed."""

    def __init__(self, folder: pathlib.Path, settings: Config):
        screen = io.StringIO()
        self.folder = folder
        assert training_run.train(settings, folder, Console(file=screen, width=200)) == 0
        self.output = screen.getvalue()


@pytest.fixture(scope="module")
def settings() -> Config:
    """As the processes have it, so that what they compiled is used; fewer validations."""
    small = config.load(harness.CONFIG)
    return dataclasses.replace(
        small, train=dataclasses.replace(small.train, eval_every=harness.STEPS, keep=3)
    )


@pytest.fixture(scope="module")
def cut(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that stopped after step 10, with checkpoints of steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    left = iter(range(10))

    def reach(point: str) -> None:
        if point in ("compile", "step") and next(left, None) is None:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoints, "reach", reach)
        with pytest.raises(Cut):
            training_run.train(settings, folder, Console(quiet=True))
    assert Checkpoints(folder / "checkpoints").steps() == [3, 6, 9]
    return folder


@pytest.fixture(scope="module")
def whole(settings: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    run = Trained(tmp_path_factory.mktemp("whole") / "run", settings)
    harness.require_clean(run.folder)
    return harness.digests(run.folder, settings)


@pytest.fixture
def copied(cut: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(cut, tmp_path / "run")


def _recorded(state: Any) -> dict[str, Any]:
    """Return the fields that Orbax records of a state."""
    return {name: field for name, field in state._asdict().items() if field is not None}


FLIPPED: dict[str, list[tuple[int, int, int]]] = {}
"""What `flip` has found for a step of the run `cut`, which all tests have copies of."""


def flip(folder: pathlib.Path, settings: Config) -> None:
    """Flip one bit in an array file of a checkpoint, such a one that Orbax restores silently."""
    like = new_state(settings, abstract=True)[1]

    def params() -> np.ndarray:
        with ocp.StandardCheckpointer() as orbax:
            state = orbax.restore(folder.absolute(), _recorded(like))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state["params"])])

    before = params()
    files = sorted(folder.glob("ocdbt.process_0/d/*"), key=lambda path: -path.stat().st_size)
    # Which bits do depends on the numbers: most flips of compressed bytes are noticed.
    candidates = itertools.product((4, 5, 3, 6, 2), range(len(files)), range(40))
    for bit, number, place in itertools.chain(FLIPPED.get(folder.name, ()), candidates):
        path = files[number]
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[(place + 1) * len(content) // 44] ^= 1 << bit
        path.write_bytes(damaged)
        with contextlib.suppress(Exception):
            # Enough to make a difference, and not so much that training would notice.
            if 1e-3 < np.max(np.abs(params() - before)) < 1:
                FLIPPED[folder.name] = [(bit, number, place)]
                return
        path.write_bytes(content)
    raise AssertionError("Orbax noticed every flipped bit")


def uncommit(run: pathlib.Path, step: int, settings: Config) -> None:
    """Leave what a machine leaves that stops before the manifest: not all of it was written."""
    manifest = run / f"checkpoints/{step:08d}.json"
    manifest.rename(manifest.with_suffix(".json.tmp"))
    flip(run / f"checkpoints/{step:08d}", settings)
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text(
        "".join(line for line in lines if json.loads(line).get("step") != step)
    )


def test_unfinished_and_damaged_checkpoints_change_nothing(
    copied: pathlib.Path, settings: Config, whole: dict[str, str]
):
    uncommit(copied, 9, settings)
    flip(copied / "checkpoints/00000006", settings)
    run = Trained(copied, settings)
    harness.require_resumed(run.output, 3)
    assert "step 6: " in run.output
    harness.require_equal(whole, harness.digests(copied, settings))
    # Nothing is left but the damaged one, which was set aside for a person to look at.
    with pytest.raises(harness.Failure, match=r": bad-1-00000006, bad-1-00000006.json$"):
        harness.require_clean(copied)


def test_control_without_manifests_the_harness_fails(
    copied: pathlib.Path, settings: Config, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    uncommit(copied, 9, settings)
    assert harness.newest(copied) == 6

    def steps(self: Checkpoints) -> list[int]:
        folders = (copied / "checkpoints").glob("[0-9]*")
        return sorted(int(path.name) for path in folders if path.name.isdigit())

    def verified(self: Checkpoints, step: int, like: Any) -> tuple[Manifest, Any]:
        with ocp.StandardCheckpointer() as orbax:
            folder = (copied / f"checkpoints/{step:08d}").absolute()
            state = orbax.restore(folder, _recorded(like))
        return Manifest(step, {}, {}), like._replace(**state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "steps", steps)
        patch.setattr(Checkpoints, "_verified", verified)
        run = Trained(copied, settings)
    with pytest.raises(harness.Failure, match=r"step 6 was the newest committed, .* at \[9\]"):
        harness.require_resumed(run.output, 6)
    with pytest.raises(harness.Failure, match="not the state of an uninterrupted run"):
        harness.require_equal(whole, harness.digests(copied, settings))


def test_control_without_digests_the_harness_fails(
    copied: pathlib.Path, settings: Config, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    flip(copied / "checkpoints/00000009", settings)
    real = Checkpoints._verified

    def believing(self: Checkpoints, step: int, like: Any) -> tuple[Manifest, Any]:
        manifest = copied / f"checkpoints/{step:08d}.json"
        saved = checkpoints.read_manifest(manifest, step).arrays
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoints, "describe", lambda state: saved)
            return real(self, step, like)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_verified", believing)
        run = Trained(copied, settings)
    harness.require_resumed(run.output, 9)
    with pytest.raises(harness.Failure, match="not the state of an uninterrupted run: .*params"):
        harness.require_equal(whole, harness.digests(copied, settings))


def test_control_with_an_order_that_begins_anew_the_harness_fails(
    copied: pathlib.Path, settings: Config, whole: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    real = training_run.train_batches
    monkeypatch.setattr(
        training_run,
        "train_batches",
        lambda settings, sources, *, start, **rest: real(settings, sources, start=0, **rest),
    )
    run = Trained(copied, settings)
    harness.require_resumed(run.output, 9)
    with pytest.raises(harness.Failure, match="not the state of an uninterrupted run: .*params"):
        harness.require_equal(whole, harness.digests(copied, settings))


def test_control_kills_that_all_hit_the_start_show_nothing():
    tally = harness.Tally()
    for phase in harness.PHASES:
        tally.add(harness.Hit(phase, named=True, lost=0), "")
    for _ in range(100):
        tally.add(harness.Hit("start", named=False, lost=0), "")
    with pytest.raises(harness.Failure, match="no random kill hit restore, compile, step, save"):
        tally.require_all_phases()


@pytest.mark.parametrize("name", [".trash-00000003", "00000006.orbax-checkpoint-tmp-1", "00000009"])
def test_control_what_is_left_behind_is_found(name: str, tmp_path: pathlib.Path):
    (tmp_path / "checkpoints/00000012").mkdir(parents=True)
    (tmp_path / "checkpoints/00000012.json").touch()
    harness.require_clean(tmp_path)
    (tmp_path / "checkpoints" / name).mkdir()
    with pytest.raises(harness.Failure, match=name):
        harness.require_clean(tmp_path)


START = ["start", "data", "evaluation", "compile", "data", "step"]
SAVING = [*START, "step", "save", "save.arrays"]


@pytest.mark.parametrize(
    ("points", "phase"),
    [
        ([], "start"),
        (["start", "data"], "start"),
        (["start", "restore", "data"], "restore"),
        (START[:4], "compile"),
        (START, "step"),
        (SAVING, "save"),
        ([*SAVING, "step", "data"], "save"),
        ([*SAVING, "evaluation"], "evaluation"),
        ([*SAVING, "commit.written"], "commit"),
        ([*SAVING, "evaluation", "commit.written"], "commit"),
        ([*SAVING, "commit.written", "step", "commit.done"], "retain"),
        ([*SAVING, "commit.done", "retain.done"], "step"),
        ([*SAVING, "step", "final", "save"], "final"),
    ],
)
def test_the_phase_is_read_from_the_trace(points: list[str], phase: str):
    assert harness.phase_of(points) == phase
