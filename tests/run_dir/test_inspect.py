"""What `inspect_run` says of runs whose history is written by hand and whose states are small."""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import Any

import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from reldepth_jax.cli.inspect import main
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import inspect
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.lock import own
from reldepth_jax.training import state as train_state

CONFIG = {
    "loss": {"name": "ranking"},
    "data": {"source": {"name": "redweb", "root": "x"}, "crop": [32, 64], "batch_size": 2},
    "train": {"steps": 100, "log_every": 10},
}
HOUR = 1_800_000_000.0


def write_lines(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def event(name: str, second: float, **facts: Any) -> dict[str, Any]:
    return {"time": HOUR + second, "event": name, **facts}


def logged(*steps: int, skipped: int = 0) -> list[dict[str, Any]]:
    return [{"step": step, "group": "train", "skipped": float(skipped)} for step in steps]


def save(workdir: pathlib.Path, *scores: tuple[int, float | None]) -> Checkpoints:
    """Save a state of the kinds of nodes that a training state has."""
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    first = train_state.create(params, nnx.State({}), optax.adamw(0.1))
    store = Checkpoints(workdir / "checkpoints", keep=9)
    for step, whdr in scores:
        facts = {"skipped": 3} | ({} if whdr is None else {"whdr": whdr})
        store.save(step, first._replace(step=jnp.int32(step)), facts)
    store.close()
    return store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("original") / "run"
    save(workdir, (40, 0.25), (60, 0.125), (70, None))
    (workdir / "config.json").write_text(json.dumps(CONFIG))
    events = [event("start", 0, step=0, pid=1)]
    events += [event("saved", step, step=step) for step in (40, 60, 70)]
    write_lines(workdir / "history.jsonl", events)
    write_lines(workdir / "metrics.jsonl", logged(10, 20, 30, 40, 50, 60, 70, skipped=2))
    return workdir


@pytest.fixture
def run(original: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A run that was killed at some step from 70 to 79, with checkpoints at 40, 60 and 70."""
    return shutil.copytree(original, tmp_path / "run")


def text(workdir: pathlib.Path, **options: bool) -> str:
    return "\n".join(inspect.inspect(workdir, **options).lines())


def contents(folder: pathlib.Path) -> dict[str, tuple[float, str]]:
    return {
        str(path): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_checkpoints_with_scores_marks_and_what_comes_next(run: pathlib.Path):
    report = inspect.inspect(run, verify=True)
    assert [each.step for each in report.checkpoints] == [40, 60, 70]
    assert [each.whdr for each in report.checkpoints] == [0.25, 0.125, None]
    assert [each.time for each in report.checkpoints] == [HOUR + 40, HOUR + 60, HOUR + 70]
    assert all(each.verified and each.damage is None for each in report.checkpoints)
    assert all(each.size > 500 for each in report.checkpoints)
    assert (report.best, report.skipped, report.bad_samples) == (60, 2, [])
    assert report.next == "would continue at step 70"
    assert report.ok
    lines = text(run).splitlines()
    assert lines[0].endswith(
        "loss ranking, data.source redweb, data.crop 32x64, data.batch_size 2, train.steps 100"
    )
    assert "WHDR  12.5%  best" in lines[3]
    assert lines[4].endswith("newest")


def test_without_verify_nothing_is_called_verified(run: pathlib.Path):
    assert not any(each.verified for each in inspect.inspect(run).checkpoints)


def test_only_reads_and_says_that_it_is_being_trained(run: pathlib.Path):
    with own(run):
        before = contents(run)
        report = inspect.inspect(run, verify=True)
        assert contents(run) == before
    assert report.sessions[-1].end == "running"
    assert report.sessions[-1].lost is None
    assert report.holder == f"process {os.getpid()}"
    assert report.next == (
        f"would be refused while process {os.getpid()} trains; after a kill it would continue at"
        " step 70"
    )
    # The lock file stays; who wrote it is gone.
    assert inspect.inspect(run).sessions[-1].end == "killed"


def test_a_lock_from_another_machine_may_be_held_there(run: pathlib.Path):
    (run / "run.lock").write_text("process 7 on elsewhere, started 2026-11-25 10:00:00\n")
    assert "killed (or still running on elsewhere)" in text(run)


def flip_a_bit(checkpoint: pathlib.Path) -> None:
    largest = max(
        (path for path in checkpoint.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_verify_finds_values_that_are_not_what_was_saved(run: pathlib.Path):
    # Another state under the manifest of step 70: readable, but not what was saved.
    other = run.parent / "other"
    save(other, (80, None))
    shutil.rmtree(run / "checkpoints/00000070")
    os.rename(other / "checkpoints/00000080", run / "checkpoints/00000070")
    assert inspect.inspect(run).ok
    report = inspect.inspect(run, verify=True)
    damage = report.checkpoints[-1].damage
    assert damage == "1 of 10 arrays are not what was saved, first .step"
    assert not report.ok
    assert report.next == "would set step 70 aside and continue at step 60"


def test_verify_finds_flipped_bits_or_they_do_no_harm(run: pathlib.Path):
    for step in (40, 60, 70):
        flip_a_bit(run / f"checkpoints/{step:08d}")
    report = inspect.inspect(run, verify=True)
    assert all(each.damage for each in report.checkpoints)
    assert not report.ok
    assert report.next == "would be refused: no checkpoint is left that can be restored"


def test_missing_and_damaged_parts_are_named(run: pathlib.Path):
    folder = run / "checkpoints"
    manifest = folder / "00000070.json"
    manifest.write_text(manifest.read_text().replace("70", "71", 1))
    (folder / "00000060.json").unlink()
    os.rename(folder / "00000040", folder / "bad-1-00000040")
    for name in ("00000080", "00000090.orbax-checkpoint-tmp-1", ".trash-00000030", "holiday"):
        (folder / name).mkdir()
    (folder / "00000080.json.tmp").touch()
    (folder / "20261128").mkdir()
    report = inspect.inspect(run)
    assert [(each.step, each.damage) for each in report.checkpoints] == [
        (40, "its arrays are missing"), (70, "its manifest 00000070.json is damaged"),
    ]  # fmt: skip
    unfinished = "unfinished, the next start removes it"
    assert report.others == {
        ".trash-00000030": unfinished,
        "00000060": "has lost its manifest, the next start sets it aside",
        "00000080": unfinished,
        "00000080.json.tmp": unfinished,
        "20261128": "not ours, ignored",
        "00000090.orbax-checkpoint-tmp-1": unfinished,
        "bad-1-00000040": "damaged and set aside; you may delete it",
        "holiday": "not ours, ignored",
    }
    assert not report.ok
    assert report.next.startswith("would be refused: no checkpoint is left")


def test_what_the_next_start_does_without_a_manifest(run: pathlib.Path):
    folder = run / "checkpoints"
    (folder / "00000070.json").unlink()
    report = inspect.inspect(run, verify=True)
    assert report.others == {"00000070": "has lost its manifest, the next start sets it aside"}
    assert report.next == "would set 00000070 aside and continue at step 60"
    assert not report.ok
    for path in (run / "history.jsonl", *folder.glob("*.json")):
        path.unlink()
    report = inspect.inspect(run, verify=True)
    assert report.next == "would be refused: no checkpoint is left that can be restored"
    # As when the next start has done so.
    for step in (40, 60, 70):
        (folder / f"{step:08d}").rename(folder / f"bad-1-{step:08d}")
    assert inspect.inspect(run, verify=True).next == report.next


@pytest.mark.parametrize("both", [False, True])
def test_what_the_next_start_does_with_the_record_of_another_step(run: pathlib.Path, both: bool):
    folder = run / "checkpoints"
    shutil.copy(folder / "00000060.json", folder / "00000070.json")
    if both:
        shutil.rmtree(folder / "00000070")
        shutil.copytree(folder / "00000060", folder / "00000070")
    for verify in (False, True):
        report = inspect.inspect(run, verify=verify)
        assert report.checkpoints[-1].damage == "its manifest is that of step 60"
        assert report.next == "would set step 70 aside and continue at step 60"


def test_what_the_next_start_does_without_the_configuration(run: pathlib.Path):
    (run / "config.json").unlink()
    report = inspect.inspect(run, verify=True)
    assert report.next == (
        "would continue at step 70 (config.json is missing, and no checkpoint holds it: it is not"
        " known what the run began with)"
    )
    assert not report.ok
    path = run / "checkpoints/00000060.json"
    values = json.loads(path.read_text().rsplit("\n", 2)[0])
    values["facts"]["config"] = CONFIG
    content = json.dumps(values)
    path.write_text(f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n")
    report = inspect.inspect(run, verify=True)
    assert report.config["loss.name"] == "ranking"
    assert report.next == (
        "would continue at step 70 (config.json is missing; the checkpoint of step 60 holds it too)"
    )
    other = CONFIG | {"train": {"steps": 100, "seed": 9}}
    (run / "config.json").write_text(json.dumps(other))
    assert re.search(
        r"would be refused: .*config.json is not the configuration of the checkpoint of step 60:"
        r" train.seed: 0 -> 9",
        inspect.inspect(run).next,
    )


def test_half_copied_directory_is_no_reason_to_fail(run: pathlib.Path):
    for name in ("history.jsonl", "metrics.jsonl", "config.json"):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) - 5])
    (run / "bad_samples.jsonl").write_bytes(b"\xff\xfe{")
    report = inspect.inspect(run)
    assert report.sessions[0].logged == 60
    assert re.search("would be refused: .*config.json cannot be read: is not JSON", report.next)
    assert not report.ok


def test_nothing_is_printed_with_control_characters(
    run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    evil = "\x1b[2J\x9b\x07\r\n"
    config = CONFIG | {"loss": {"name": evil}, "optim": {"name": [evil] * 100}}
    (run / "config.json").write_text(json.dumps(config))
    events = [
        event("start", 0, step=0), event("damaged", 1, what=evil), event("failed", 2, error=evil),
    ]  # fmt: skip
    write_lines(run / "history.jsonl", events)
    write_lines(run / "bad_samples.jsonl", [{"source": 0, "index": 1, "error": evil}])
    (run / "checkpoints" / evil).mkdir()
    for options in ([], ["--json"]):
        main([str(run), *options])
        said = capsys.readouterr().out
        assert said.replace("\n", "").isprintable()
        assert "[2J" in said


@pytest.mark.parametrize(
    "values",
    [
        [], "text", {"train": []}, {"train": {"steps": "x", "log_every": "x"}},
        {"train": {"log_every": 0}}, {"data": {"crop": [[[]]]}},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_of_another_form_is_no_reason_to_fail(run: pathlib.Path, values: Any):
    (run / "config.json").write_text(json.dumps(values))
    assert [each.step for each in inspect.inspect(run).checkpoints] == [40, 60, 70]


def test_a_run_that_has_saved_nothing_would_begin_at_step_0(run: pathlib.Path):
    for path in (run / "checkpoints").glob("*.json"):
        path.rename(path.with_suffix(".json.tmp"))
    write_lines(run / "history.jsonl", [event("start", 0, step=0)])
    report = inspect.inspect(run)
    assert report.next == "would begin at step 0"
    assert report.ok


def test_a_run_whose_checkpoints_are_all_gone_would_not_begin_anew(run: pathlib.Path):
    shutil.rmtree(run / "checkpoints")
    report = inspect.inspect(run)
    assert report.next == "would be refused: no checkpoint is left that can be restored"
    assert not report.ok


# Per case: events, logged steps, and for each session its end, the last step logged, and the steps
# lost at least and at most, when 10 steps apart are logged and the newest checkpoint is of step 70.
START, SAVED = "start", "saved"
HISTORIES = {
    "killed, computed again": (
        [event(START, 0, step=0), event(SAVED, 1, step=50), event(START, 2, step=50)],
        [10, 20, 30, 40, 50, 60, 70, 60, 70],
        [("killed", 70, (20, 29)), ("killed", 70, (0, 9))],
    ),
    "killed before the first line": (
        [event(START, 0, step=0), event(START, 1, step=0), event(START, 2, step=70)],
        [10, 20, 30, 40, 50, 60, 70],
        [("killed", 0, (0, 9)), ("killed", 70, (0, 9)), ("killed", 70, (0, 9))],
    ),
    "checkpoint later than the last line": (
        [event(START, 0, step=0), event(SAVED, 1, step=65), event(START, 2, step=65)],
        [10, 20, 30, 40, 50, 60, 70],
        [("killed", 60, (0, 4)), ("killed", 70, (0, 9))],
    ),
    "stopped in order, then finished": (
        [
            event(START, 0, step=0), event("stopped", 1, step=45, reason="SIGTERM"),
            event(START, 2, step=45), event("finished", 3, step=70),
        ],
        [10, 20, 30, 40, 50, 60, 70],
        [("stopped", 40, None), ("finished", 70, None)],
    ),
    "stopped in order, then killed": (
        [
            event(START, 0, step=0), event("stopped", 1, step=45, reason="SIGTERM"),
            event(START, 2, step=45), event(START, 3, step=45),
        ],
        [10, 20, 30, 40, 50, 60, 50, 60, 70],
        [("stopped", 40, None), ("killed", 60, (15, 24)), ("killed", 70, (0, 9))],
    ),
    "stopped without having saved": (
        [
            event(START, 0, step=0), event("stopped", 1, reason="second Ctrl-C", lost=7),
            event(START, 2, step=40),
        ],
        [10, 20, 30, 40, 50, 60, 70],
        [("stopped", 40, (7, 7)), ("killed", 70, (0, 9))],
    ),
    "failed": (
        [event(START, 0, step=0), event("failed", 1, error="disk full"), event(START, 2, step=20)],
        [10, 20, 30, 30, 40],
        [("failed", 30, (10, 19)), ("killed", 40, (0, 0))],
    ),
    "killed again and again at one place": (
        [event(START, second, step=20) for second in range(3)],
        [30, 40, 30, 40, 30, 40, 50, 60, 70, 80],
        [("killed", 40, (20, 29)), ("killed", 40, (20, 29)), ("killed", 80, (10, 19))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HISTORIES)
def test_what_each_session_cost(run: pathlib.Path, name: str):
    events, steps, expected = HISTORIES[name]
    write_lines(run / "history.jsonl", events)
    write_lines(run / "metrics.jsonl", logged(*steps))
    sessions = inspect.inspect(run).sessions
    assert [(each.end, each.logged, each.lost) for each in sessions] == expected


def test_history_bad_samples_and_repairs_in_words(run: pathlib.Path):
    events = [
        event(START, 0, step=0), event(SAVED, 1, step=50),
        event("damaged", 2, what="step 60: its arrays cannot be read (set aside as bad-1)"),
        event(START, 3, step=50), event("failed", 4, error="no space"),
        event("worker_died", 5, what="step 81: a data worker died"),
    ]  # fmt: skip
    write_lines(run / "history.jsonl", events)
    write_lines(run / "metrics.jsonl", logged(10, 20, 30, 40, 50, 60, 60, 70, 80))
    bad = [{"source": 0, "index": index, "error": f"no. {index}"} for index in (5, 5, 6)]
    write_lines(run / "bad_samples.jsonl", bad)
    lines = text(run)
    assert "started at step 0, 1 save, the last at step 50; killed after step 60: 10 to 19" in lines
    assert "started at step 50; failed (no space) after step 80: 10 to 19 steps lost" in lines
    assert "2 sessions ended without saving: 20 to 38 steps lost in all" in lines
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(HOUR + 2)) + "  step 60: its" in lines
    assert "  step 81: a data worker died" in lines
    assert "unreadable samples: 2, first: no. 5" in lines


def test_another_directory_is_refused_in_one_line(tmp_path: pathlib.Path):
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(UserError, match="no run directory: neither config.json") as caught:
        inspect.inspect(tmp_path)
    assert caught.value.exit_code == 2
    with pytest.raises(UserError, match="no such directory"):
        inspect.inspect(tmp_path / "nowhere")


def test_the_script_prints_json_and_exits_with_3_for_damage(run: pathlib.Path):
    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "scripts/inspect_run.py", *arguments],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    flip_a_bit(run / "checkpoints/00000070")
    result = script(str(run), "--verify", "--json")
    assert result.returncode == 3, result.stderr
    report = json.loads(result.stdout)
    assert [each["verified"] for each in report["checkpoints"]] == [True, True, False]
    assert report["next"] == "would set step 70 aside and continue at step 60"
    result = script("configs")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1


def test_help_needs_no_jax():
    program = (
        "import runpy, sys; sys.argv = ['scripts/inspect_run.py', '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
