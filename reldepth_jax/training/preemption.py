"""Stopping on request: a signal sets a flag, the loop finishes its step and saves.

A Python signal handler runs only when the main thread next executes Python: not while XLA compiles.
So a second thread watches too. If nothing would be lost it ends the process soon; otherwise it
leaves the loop its grace period, in which the platform has not killed us yet. After
`jax.distributed.initialize` JAX has a handler of its own that keeps SIGTERM from ending the
process; ours, installed later, replaces it.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

SIGNALS = tuple(
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    if name in signal.Signals.__members__  # not all are on Windows
)
"""Ctrl-C, what platforms send, what Slurm's `--signal` is usually set to, a closed terminal."""
UNFINISHED = 75
"""Exit code when `train.max_minutes` ended the session: run the same command again."""
_SOON = 1.0
"""Seconds in which the loop may stop by itself when nothing would be lost."""
_LAST_WORDS = 0.5
"""Seconds for saying why the process ends."""


def heard() -> tuple[signal.Signals, ...]:
    """Return the signals to be answered: SIGHUP is not where `nohup` has had it ignored."""
    ignored = {
        number
        for number in SIGNALS
        if number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN
    }
    return tuple(number for number in SIGNALS if number not in ignored)


class Stopped(Exception):
    """Raised where waiting or evaluating is cut short by a stop; the loop saves and ends."""


class Interrupt:
    """Why and when to stop: the first signal that arrived, or the end of the time budget."""

    received: signal.Signals | None = None
    deadline: float | None = None
    """When `train.max_minutes` are over, on the monotonic clock."""
    leaving: bool = False
    """Whether the loop has ended and only closing remains, which the grace period alone limits."""
    unsaved: int = 0
    """Completed steps that no checkpoint begun so far holds; kept by the loop."""
    in_flight: int = 0
    """Completed steps that the checkpoint begun last adds; lost too if it is not finished."""

    def __bool__(self) -> bool:
        return self.received is not None or self.out_of_time

    @property
    def out_of_time(self) -> bool:
        """Whether the time budget is used up."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    @property
    def exit_code(self) -> int:
        """128 + signal number, as shells report it; 75 out of time; 0 if neither."""
        if self.received is not None:
            return 128 + self.received
        return UNFINISHED if self.out_of_time else 0

    def check(self) -> None:
        """Raise Stopped if it is time to stop."""
        if self:
            raise Stopped


@contextlib.contextmanager
def catch_interrupts(
    *,
    grace: float = 25.0,
    saving: Callable[[], bool] = lambda: False,
    on_abandon: Callable[[str, int], None] = lambda reason, lost: None,
) -> Iterator[Interrupt]:
    """Catch the signals once; a second Ctrl-C ends the process at once.

    Args:
      grace: seconds after the signal in which the loop must have saved.
      saving: whether a checkpoint is being written; the process is not ended before it is done or
        the grace period is over.
      on_abandon: called with the reason and the steps that are lost, before the process is ended
        although the loop has not stopped.
    """
    interrupt, signals = Interrupt(), heard()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number: int, _frame: object) -> None:
        interrupt.received = interrupt.received or signal.Signals(number)

    def abandon(code: int, reason: str) -> None:
        lost = interrupt.unsaved + (interrupt.in_flight if saving() else 0)

        def say() -> None:
            with contextlib.suppress(Exception):
                on_abandon(reason, lost)
                sys.stdout.flush()
                sys.stderr.flush()

        # Printing may block if nobody reads it: that must not keep the process.
        speaker = threading.Thread(target=say, daemon=True)
        speaker.start()
        speaker.join(_LAST_WORDS)
        os._exit(code)

    def watch() -> None:
        began = None
        while True:
            ready, _, _ = select.select([reader], [], [], None if began is None else 0.05)
            for number in os.read(reader, 64) if ready else b"":
                if number == 0:
                    return
                if number not in signals:
                    continue
                if began is not None and number == signal.SIGINT:
                    abandon(128 + signal.SIGINT, "second Ctrl-C")
                note(number, None)
                began = began or time.monotonic()
            if began is None or interrupt.received is None:
                continue
            waited = time.monotonic() - began
            nothing_to_lose = not interrupt.unsaved and not saving()
            stuck = waited > _SOON and nothing_to_lose and not interrupt.leaving
            if waited > grace or stuck:
                name = interrupt.received.name
                reason = name if nothing_to_lose else f"{name}: not saved within {grace:g} seconds"
                abandon(interrupt.exit_code, reason)

    thread = threading.Thread(target=watch, name="interrupts", daemon=True)
    previous = {number: signal.signal(number, note) for number in signals}
    old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread.start()
    try:
        yield interrupt
    finally:
        signal.set_wakeup_fd(old_wakeup)
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
