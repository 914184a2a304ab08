"""The one exception that is meant for a person."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what, which file or field, how.

    Scripts print it without a traceback and exit with its code (see `reldepth_jax.cli.command`):
    2 usage, 3 data or checkpoints that cannot be used, 4 busy, 5 numerics, 6 storage.
    """

    exit_code = 2
