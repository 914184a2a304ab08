"""Train, or continue what the run directory holds.

python scripts/train.py --config configs/ranking.py [--workdir runs/ranking] [--config.a.b=value …]

Several processes train one run: docs/multi_process.md.
"""

import argparse
import pathlib

from reldepth_jax import config
from reldepth_jax.cli import command


def main(argv: list[str] | None = None) -> int:
    """Read the command line, check everything, train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="configuration file, or file:variant")
    parser.add_argument("--workdir", help="run directory (default: runs/NAME, runs/NAME_VARIANT)")
    parser.add_argument(
        "--weights", help="start from these; the same as --config.init_from=WEIGHTS"
    )
    options, assignments = command.parse(parser, argv, overrides=True)
    if options.weights is not None:
        if "init_from" in assignments:
            raise config.ConfigError("--weights and --config.init_from are the same; give one")
        assignments["init_from"] = options.weights
    settings = config.override(config.load(options.config), assignments)
    config.validate(settings)
    if settings.init_part == "encoder" and not settings.init_from:
        raise config.ConfigError(
            "init_part=encoder: which one? Give --weights with a file, a run directory or"
            " pretrained:NAME"
        )
    file, _, variant = options.config.partition(":")
    name = "_".join([pathlib.Path(file).stem, *[variant] * bool(variant)])
    workdir = pathlib.Path(options.workdir or f"runs/{name}")

    # Only now, because importing JAX takes longer than telling a mistake.
    from rich.console import Console

    from reldepth_jax import runtime
    from reldepth_jax.training import run as training_run
    from reldepth_jax.training.distributed import processes

    runtime.set_up()
    processes.join()
    return training_run.train(settings, workdir, Console())
