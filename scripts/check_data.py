"""`reldepth check-data`, from a clone."""

import sys

from reldepth_jax.cli.start import main

if __name__ == "__main__":
    main(["check-data", *sys.argv[1:]])
