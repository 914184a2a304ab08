"""The one exception that is meant for a person."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what, which file or field, how.

    Scripts print it without a traceback and exit with code 2 (see `reldepth_jax.cli`).
    """
