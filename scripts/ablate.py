"""`reldepth ablate`, from a clone."""

from reldepth_jax.cli import command
from reldepth_jax.cli.ablate import main

if __name__ == "__main__":
    command.run(main, leave=True)
