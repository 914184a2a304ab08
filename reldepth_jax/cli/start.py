"""What every command does first: listen to Ctrl-C, and let printing never fail."""

import signal
from typing import NoReturn

from reldepth_jax.cli import ctrl_c, streams


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command that the first word of the command line names, and exit with its code."""
    ctrl_c.listen()
    streams.protect()
    try:
        from reldepth_jax.cli import main as command

        command.main(argv)
    finally:
        # All is done; Python still waits for threads.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
