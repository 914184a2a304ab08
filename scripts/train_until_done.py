"""`reldepth train-until-done`, from a clone."""

from reldepth_jax.cli import command
from reldepth_jax.cli.train_until_done import main

if __name__ == "__main__":
    command.run(main)
