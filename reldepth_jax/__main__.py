"""`python -m reldepth_jax` is the command `reldepth`."""

from reldepth_jax.cli.start import main

if __name__ == "__main__":
    main()
