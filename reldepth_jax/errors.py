"""The one exception that is meant for a person, and the one that only a smaller task mends."""

import importlib.util
import os


class UserError(ValueError):
    """A mistake that the user can mend, told in one line: what, which file or field, how.

    Scripts print it without a traceback and exit with its code (see `reldepth_jax.cli.command`):
    2 usage, 3 data or checkpoints that cannot be used, 4 busy, 5 numerics, 6 storage.
    """

    exit_code = 2


def require(extra: str, *modules: str) -> None:
    """Raise UserError unless these modules, of an extra of this package, are installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"{' and '.join(missing)} {are} not installed: pip install 'reldepth-jax[{extra}]'"
        )


def printable(text: str | os.PathLike[str], *, lines: bool = False) -> str:
    """Return `text` on one line, with control characters and undecodable bytes escaped.

    For all that files from outside say of themselves: a name or a licence may move the cursor, or
    write over what the terminal shows. With `lines` the ends of lines stay.
    """
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode()
        for c in os.fspath(text)
    )


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is exhausted, that of the host or of a device."""
    return isinstance(error, MemoryError) or (
        # JAX's errors, of several names; JAX need not be there.
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )
