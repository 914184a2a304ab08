"""What the commands share: options, overrides, and one clear line for a mistake. Imports no JAX."""

import argparse
import contextlib
import errno
import itertools
import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Literal, NoReturn, Protocol

from reldepth_jax.cli import ctrl_c
from reldepth_jax.config import ConfigError
from reldepth_jax.data.workers import quieten_decoders
from reldepth_jax.errors import UserError, out_of_memory, printable
from reldepth_jax.registry import did_you_mean
from reldepth_jax.training.preemption import SIGNALS

USAGE_ERROR = 2
STORAGE_ERROR = 6
_LEAVING = 3.0
"""Seconds that Python has to end by itself: it waits for threads."""
_PREFIX = "--config."


class Parser(argparse.ArgumentParser):
    """Options of the command `name`; `doc`, the docstring of its module, is its help."""

    def __init__(self, name: str, doc: str | None):
        super().__init__(
            prog=f"reldepth {name}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError: a mistake is one line, without the usage."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Let a command that takes public weights by name have `--offline`."""
    parser.add_argument(
        "--offline",
        action="store_true",
        help="fetch nothing; the same as the environment variable RELDEPTH_OFFLINE=1",
    )


def parse(
    parser: argparse.ArgumentParser, argv: list[str] | None = None, *, overrides: bool = False
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Return the options, and the overrides `--config.a.b=value` (or `--config.a.b value`).

    Raises ConfigError for anything else that the parser does not know, and for an empty argument,
    which would mean the working directory wherever a path is expected.
    """
    words = sys.argv[1:] if argv is None else argv
    for before, word in itertools.pairwise(["", *words]):
        option = word.removesuffix("=") if word.startswith("--") else ""
        if not (word or before.startswith(_PREFIX)):
            raise ConfigError("an argument is empty; is a variable not set? (. is this folder)")
        if option != word and option and not option.startswith(_PREFIX):
            raise ConfigError(f"{option} is empty; is a variable not set? (. is this folder)")
    options, rest = parser.parse_known_args(argv)
    if getattr(options, "offline", False):
        os.environ["RELDEPTH_OFFLINE"] = "1"
    assignments: dict[str, str] = {}
    words = iter(rest)
    for word in words:
        if not (overrides and word.startswith(_PREFIX)):
            known = [name for action in parser._actions for name in action.option_strings]
            hint = did_you_mean(word.partition("=")[0], known)
            if os.path.lexists(word):
                hint = f" If it is a file, write ./{word}."
            raise ConfigError(f"unknown argument {word!r}.{hint}")
        path, equals, value = word.removeprefix(_PREFIX).partition("=")
        if not equals:
            value = next(words, None)
            if value is None:
                raise ConfigError(f"{word} needs a value: {word}=…")
        assignments[path] = value
    return options, assignments


def checkpoint(text: str) -> int | Literal["best"]:
    """Return the step that `--checkpoint` names, or "best"."""
    return "best" if text == "best" else int(text)


def numbers(text: str) -> list[int]:
    """Return what an option such as `--pairs 100,1000` lists, sorted."""
    words = [word for word in text.split(",") if word]
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(
            f"takes whole numbers from 1 on, separated by commas; got {text!r}"
        )
    return sorted({int(word) for word in words})


def require_place(path: pathlib.Path) -> None:
    """Raise ConfigError where no file can be made, before anything is computed for it."""
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise ConfigError(f"{path} cannot be written: {above} is a file; name another place")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{path} cannot be written: no access to {above}; name another place")


class Progress(Protocol):
    """Updates a progress bar; `what` replaces its title."""

    def __call__(self, done: int, total: int, what: str | None = None) -> None:
        """Show `done` of `total`."""


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """Show a bar with rate and time left on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        # It would leave empty lines between the messages, and rich takes a tenth of a second.
        yield lambda done, total, what=None: None
        return
    # Imported late: a mistake is reported before.
    from rich import console, progress

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            return f"{task.finished_speed or task.speed or 0:.1f}/s"

    screen = console.Console(stderr=True)
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
        console=screen,
        transient=True,
        disable=not screen.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int, what: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield advance


def run(main: Callable[[], int], *, leave: bool = False) -> NoReturn:
    """Exit with the code of `main`; a user's mistake becomes one line and its own exit code.

    The same holds for what the system refuses: files, memory, devices. Ctrl-C exits with 130. With
    `leave` the process ends soon and with that code, whatever its threads wait for.
    """
    quieten_decoders()
    try:
        code = main()
        sys.stdout.flush()
    except BaseException as error:
        if ctrl_c.interrupted() or isinstance(error, KeyboardInterrupt):
            code = ctrl_c.CODE
        elif (told := _tell(error)) is not None:
            code = told
        else:
            raise
    else:
        code = ctrl_c.CODE if ctrl_c.interrupted() else code
    if leave:
        _leave(code)
    sys.exit(code)


def _tell(error: BaseException) -> int | None:
    """Print an error that has a line for the user; return its exit code, None if it has none."""
    code, told = USAGE_ERROR, str(error)
    if isinstance(error, UserError):
        code = error.exit_code
    elif isinstance(error, OSError):
        if error.filename is not None and error.strerror:
            told = f"{os.fsdecode(error.filename)}: {error.strerror}"
        full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        code = STORAGE_ERROR if error.errno in full else USAGE_ERROR
    elif (reason := _refused(error)) is not None:
        told = reason
    else:
        return None
    print(f"error: {printable(told, lines=True)}", file=sys.stderr)
    return code


def _refused(error: BaseException) -> str | None:
    """Return what the machine has refused to the computation, in words; None for other errors."""
    line = next(iter(str(error).strip().splitlines()), "")[:200]
    if out_of_memory(error):
        return (
            f"memory is exhausted ({line or type(error).__name__}); smaller images or batches need"
            " less (data.crop, data.batch_size, train.accumulate, --image-size)"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in line:
        return (
            "the system gives no more threads (ulimit -u, or the limit of a container); end other"
            " programs, or take fewer (data.threads, data.workers, --workers)"
        )
    frames = traceback.extract_tb(error.__traceback__)
    bare = isinstance(error, AssertionError) and frames[-1].filename.endswith("xla_bridge.py")
    if bare or line.startswith("Unable to initialize backend"):
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return (
            f"JAX has no such device here: JAX_PLATFORMS={wanted}{': ' if line else ''}{line};"
            " unset it, set it to cpu, or install JAX for this device (README: cuda12, cuda13)"
        )
    return None


def _leave(code: int) -> None:
    """Let neither a late signal nor a thread that a hanging file system holds change the end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    timer = threading.Timer(_LEAVING, os._exit, (code,))
    timer.daemon = True
    timer.start()
