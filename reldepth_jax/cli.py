"""What the scripts share: options, overrides, and one clear line for a mistake. Imports no JAX."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from reldepth_jax.config import ConfigError
from reldepth_jax.errors import UserError
from reldepth_jax.registry import did_you_mean

USAGE_ERROR = 2
_PREFIX = "--config."


def parse(
    parser: argparse.ArgumentParser, argv: list[str] | None = None, *, overrides: bool = False
) -> tuple[argparse.Namespace, dict[str, str]]:
    """Return the options, and the overrides `--config.a.b=value` (or `--config.a.b value`).

    Raises ConfigError for anything else that the parser does not know.
    """
    options, rest = parser.parse_known_args(argv)
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


@contextlib.contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on stderr; yields `advance(done, total)`."""
    # Only now: a mistake is told before.
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
        # Elsewhere it would leave empty lines between the messages.
        disable=not screen.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run(main: Callable[[], int]) -> None:
    """Exit with the code of `main`; a user's mistake becomes one line and exit code 2.

    The same holds for what the operating system refuses. Ctrl-C exits with 130.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left (`| head`): nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = USAGE_ERROR
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
