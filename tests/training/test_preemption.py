"""Stopping on request: the step that was reached is saved, wherever the signal arrives."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import pytest

from reldepth_jax import failpoints
from reldepth_jax.run_dir.history import History
from reldepth_jax.training import run as training_run
from reldepth_jax.training.preemption import Interrupt, catch_interrupts
from tests.fixtures import marked
from tests.fixtures.training import (
    CONFIG,
    Child,
    Points,
    config,
    digests,
    newest,
    step_of,
    train,
    whole,
)
from tests.kills import stops


@pytest.fixture(autouse=True)
def _never_ends_the_tests(monkeypatch: pytest.MonkeyPatch):
    """Fail where the process would have been ended without the loop's doing."""
    ended = []

    def exit_now(code: int) -> None:
        ended.append(code)
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", exit_now)
    yield
    assert not ended


@pytest.mark.parametrize(
    ("point", "number", "sent", "saved"),
    [
        # The point `step` is first reached in the second step; validated and saved at 0, 3, 4, 6.
        ("step", 4, signal.SIGTERM, 5),
        ("save.arrays", 2, signal.SIGUSR1, None),
        ("evaluation", 2, signal.SIGINT, 4),
        ("evaluation", 3, signal.SIGTERM, 8),
        ("step", 5, signal.SIGHUP, 6),
    ],
    ids=str,
)
def test_the_step_that_was_reached_is_saved_and_the_run_continues_there(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    number: int,
    sent: signal.Signals,
    saved: int | None,
):
    def send() -> None:
        os.kill(os.getpid(), sent)
        if point == "save.arrays":
            time.sleep(0.3)  # still being written when the loop notices

    points = Points(point, number, send)
    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reach", points)
        code, said = train(config(), tmp_path)
    assert code == 128 + sent
    reached = points.steps if saved is None else saved
    assert reached == points.steps
    assert newest(tmp_path) == reached
    assert f"{sent.name}: saved at step {reached} of 8; the same command continues" in said
    stopped = History(tmp_path).events()[-1]
    assert (stopped["event"], stopped["step"], stopped["reason"]) == ("stopped", reached, sent.name)
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))

    code, said = train(config(), tmp_path)
    assert code == 0
    assert f"continuing at step {reached}" in said
    assert digests(tmp_path) == whole()
    lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if line["group"] == "train"] == [*range(1, 9)]


@pytest.mark.parametrize("point", ["final", "save.synced"])
def test_a_signal_at_the_very_end_of_a_run_changes_nothing(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
):
    number = {"final": 1, "save.synced": 4}[point]  # saves at 3, 4, 6, 8
    points = Points(point, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(failpoints, "reach", points)
    code, said = train(config(), tmp_path)
    assert code == 0
    assert points.seen.count(point) == number
    assert "8 steps in" in said
    assert digests(tmp_path) == whole()
    assert History(tmp_path).events()[-1]["event"] == "finished"


def test_a_slow_save_after_the_signal_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    # Longer than the watcher leaves to a loop with nothing to lose.
    points = Points("step", 2, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def reach(point: str) -> None:
        points(point)
        if point == "save.arrays":
            time.sleep(2)

    monkeypatch.setattr(failpoints, "reach", reach)
    code, _ = train(config(train__checkpoint_every=100), tmp_path)
    assert code == 143
    assert newest(tmp_path) == 3


def test_a_slow_save_that_had_begun_is_waited_for(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    # Step 3 is being saved when the signal comes, and the loop does not answer for a while.
    def send() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(2)

    points = Points("step", 3, send)

    def reach(point: str) -> None:
        points(point)
        if point == "save.arrays" and points.seen.count(point) == 1:
            time.sleep(3)

    monkeypatch.setattr(failpoints, "reach", reach)
    code, _ = train(config(), tmp_path)
    assert code == 143
    assert newest(tmp_path) == 4


def test_waiting_for_data_is_cut_short(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MARKED_BLOCK", "0")
    marked.RELEASED.clear()
    points = Points("", 0, lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "reach", points)
        # Long after every step that can be made.
        sent: list[float] = []

        def send() -> None:
            seen = -1
            while points.steps == 0 or points.steps > seen:
                seen = points.steps
                time.sleep(1)
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=send)
        thread.start()
        code, said = train(config(train__checkpoint_every=100, train__eval_every=100), tmp_path)
        assert time.monotonic() - sent[0] < 10
        thread.join()
    marked.RELEASED.set()
    monkeypatch.delenv("MARKED_BLOCK")
    assert code == 143
    assert 1 <= points.steps < 8
    assert f"SIGTERM: saved at step {points.steps} of 8" in said
    assert train(config(), tmp_path)[0] == 0
    assert digests(tmp_path) == whole()


def test_a_second_ctrl_c_exits_at_once_and_the_last_checkpoint_stays(tmp_path: pathlib.Path):
    child = Child(tmp_path / "run", RELDEPTH_FAULT="save.arrays:sleep=60@2")
    child.wait_for("save.arrays", 2)
    child.send(signal.SIGINT)
    time.sleep(0.5)
    assert child.process.poll() is None
    child.send(signal.SIGINT)
    code, output, seconds = child.end()
    assert code == 130
    assert seconds < 1
    assert "Traceback" not in output
    # Step 3 is saved, 4 was being saved, and the loop may have gone on.
    match = re.search(r"second Ctrl-C: stopped at once, (\d) steps since the last", output)
    assert match, output
    done = child.points().count("step") + child.points().count("compile")
    assert int(match[1]) == done - 3 >= 1
    assert newest(tmp_path / "run") == 3
    code, said = train(config(), tmp_path / "run")
    assert code == 0
    assert digests(tmp_path / "run") == whole()


def test_a_save_slower_than_the_grace_period_is_given_up_and_harms_nothing(tmp_path: pathlib.Path):
    child = Child(
        tmp_path / "run", "--config.train.grace_seconds=2", "--config.train.eval_every=100",
        RELDEPTH_FAULT="save.arrays:sleep=60@2",
    )  # fmt: skip
    child.wait_for("save.arrays", 2)
    child.send(signal.SIGTERM)
    code, output, seconds = child.end()
    assert code == 143
    assert 1.5 < seconds < 4
    # Step 3 is saved, 6 was being saved, and the loop went on.
    match = re.search(r"SIGTERM: not saved within 2 seconds: stopped at once, (\d) steps", output)
    assert match, output
    done = child.points().count("step") + child.points().count("compile")
    assert int(match[1]) == done - 3 >= 3
    assert newest(tmp_path / "run") == 3
    assert step_of(tmp_path / "run") == 3


def test_signals_are_answered_after_jax_distributed_was_initialised(tmp_path: pathlib.Path):
    program = """
        import runpy, socket, jax
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        jax.distributed.initialize(f"127.0.0.1:{port}", 1, 0)
        runpy.run_path("scripts/train.py", run_name="__main__")
    """
    child = Child(tmp_path / "run", program=program, MARKED_SLOW="0.05")
    child.wait_for("step", 2)
    child.send(signal.SIGTERM)
    code, output, seconds = child.end()
    assert code == 143, output
    assert seconds < 10
    reached = newest(tmp_path / "run")
    assert 3 <= reached < 8
    assert f"SIGTERM: saved at step {reached} of 8" in output
    assert step_of(tmp_path / "run") == reached


def test_signals_at_random_moments_lose_no_step(tmp_path: pathlib.Path):
    draw = random.Random(0)
    environment = {"MARKED_SLOW": "0.02"}
    with futures.ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda phase: stops.stop_once(CONFIG, tmp_path / phase, phase, draw, environment),
                stops.PHASES,
            )
        )
    print(stops.table(found))
    assert stops.problems(found) == []
    assert len(found) == 6
    assert any(stop.saved > 0 for stop in found)
    assert max(stop.seconds for stop in found) < 10


def test_a_lost_step_is_a_problem():
    good = stops.Stop("step", 1.0, 143, reached=5, saved=5, output="")
    assert stops.problems([good, dataclasses.replace(good, code=0)]) == []
    for bad in ({"saved": 4}, {"code": 1}, {"code": 137}):
        assert len(stops.problems([good, dataclasses.replace(good, **bad)])) == 1


def test_a_late_signal_or_a_thread_that_hangs_does_not_change_the_exit_code():
    program = """
        import atexit, os, signal, threading, time
        from reldepth_jax.cli import command
        def late():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
                os.kill(os.getpid(), number)
        command._LEAVING = 1.0
        threading.Thread(target=time.sleep, args=(60,)).start()
        atexit.register(late)
        def main():
            threading.Timer(0.3, late).start()
            return 0
        command.run(main, leave=True)
    """
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - began < 10


def test_minutes_end_a_session_with_its_own_code_and_the_state_saved(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    began, interrupts = time.monotonic(), []
    monkeypatch.setattr(training_run, "_process_start", lambda: began)

    @contextlib.contextmanager
    def catch(**options: Any) -> Iterator[Interrupt]:
        with catch_interrupts(**options) as interrupt:
            interrupts.append(interrupt)
            yield interrupt

    def pass_time() -> None:
        assert interrupts[0].deadline == pytest.approx(began + 3600)
        interrupts[0].deadline = time.monotonic()

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "catch_interrupts", catch)
        patch.setattr(failpoints, "reach", Points("step", 3, pass_time))
        code, said = train(config(train__max_minutes=60), tmp_path)
    assert code == 75
    assert "train.max_minutes are over: saved at step 4 of 8; the same command continues" in said
    assert newest(tmp_path) == 4
    # The same run with another limit, or none.
    code, said = train(config(), tmp_path)
    assert code == 0
    assert "continuing at step 4" in said
    assert digests(tmp_path) == whole()


def test_a_signal_sets_the_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with catch_interrupts() as interrupt:
        assert not interrupt
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.received == signal.SIGINT
        assert interrupt.exit_code == 130
    assert signal.getsignal(signal.SIGINT) == before


def test_a_closed_terminal_is_not_answered_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_interrupts() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_the_process_at_once():
    # In a process of its own: nothing can be caught of os._exit.
    program = """
        import os, signal, time
        from reldepth_jax.training.preemption import catch_interrupts
        tell = lambda reason, lost: print(reason, lost)
        with catch_interrupts(grace=60, on_abandon=tell) as interrupt:
            interrupt.unsaved = 3
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            print("goes on", interrupt.received.name)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert result.stdout.splitlines() == ["goes on SIGINT", "second Ctrl-C 3"], result.stderr
    assert result.returncode == 130
