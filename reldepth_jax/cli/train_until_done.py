"""Train, and start again until training is finished.

For containers and machines on which nothing else restarts what was killed. Takes the options of
`train`:

reldepth train-until-done --config ranking
python scripts/train_until_done.py --config configs/ranking.py --workdir runs/ranking

Starts again after 75 (train.max_minutes are over), SIGTERM, SIGUSR1 and SIGHUP to the training
itself (143, 138, 129), and crashes (a traceback, or any other signal, such as SIGKILL when memory
is short). Ends with the exit code of the training when it is finished (0), was stopped with Ctrl-C
(130), or cannot go on without you (2 to 6, see docs/preemption.md); and when $ATTEMPTS (default 3)
starts in a row have not brought a newer checkpoint.

SIGTERM, SIGINT, SIGUSR1 and, without `nohup`, SIGHUP are passed on; then this ends when the
training has ended.

$PYTHON: the interpreter (default: this one). $PAUSE: seconds before a start after a crash (5).
"""

import argparse
import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading

from reldepth_jax.cli import train
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import layout
from reldepth_jax.training.preemption import heard

_FINAL = (0, 2, 3, 4, 5, 6, 126, 127, 130)
"""Exit codes after which starting again would not help; 126 and 127: it could not be started."""
_ORDERLY = (75, 129, 138, 143)


def parser() -> argparse.ArgumentParser:
    """Return the options: those of `train`."""
    options = train.parser()
    options.prog, options.description = "reldepth train-until-done", __doc__
    return options


def main(argv: list[str] | None = None) -> int:
    """Train until it is done; return the exit code of the last training."""
    if not hasattr(os, "wait"):
        raise UserError(f"train-until-done does not run on {sys.platform}; use Linux, macOS or WSL")
    arguments = sys.argv[1:] if argv is None else argv
    options, _ = parser().parse_known_args(arguments)
    run_dir = pathlib.Path(options.workdir or layout.default_run_dir(options.config))
    python = os.environ.get("PYTHON") or sys.executable
    attempts, pause = int(_given("ATTEMPTS", 3)), _given("PAUSE", 5)

    def newest() -> int:
        return max(layout.saved_steps(run_dir / layout.CHECKPOINTS), default=-1)

    training = _Training([python, "-m", "reldepth_jax", "train", *arguments])
    failed = 0
    while True:
        before = newest()
        code = training.run()
        if code in _FINAL or training.stopping.is_set():
            return code
        after = newest()
        failed = 0 if after > before else failed + 1
        if failed >= attempts:
            _say(f"{attempts} attempts in a row without a newer checkpoint; giving up")
            return code
        _say(f"exit code {code}, newest checkpoint: step {after}; starting again")
        if training.stopping.wait(0 if code in _ORDERLY else pause):
            return code


def _given(name: str, default: int) -> float:
    """Return the number in an environment variable; UserError if it is none."""
    text = os.environ.get(name) or str(default)
    if not text.replace(".", "", 1).isdecimal() or len(text) > 9:
        raise UserError(f"{name} must be a number of at least 0, got {text!r}")
    return float(text)


class _Training:
    """A command that is run again and again, and is passed the signals that arrive here."""

    def __init__(self, command: list[str]):
        self.stopping = threading.Event()
        """Whether a signal has arrived."""
        self._command, self._process = command, 0
        self._received: collections.deque[signal.Signals] = collections.deque()
        for number in heard():
            signal.signal(number, self._receive)

    def run(self) -> int:
        """Run the command once; return its exit code as a shell reports it."""
        try:
            # A session of its own: from a terminal, Ctrl-C would reach it twice, once past us, and
            # a second Ctrl-C means "at once".
            child = subprocess.Popen(self._command, start_new_session=True)
        except OSError as error:
            _say(f"{self._command[0]}: {error.strerror}")
            return 127
        self._process = child.pid
        self._pass_on()
        # All children: process 1 of a container inherits what a killed training leaves.
        while (ended := os.wait())[0] != child.pid:
            pass
        self._process = 0
        child.returncode = os.waitstatus_to_exitcode(ended[1])
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _receive(self, number: int, _frame: object) -> None:
        self._received.append(signal.Signals(number))
        self.stopping.set()
        self._pass_on()

    def _pass_on(self) -> None:
        # Each once, although a signal may interrupt this too.
        with contextlib.suppress(IndexError, ProcessLookupError):
            while self._process:
                os.kill(self._process, self._received.popleft())


def _say(line: str) -> None:
    print(f"train_until_done: {line}", file=sys.stderr, flush=True)
