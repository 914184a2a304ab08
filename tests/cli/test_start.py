"""Ctrl-C while a command starts, and descriptors that are closed. In processes of their own."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

import pytest


def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    # Heard, even if these tests run in the background of a shell.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    return subprocess.run(
        [sys.executable, "-c", f"{listen}\n{textwrap.dedent(program)}", *words],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


IMPORTING = """
    import importlib.util, os, signal, sys
    from reldepth_jax.cli import main, start
    class Loader:
        def create_module(self, spec): pass
        def exec_module(self, module):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except BaseException:
                pass  # as libraries do
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "slow":
                return importlib.util.spec_from_loader(name, Loader())
    sys.meta_path.insert(0, Finder)
    def work(name, words):
        import slow
        print("went on")
        return 0
    main._run = work
    start.main(["predict"])
"""
SWALLOWED = """
    import os, signal, time
    from reldepth_jax.cli import ctrl_c, main, start
    ctrl_c._SWALLOWED = 0.2
    def work(name, words):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            time.sleep(20)
        return 0
    main._run = work
    start.main(["predict"])
"""
DELETED = """
    import os, signal
    from reldepth_jax.cli import main, start
    class Deleted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
    def work(name, words):
        Deleted()
        print("went on")
        return 0
    main._run = work
    start.main(["predict"])
"""
TURNED = """
    import os, signal
    from reldepth_jax.cli import main, start
    def work(name, words):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot import name 'x'") from None
    main._run = work
    start.main(["predict"])
"""


@pytest.mark.parametrize(
    "program",
    [IMPORTING, SWALLOWED, DELETED, TURNED],
    ids=["import", "lost", "deleted", "error"],
)
def test_ctrl_c_ends_the_command_wherever_it_is_caught(program: str):
    ended = run(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_stays_ignored_where_it_was():
    program = """
        import signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        from reldepth_jax.cli import main, start
        main._run = lambda name, words: print(signal.getsignal(signal.SIGINT).name) or 0
        start.main(["predict"])
    """
    ended = run(program)
    assert (ended.returncode, ended.stdout) == (0, f"{signal.SIG_IGN.name}\n"), ended.stderr


def test_files_do_not_take_the_place_of_closed_streams():
    program = """
        import os, sys
        from reldepth_jax.cli import main, start
        def work(name, words):
            print("printed")
            with open(words[1], "w") as file:
                assert file.fileno() > 2
            return 0
        os.close(1)
        os.close(2)
        sys.stdout = sys.stderr = None
        main._run = work
        start.main(["predict", os.devnull])
    """
    assert run(program).returncode == 0


def test_a_platform_without_locks_and_some_signals_says_what_is_missing():
    # As on Windows, as far as Python shows it.
    program = """
        import os, signal, sys
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = None
        for name in ("sched_getaffinity", "wait"):
            delattr(os, name)
        from reldepth_jax import processor
        from reldepth_jax.cli import check_data, command, compare, evaluate, inspect, predict
        from reldepth_jax.cli import convert, models, prepare, train, train_until_done
        from reldepth_jax.data.prepared import writing
        from reldepth_jax.inference import files, networks
        import pathlib
        from reldepth_jax.run_dir import lock
        folder = pathlib.Path(sys.argv[1])
        assert processor.cores() == os.cpu_count()
        for main, words in (
            (lambda words: writing._lock(folder).__enter__(), []),
            (train.main, ["--config", "smoke", "--workdir", sys.argv[1] + "/run"]),
            (train_until_done.main, ["--config", "smoke"]),
        ):
            try:
                main(words)
            except ValueError as error:
                print(error)
        os.name = "nt"
        print(lock.holder(folder))
    """
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "run.lock").write_text(
            f"process {os.getpid()} on {socket.gethostname()}, started 2026-11-29 00:00:00\n"
        )
        ended = run(program, folder)
        assert os.listdir(folder) == ["run.lock"]
    assert ended.returncode == 0, ended.stderr
    prepared, trained, again, holder = ended.stdout.splitlines()
    assert (
        prepared == f"{folder} cannot be locked: this platform has no fcntl. Prepare on Linux,"
        " macOS or WSL; what is prepared is read here too"
    )
    assert "no fcntl. Train on Linux, macOS or WSL" in trained
    assert again == "train-until-done does not run on linux; use Linux, macOS or WSL"
    assert holder == "('', '')"
