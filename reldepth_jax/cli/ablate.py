"""Train and judge a grid of runs: losses, samplers, numbers of pairs and images, label noise.

python scripts/ablate.py --config configs/ablation.py                 # quick, for two CPU cores
python scripts/ablate.py --config configs/ablation.py:table3          # for a GPU
python scripts/ablate.py --config configs/ablation.py:figure5a --workdir runs/figure5a

Stopped or killed, the same command continues; finished runs are kept. Writes into the work
directory: runs/CONDITION/ARM/seed_K with a log beside each, results.json, results.md, curves and
comparison pictures.
"""

import argparse
import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator

from reldepth_jax.cli import command
from reldepth_jax.evaluation.ablation import grid as grids


def main(argv: list[str] | None = None) -> int:
    """Read the command line, check every arm, train, judge, write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="file with get_grid(), or file:variant")
    parser.add_argument("--workdir", type=pathlib.Path, help="default: runs/NAME_VARIANT")
    options, _ = command.parse(parser, argv)
    grid = grids.load(options.config)
    file, _, variant = options.config.partition(":")
    name = "_".join([pathlib.Path(file).stem, *[variant] * bool(variant)])
    workdir: pathlib.Path = options.workdir or pathlib.Path("runs") / name

    # Only now, because importing JAX takes longer than telling a mistake.
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
