"""`reldepth prepare`, from a clone."""

from reldepth_jax.cli import command
from reldepth_jax.cli.prepare import main

if __name__ == "__main__":
    command.run(main)
