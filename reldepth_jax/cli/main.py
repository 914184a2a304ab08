"""The console command `reldepth`. Imports no JAX."""

import argparse
import importlib
import sys
from types import ModuleType
from typing import NoReturn

import reldepth_jax
from reldepth_jax.cli import command, streams
from reldepth_jax.errors import UserError
from reldepth_jax.registry import did_you_mean

COMMANDS = (
    "train", "train-until-done", "predict", "demo", "evaluate", "compare", "plot", "convert",
    "export", "models", "check-data", "prepare", "inspect", "benchmark", "ablate", "launch",
    "completion",
)  # fmt: skip
"""Each is a module of this folder with `parser()` and `main(argv)`; the first line of its docstring
says what it does."""
PRINTING = ("models", "inspect", "completion")
"""What these do is printing: where that is lost, they have failed."""
LEAVING = ("train", "ablate")
"""These end soon after `main`, whatever their threads wait for."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command that the first word names, and exit with its code."""
    words = sys.argv[1:] if argv is None else argv
    name = words[0] if words else ""
    command.run(lambda: _run(name, words), leave=name in LEAVING)


def _run(name: str, words: list[str]) -> int:
    if not name or name.startswith("-"):
        whole = parser()
        whole.parse_args(words)
        whole.print_help(sys.stderr)
        return command.USAGE_ERROR
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS)
        raise UserError(f"unknown command {name!r}.{hint} reldepth --help lists the commands.")
    code = _module(name).main(words[1:])
    sys.stdout.flush()
    lost = name in PRINTING and streams.lost()
    return command.STORAGE_ERROR if lost and not code else code


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"reldepth_jax.cli.{name.replace('-', '_')}")


class _Columns(argparse.HelpFormatter):
    """Puts each command and what it does on one line: argparse's own indent is too small by 2."""

    def __init__(self, prog: str):
        super().__init__(prog)
        self._action_max_length = self._max_help_position


def parser() -> argparse.ArgumentParser:
    """Return a parser of all commands, for their list and for shell completion."""
    whole = argparse.ArgumentParser(
        prog="reldepth",
        description=(reldepth_jax.__doc__ or "").partition("\n")[0],
        formatter_class=_Columns,
        epilog="reldepth COMMAND --help lists the options of a command.",
    )
    version = f"reldepth {reldepth_jax.__version__}"
    whole.add_argument("--version", action="version", version=version)
    commands = whole.add_subparsers(
        title="commands", metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    for name in COMMANDS:
        module = _module(name)
        summary = (module.__doc__ or "").partition("\n")[0]
        commands.add_parser(name, help=summary, parents=[module.parser()], add_help=False)
    return whole
