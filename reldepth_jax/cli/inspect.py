r"""Look at a run directory: its checkpoints, what has happened, and what would happen next.

python scripts/inspect_run.py runs/ranking
python scripts/inspect_run.py runs/ranking --verify
python scripts/inspect_run.py runs/ranking --json

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


def main(argv: list[str] | None = None) -> int:
    """Read the command line, look, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", help="run directory")
    parser.add_argument("--verify", action="store_true", help="read every array and compare it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, _ = command.parse(parser, argv)

    # Only now, because importing JAX takes longer than telling a mistake.
    from reldepth_jax.run_dir import inspect

    report = inspect.inspect(options.workdir, verify=options.verify)
    if options.json:
        print(json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False))
    else:
        print("\n".join(report.lines()))
    return 0 if report.ok else 3
