"""Processes that prepare batches end with the one that they work for, and leave no memory."""

import os
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
    from reldepth_jax.data.workers import end_with_parent

    def work(path):
        end_with_parent(0, 1)
        memory = shared_memory.SharedMemory(create=True, size=4096)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        with open(path + ".tmp", "w") as file:
            file.write(f"{os.getpid()} {memory.name}")
        os.replace(path + ".tmp", path)
        time.sleep(60)

    if __name__ == "__main__":
        worker = multiprocessing.get_context("spawn").Process(target=work, args=sys.argv[1:])
        worker.start()
        time.sleep(60)
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_with_its_parent_however_that_ends(tmp_path: pathlib.Path, sent: int):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    parent = subprocess.Popen([sys.executable, tmp_path / "program.py", tmp_path / "said"])
    deadline = time.monotonic() + 30
    while not (tmp_path / "said").exists():
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    pid, memory = (tmp_path / "said").read_text().split()
    assert pathlib.Path("/dev/shm", memory).exists()
    parent.send_signal(sent)
    parent.wait()
    while pathlib.Path("/proc", pid).exists() or pathlib.Path("/dev/shm", memory).exists():
        assert time.monotonic() < deadline, "the worker or its memory has stayed"
        time.sleep(0.02)
    assert os.getpid() != int(pid)
