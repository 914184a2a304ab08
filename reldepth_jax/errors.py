"""The one exception that is meant for a person, and the one that only a smaller task mends."""


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what, which file or field, how.

    Scripts print it without a traceback and exit with its code (see `reldepth_jax.cli.command`):
    2 usage, 3 data or checkpoints that cannot be used, 4 busy, 5 numerics, 6 storage.
    """

    exit_code = 2


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted, that of the host or of a device."""
    return isinstance(error, MemoryError) or (
        # JAX's errors, of several names; JAX need not be there.
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )
