"""Processes that prepare batches end with the one that they work for, and leave no memory."""

import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PROGRAM = """
    import multiprocessing, os, signal, sys, time
    from multiprocessing import shared_memory
    from reldepth_jax.data.workers import end_with_parent, spared

    AS_IT_IS_IMPORTED

    def work(path):
        FIRST
        memory = shared_memory.SharedMemory(create=True, size=4096)
        with open(path + ".tmp", "w") as file:
            file.write(f"{os.getpid()} {memory.name}")
        os.replace(path + ".tmp", path)
        THEN
        time.sleep(60)

    if __name__ == "__main__":
        worker = multiprocessing.get_context("spawn").Process(
            target=work, args=sys.argv[1:], daemon=True
        )
        with spared():
            worker.start()
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.02)
        END
"""
LISTENS = "end_with_parent(0, 1)"


def what_is_said(
    folder: pathlib.Path,
    *,
    imported: str = "",
    first: str = LISTENS,
    then: str = "",
    end: str = "time.sleep(60)",
    sent: int = 0,
) -> str:
    """Run a program with a worker and end it; return what it said when nothing is left of it."""
    program = PROGRAM.replace("AS_IT_IS_IMPORTED", imported).replace("FIRST", first)
    program = program.replace("THEN", then).replace("END", end)
    (folder / "program.py").write_text(textwrap.dedent(program))
    said = folder / "said"
    with open(said, "w") as file:
        parent = subprocess.Popen(
            [sys.executable, folder / "program.py", folder / "known"],
            stderr=file, cwd=folder, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 30
    while not (folder / "known").exists():
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.02)
    pid, memory = (folder / "known").read_text().split()
    if sent:
        parent.send_signal(sent)
    parent.wait()
    while pathlib.Path("/proc", pid).exists() or pathlib.Path("/dev/shm", memory).exists():
        assert time.monotonic() < deadline, "the worker or its memory has stayed"
        time.sleep(0.02)
    return said.read_text()


@pytest.mark.parametrize(
    "sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT]
)
def test_a_worker_ends_with_its_parent_whatever_is_sent(tmp_path: pathlib.Path, sent: int):
    # Nor does the tracker of resources tell of the memory that it frees.
    assert what_is_said(tmp_path, sent=sent) == ""


@pytest.mark.parametrize("end", ["os._exit(3)", "os.abort()", "sys.exit(3)"])
def test_a_worker_ends_with_its_parent_however_that_ends(tmp_path: pathlib.Path, end: str):
    assert what_is_said(tmp_path, end=end) == ""


def test_a_worker_whose_parent_is_gone_before_it_listens_ends(tmp_path: pathlib.Path):
    late = f"time.sleep(0.5); {LISTENS}"
    assert what_is_said(tmp_path, first="", then=late, sent=signal.SIGKILL) == ""


def test_a_worker_that_computes_without_a_pause_ends(tmp_path: pathlib.Path):
    busy = "while True: pass"
    assert what_is_said(tmp_path, then=busy, sent=signal.SIGKILL) == ""


def test_ctrl_c_is_not_heard_by_a_worker_not_even_while_it_imports(tmp_path: pathlib.Path):
    # The worker imports the program under another name.
    ctrl_c = "os.kill(os.getpid(), signal.SIGINT)"
    imported = f"if __name__ == '__mp_main__': {ctrl_c}"
    said = what_is_said(tmp_path, imported=imported, then=ctrl_c, sent=signal.SIGKILL)
    assert said == ""
