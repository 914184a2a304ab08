"""Stopping on request: the signal sets a flag, the loop finishes its step and saves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """The first stop signal that arrived, or None."""

    received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    @property
    def exit_code(self) -> int:
        """128 + signal number, as shells report it; 0 without a signal."""
        return 0 if self.received is None else 128 + self.received


@contextmanager
def catch_interrupts() -> Iterator[Interrupt]:
    """Catch SIGINT and SIGTERM once; a second Ctrl-C interrupts at once."""
    interrupt = Interrupt()

    def note(number: int, _frame: object) -> None:
        if interrupt and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupt.received = signal.Signals(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
