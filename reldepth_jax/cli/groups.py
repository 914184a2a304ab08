"""Groups of runs on the command line: one recipe each, with a run for each seed."""

import argparse
import pathlib

from reldepth_jax.config import ConfigError


def add_groups(parser: argparse.ArgumentParser) -> None:
    """Let a command take runs and groups of runs."""
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run directories")
    parser.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="NAME=RUN,RUN,…",
        help="runs of one recipe with other seeds",
    )


def groups_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the run directories of each group, the named groups first.

    A run by itself is a group of its own. Raises ConfigError.
    """
    groups: dict[str, list[str]] = {}
    named = [f"{pathlib.Path(run).name}={run}" for run in options.runs]
    for text in [*options.group, *named]:
        name, _, members = text.partition("=")
        if not (name and members and all(members.split(","))):
            raise ConfigError(f"{text!r} is no group; write --group NAME=RUN,RUN,…")
        if name in groups:
            raise ConfigError(f"two groups are called {name!r}; use --group NAME=RUN")
        groups[name] = members.split(",")
    return groups
