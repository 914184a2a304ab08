"""Draw the learning curves of runs.

reldepth plot runs/mae runs/ranking
reldepth plot --group mae=runs/mae_0,runs/mae_1 --group ranking=runs/ranking_0,runs/ranking_1
reldepth plot runs/ranking --output curves.pdf

A group is one recipe with one run for each seed; a run given by itself is a group of its own. Draws
the training loss, the WHDR of validation and that of pairs in the same row, over steps and over
minutes of training, then the newest errors side by side. A line is the mean of a group, the band
its range. Only reads what the runs have written about themselves, also while they are trained.
Needs Matplotlib: pip install 'reldepth-jax[plot]'.
"""

import argparse
import functools
import pathlib
import sys

from reldepth_jax.cli import command
from reldepth_jax.cli.groups import add_groups, groups_of
from reldepth_jax.config import ConfigError
from reldepth_jax.errors import printable


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("plot", __doc__)
    add_groups(options)
    options.add_argument(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/curves.png"),
        metavar="FILE",
        help="PNG, PDF or SVG; default: runs/curves.png",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line and the runs, draw."""
    options, _ = command.parse(parser(), argv)
    members = groups_of(options)
    if not members:
        raise ConfigError("give run directories, or --group NAME=RUN,RUN,…")

    command.require_place(options.output)

    # Imported late: a mistake is reported before.
    from reldepth_jax.evaluation import charts, curves

    groups = {
        name: [curves.read(pathlib.Path(run)) for run in group] for name, group in members.items()
    }
    for name, group in groups.items():
        untimed = sum(run.curves["whdr"].minutes is None for run in group)
        if untimed:
            print(
                printable(
                    f"{name}: {untimed} of {len(group)} runs wrote no times; curves over minutes"
                    " are left out"
                ),
                file=sys.stderr,
            )
    pairs = {run.last("rule_whdr") for group in groups.values() for run in group}
    if len(pairs) > 1:
        print(
            "the runs are validated on different images or pairs: their errors cannot be compared",
            file=sys.stderr,
        )
    charts.save_figure(options.output, functools.partial(charts.runs, groups=groups), (15.0, 11.0))
    print(printable(f"written: {options.output}"))
    return 0
