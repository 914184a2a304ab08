"""The options that name a network: a run, a file of weights, or public weights. Imports no JAX."""

import argparse
import pathlib
from typing import TYPE_CHECKING

from reldepth_jax.cli import command
from reldepth_jax.config import ConfigError
from reldepth_jax.public_files import SHIPPED
from reldepth_jax.run_dir import layout

if TYPE_CHECKING:
    from reldepth_jax.inference.networks import Model


def add(options: argparse.ArgumentParser) -> None:
    """Add the options."""
    network = options.add_mutually_exclusive_group()
    network.add_argument("--workdir", help="run directory of a trained network")
    network.add_argument("--weights", help="file or folder that convert or export wrote")
    network.add_argument(
        "--model",
        metavar="NAME",
        help=f"public weights, or hub:USER/REPOSITORY, fetched once; default: {SHIPPED}, of the"
        " package",
    )
    command.add_offline(options)
    options.add_argument(
        "--checkpoint",
        type=command.checkpoint,
        metavar="STEP",
        help="of the run, or best; default: the newest",
    )


def check(options: argparse.Namespace) -> str:
    """Return what the network is called; without options it is the one of the package.

    Raises ConfigError for options that do not go together, UserError for a name that is unknown.
    """
    if options.workdir is None and options.checkpoint is not None:
        raise ConfigError("--checkpoint belongs to --workdir; a file of weights has one state")
    if options.model is not None:
        # Without JAX, but not light enough for --help.
        from reldepth_jax.weights import hub, presets

        if not options.model.startswith(hub.PREFIX):
            presets.published(options.model)
    elif options.workdir is None and options.weights is None:
        options.model = SHIPPED
    return str(options.workdir or options.weights or options.model)


def evaluation(options: argparse.Namespace) -> pathlib.Path:
    """Return the folder in which `evaluate` keeps what it found of the network that is named."""
    if options.workdir is not None:
        return pathlib.Path(options.workdir, "eval")
    if options.weights is not None:
        return layout.evaluation_folder(pathlib.Path(options.weights))
    return pathlib.Path(f"{options.model.replace(':', '_').replace('/', '_')}_eval")


def load(options: argparse.Namespace) -> "Model":
    """Return the network that `check` has named."""
    from reldepth_jax.inference import networks

    if options.workdir is not None:
        return networks.from_run(options.workdir, options.checkpoint)
    if options.model is not None:
        return networks.load_public(options.model)
    return networks.load_model(options.weights)
