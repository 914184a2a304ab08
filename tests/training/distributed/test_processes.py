"""One run in two processes: the batches, losses and numbers of one, and they end together."""

import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.history import History
from reldepth_jax.training.distributed import processes
from tests.fixtures import marked, pair
from tests.fixtures.training import Child, config, newest, train

BEGUN = 5
"""Steps of the run `continued` that one process makes."""
LAUNCH = [sys.executable, "scripts/launch.py", "--processes"]
ON_CPU = {"JAX_PLATFORMS": "cpu"}


def logged(workdir: pathlib.Path, group: str) -> dict[int, dict[str, float]]:
    """Return the numbers of each step, which must be there once."""
    path = workdir / "metrics.jsonl"
    # There is no file before the first line.
    lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    found = [line for line in lines if line["group"] == group and line.pop("time")]
    assert len({line["step"] for line in found}) == len(found)
    return {line["step"]: line for line in found}


def losses(workdir: pathlib.Path) -> list[float]:
    """Return the losses of all steps."""
    found = logged(workdir, "train")
    assert [*found] == [*range(1, pair.STEPS + 1)]
    return [numbers["loss"] for numbers in found.values()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The runs of two processes, and in `one` the same as `whole` in this process alone."""
    folder = tmp_path_factory.mktemp("processes")
    settings = config(**pair.OPTIONS)
    assert train(settings, folder / "one")[0] == 0
    begun = config(**pair.OPTIONS | {"train__steps": BEGUN})
    assert train(begun, folder / "continued")[0] == 0
    result = subprocess.run(
        [*LAUNCH, "2", "--", "tests/fixtures/pair.py", str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | ON_CPU,
    )  # fmt: skip
    # The last run: one process killed itself.
    assert result.returncode == 128 + signal.SIGKILL, result.stderr
    return folder


def ended(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Return what came of a run in each process."""
    return [
        line
        for process in range(2)
        for line in map(json.loads, (folder / f"ended-{process}.jsonl").read_text().splitlines())
        if line["run"] == name
    ]


def codes(folder: pathlib.Path, name: str) -> list[int]:
    return [line["code"] for line in ended(folder, name)]


def test_each_process_reads_its_share_of_the_same_batches(folder: pathlib.Path):
    source = marked.Marked(split="train", size=(32, 64))
    batches = itertools.islice(train_batches(config(), [source], start=0), pair.STEPS)
    wanted = [[marked.what_is_seen(image) for image in batch["image"]] for batch in batches]
    for process in range(2):
        lines = (folder / f"seen-{process}.jsonl").read_text().splitlines()
        seen = [
            [(sample, tuple(crop), bool(flip)) for sample, crop, flip in json.loads(line)]
            for line in lines
        ]
        assert seen == wanted


def test_the_losses_are_those_of_one_process(folder: pathlib.Path):
    assert codes(folder, "whole") == [0, 0]
    one, two = losses(folder / "one"), losses(folder / "whole")
    assert two == pytest.approx(one, rel=1e-5)
    # They change by far more than that, or it would say nothing.
    assert max(one) > 1.02 * min(one)


def test_validation_is_exactly_that_of_one_process(folder: pathlib.Path):
    one, two = logged(folder / "one", "val"), logged(folder / "whole", "val")
    assert [*one] == [*two] == [0, 4, 8, 12]
    assert one[0] == two[0]
    # The last state of the two, judged by this process alone.
    before = (folder / "whole" / "metrics.jsonl").read_text()
    code, said = train(config(**pair.OPTIONS), folder / "whole")
    assert (code, "continuing at step 12" in said) == (0, True)
    after = (folder / "whole" / "metrics.jsonl").read_text()
    (added,) = map(json.loads, after.removeprefix(before).splitlines())
    assert added.pop("time") > 1.7e9
    assert added == two[12]
    (folder / "whole" / "metrics.jsonl").write_text(before)


def test_a_signal_to_the_second_stops_both_and_one_process_continues(folder: pathlib.Path):
    assert codes(folder, "continued") == [143, 143]
    stopped = History(folder / "continued").events()[-1]
    # The third time that `step` is reached, it is the fourth step: of that it made a whole one.
    reached = BEGUN + 4
    assert (stopped["event"], stopped["step"], stopped["reason"]) == ("stopped", reached, "SIGTERM")
    assert newest(folder / "continued") == reached
    code, said = train(config(**pair.OPTIONS), folder / "continued")
    assert code == 0
    assert f"continuing at step {reached}" in said
    assert "devices 2 cpu in 2 processes -> 1 cpu" in said
    assert losses(folder / "continued") == pytest.approx(losses(folder / "one"), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "code", "saved"),
    [
        ("first_stopped", 138, 4),
        # Nobody knows of the signal before the last step has been begun.
        ("last_step", 143, pair.STEPS - 1),
        # The first process validates step 4, where the second is told.
        ("validating", 143, 4),
        ("before_the_first", 143, None),
        ("minutes", 75, 0),
    ],
)
def test_both_stop_at_the_same_step(folder: pathlib.Path, name: str, code: int, saved: int | None):
    assert codes(folder, name) == [code, code]
    if saved is not None:
        assert newest(folder / name) == saved
        event = History(folder / name).events()[-1]
        assert (event["event"], event["step"]) == ("stopped", saved)
        assert [*logged(folder / name, "train")] == [*range(1, saved + 1)]


@pytest.mark.parametrize(
    ("name", "broken", "saved"),
    # Saved at 3 and 6, and where the first process learns of an error of another.
    [("broken", 1, 5), ("first_broken", 0, 3), ("not_saved", 0, 3), ("not_begun", 1, None)],
)
def test_an_error_of_one_process_ends_both(
    folder: pathlib.Path, name: str, broken: int, saved: int | None
):
    assert codes(folder, name) == [2, 2]
    first, second = (line.get("error") for line in ended(folder, name))
    other = "another process has ended with code 2; its output says why"
    # Where it was not the first one's error, that one says so.
    assert (first, second) == (("planted", None) if broken == 0 else (other, "planted"))
    if saved is not None:
        assert newest(folder / name) == saved


def test_bad_samples_of_all_processes_are_counted(folder: pathlib.Path):
    assert codes(folder, "bad") == [0, 0]
    source = marked.Marked(split="train", size=(32, 64))
    batches = itertools.islice(train_batches(config(), [source], start=0), pair.STEPS)
    # The second process has the second half of the batch.
    wanted = [
        sum(marked.what_is_seen(image)[0] in pair.BAD for image in batch["image"][2:])
        for batch in batches
    ]
    assert sum(wanted) > 0
    found = logged(folder / "bad", "train").values()
    assert [numbers["bad_samples"] for numbers in found] == wanted


def test_what_cannot_be_trained_together_is_one_line(folder: pathlib.Path):
    for line in ended(folder, "odd"):
        assert line["error"] == (
            "data.batch_size must be a multiple of the 2 devices, got 3; nearest: 2"
        )
    for line in ended(folder, "unlike"):
        assert line["error"] == "the processes of this run do not have the same configuration"
    assert not (folder / "odd").exists()
    assert not (folder / "unlike").exists()


def test_the_death_of_one_process_ends_the_other(folder: pathlib.Path):
    (first,) = ended(folder, "killed")
    assert first["code"] == 7
    assert "has another one ended?" in first["error"]
    assert "\n" not in first["error"]
    assert first["seconds"] < 30
    assert newest(folder / "killed") == 4


def test_sigterm_to_the_second_process_of_the_script_stops_both(tmp_path: pathlib.Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    first, second = (
        Child(
            tmp_path / "run", "--config.train.steps=500", "--config.train.eval_every=500",
            JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(process),
            MARKED_SLOW="0.02", RELDEPTH_TRACE=str(tmp_path / name), **ON_CPU,
        )
        for process, name in enumerate(("run.trace", "second.trace"))
    )  # fmt: skip
    try:
        first.wait_for("step", 2)
        second.send(signal.SIGTERM)
    finally:
        (code, said, seconds), (other, silent, _) = first.end(), second.end()
    assert (code, other) == (143, 143), said + silent
    assert seconds < 15
    reached = newest(tmp_path / "run")
    assert 1 <= reached < 500
    assert f"SIGTERM: saved at step {reached} of 500; the same command continues" in said
    assert "step" not in silent.replace("steps", "")


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID must be set too"),
        ({"JAX_PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES must be set too"),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "must be below JAX_NUM_PROCESSES and at least 0, got '2' of '2'",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "got '0' of 'two'",
        ),
    ],
)
def test_wrong_variables_are_one_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], line: str
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        processes.join()
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
    ids=["plain", "batch script", "one task", "one process"],
)
def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *_, **__: called.append(1))
    processes.join()
    assert not called


def test_several_tasks_of_slurm_are_left_to_jax(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    called = []
    monkeypatch.setattr(
        processes.jax.distributed, "initialize", lambda *args, **named: called.append((args, named))
    )
    processes.join()
    assert called == [((), {})]


CHILD = """
import os, pathlib, signal, sys, time
here, index = pathlib.Path(sys.argv[1]), os.environ["JAX_PROCESS_ID"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
(here / index).write_text(os.environ["JAX_NUM_PROCESSES"] + os.environ["JAX_COORDINATOR_ADDRESS"])
while sys.argv[2] == "wait":
    time.sleep(0.01)
sys.exit(5 if index == "1" else 0)
"""


@pytest.fixture
def child(tmp_path: pathlib.Path) -> list[str]:
    (tmp_path / "child.py").write_text(CHILD)
    return [*LAUNCH, "3", "--", str(tmp_path / "child.py"), str(tmp_path)]


def test_the_launcher_starts_all_and_tells_the_code_of_the_one_that_failed(
    child: list[str], tmp_path: pathlib.Path
):
    result = subprocess.run([*child, "go"], timeout=30, check=False)
    assert result.returncode == 5
    found = {(tmp_path / str(index)).read_text() for index in range(3)}
    (same,) = found
    assert same.startswith("3127.0.0.1:")


def test_the_launcher_passes_signals_on_to_all(child: list[str], tmp_path: pathlib.Path):
    process = subprocess.Popen([*child, "wait"])
    deadline = time.monotonic() + 30
    while not all((tmp_path / str(index)).exists() for index in range(3)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
