"""Train and evaluate a grid of runs.

reldepth ablate --config ablation                     # quick, for two CPU cores
reldepth ablate --config ablation:table3              # for a GPU
reldepth ablate --config ablation:figure5a --workdir runs/figure5a
python scripts/ablate.py --config configs/ablation.py …     the same, from a clone

Arms differ in loss, sampler, number of pairs or images, or label noise. Stopped or killed, the same
command continues; finished runs are kept. Writes into the work directory: runs/CONDITION/ARM/seed_K
with a log beside each, results.json, results.md, evaluations.json (errors of every run on every
image), curves and comparison pictures.
"""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

from reldepth_jax.cli import command
from reldepth_jax.evaluation.ablation import grid as grids
from reldepth_jax.run_dir import layout


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("ablate", __doc__)
    options.add_argument(
        "--config", required=True, metavar="NAME[:VARIANT]", help="name or file of a grid"
    )
    options.add_argument("--workdir", type=pathlib.Path, help="default: runs/NAME_VARIANT")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, check every arm, train, judge, write the results."""
    options, _ = command.parse(parser(), argv)
    grid = grids.load(options.config)
    workdir: pathlib.Path = options.workdir or layout.default_run_dir(options.config)

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.evaluation.ablation import report, run

    runtime.set_up()
    runtime.keep_compiled()
    workdir.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with _progress("training") as progress:
        code = run.train(grid, workdir, progress)
    if code:
        print("stopped; the same command continues")
        return code
    with _progress("judging") as progress:
        results = run.judge(grid, workdir, progress)
    seconds = time.monotonic() - began
    text = report.write(grid, results, run.curves(grid, workdir), workdir, seconds)
    print(text)
    print(f"{seconds / 60:.1f} minutes; written: {workdir}/results.json, results.md, pictures")
    return 0


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a bar on a terminal and elsewhere one line a run, with the time left."""
    began = time.monotonic()
    with command.progress_bar(what) as bar:

        def advance(done: int, total: int, following: str) -> None:
            bar(done, total)
            if following and not sys.stderr.isatty():
                minutes = (time.monotonic() - began) / 60
                left = f", about {minutes / done * (total - done):.0f} minutes left" if done else ""
                print(f"{what} {done + 1} of {total}: {following}{left}", file=sys.stderr)

        yield advance
