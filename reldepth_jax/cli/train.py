"""Train, or continue a run.

reldepth train --config ranking [--workdir runs/ranking] [--config.a.b=value …]
python scripts/train.py --config configs/ranking.py …     the same, from a clone

--config.a.b=value sets any field of the configuration. Ctrl-C and SIGTERM save and stop; the same
command continues. Several processes train one run: docs/multi_process.md.
"""

import argparse
import pathlib

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.run_dir import layout


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("train", __doc__)
    options.add_argument(
        "--config", required=True, metavar="NAME[:VARIANT]", help="configuration: name or file"
    )
    options.add_argument("--workdir", help="run directory (default: runs/NAME, runs/NAME_VARIANT)")
    options.add_argument(
        "--weights", help="start from these; the same as --config.init_from=WEIGHTS"
    )
    command.add_offline(options)
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, check everything, train."""
    options, assignments = command.parse(parser(), argv, overrides=True)
    if options.weights is not None:
        if "init_from" in assignments:
            raise config.ConfigError("--weights and --config.init_from are the same; give one")
        assignments["init_from"] = options.weights
    settings = config.override(config.load(options.config), assignments)
    config.validate(settings)
    if settings.init_part == "encoder" and not settings.init_from:
        raise config.ConfigError(
            "init_part=encoder: which one? Give --weights with a file, a run directory,"
            " imagenet:NAME or pretrained:NAME"
        )
    workdir = pathlib.Path(options.workdir or layout.default_run_dir(options.config))

    # Imported late: a mistake is reported before JAX is loaded.
    from rich.console import Console

    from reldepth_jax import runtime
    from reldepth_jax.training import run as training_run
    from reldepth_jax.training.distributed import processes

    runtime.set_up()
    processes.join()
    return training_run.train(settings, workdir, Console())
