"""Show a run: checkpoints, history, what comes next.

reldepth inspect runs/ranking
reldepth inspect runs/ranking --verify
reldepth inspect runs/ranking --json
python scripts/inspect_run.py …     the same, from a clone

Lists the checkpoints with age, size and validation WHDR, what is set aside or unfinished, every
start with its saves and its end, and what kills have cost. Only reads, also while the run is being
trained. --verify reads every array and compares it with the digest taken when it was saved.

Exit code 0: nothing is wrong; 2: wrong usage, or no run directory; 3: a checkpoint is damaged, or
the same command could not continue.
"""

import argparse
import dataclasses
import json

from reldepth_jax.cli import command
from reldepth_jax.errors import printable


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("inspect", __doc__)
    options.add_argument("workdir", help="run directory")
    options.add_argument("--verify", action="store_true", help="read every array and compare it")
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, look, print."""
    options, _ = command.parse(parser(), argv)

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax.run_dir import inspect

    report = inspect.inspect(options.workdir, verify=options.verify)
    if options.json:
        print(json.dumps(dataclasses.asdict(report), indent=1))
    else:
        print("\n".join(map(printable, report.lines())))
    return 0 if report.ok else 3
