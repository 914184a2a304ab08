"""`reldepth predict`, from a clone."""

import sys

from reldepth_jax.cli.start import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
