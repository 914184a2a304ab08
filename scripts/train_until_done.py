"""`reldepth train-until-done`, from a clone."""

import sys

from reldepth_jax.cli.start import main

if __name__ == "__main__":
    main(["train-until-done", *sys.argv[1:]])
