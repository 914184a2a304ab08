"""What a run says on the console and adds to its history."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from reldepth_jax.errors import printable
from reldepth_jax.run_dir.history import History
from reldepth_jax.run_dir.numerics import numerics
from reldepth_jax.types import Source

_MANY = 0.1
"""Share of images from which on it is said that they have nothing to teach."""


class Report:
    """One session of a run: its start, saves and end."""

    def __init__(self, run_dir: pathlib.Path, console: Console, remarks: Sequence[str] = ()):
        """`remarks` on the data are printed when training starts."""
        self.console, self._remarks = console, remarks
        self._degenerate = False
        self._run_dir, self._history = run_dir, History(run_dir)

    def say(self, line: str) -> None:
        """Print a line."""
        line = printable(line, lines=True)
        self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def announced_steps(self) -> set[int]:
        """Return the steps that the history says were saved."""
        return {event["step"] for event in self._history.events() if event["event"] == "saved"}

    def damaged(self, line: str, prefix: str = "") -> None:
        """Report a checkpoint that was unfinished or cannot be restored."""
        self._history.add("damaged", what=line)
        self.say(prefix + line)

    def started(self, step: int, sources: Sequence[Source]) -> None:
        """Report the first step, and what of the data was left out."""
        self._history.add("start", step=step, pid=os.getpid(), **numerics())
        for remark in self._remarks:
            self.say(remark)
        for source in sources:
            for remark in getattr(source, "remarks", tuple)():
                self.say(remark)
        for rejected in (getattr(source, "rejected", None) for source in sources):
            if rejected:
                self.say(
                    f"{len(rejected)} defective lines of the list are left out, the first is line"
                    f" {rejected[0].line}: {rejected[0].reason}"
                )

    def worker_died(self, line: str) -> None:
        """Report a process that read data and was replaced."""
        self._history.add("worker_died", what=line)
        self.say(line)

    def degenerate(self, step: int, share: float) -> None:
        """Say once if many images since the last log have one value at nearly all pixels."""
        if share >= _MANY and not self._degenerate:
            self._degenerate = True
            self.say(
                f"step {step}: {share:.0%} of the images have, for this loss, one value at nearly"
                " all pixels with ground truth, and teach it little; metrics.jsonl counts them as"
                " degenerate, reldepth check-data names them"
            )

    def validated(self, step: int, numbers: dict[str, Any]) -> None:
        """Print the errors of a validation."""
        self.say(
            f"step {step:>6}  validation WHDR {numbers['whdr']:.1%}, same row"
            f" {numbers['same_row']:.1%}  (lower is nearer: {numbers['rule_whdr']:.1%},"
            f" {numbers['rule_same_row']:.1%})"
        )

    def saved(self, step: int, seconds: float) -> None:
        """Report a durable checkpoint."""
        self._history.add("saved", step=step, seconds=round(seconds, 3))

    def finished(self, step: int, steps: int, seconds: float) -> None:
        """Report the end of the run."""
        self._history.add("finished", step=step)
        self.say(f"{steps} steps in {seconds / 60:.1f} minutes; run directory {self._run_dir}")

    def stopped(self, step: int, steps: int, reason: str) -> None:
        """Report the end of this session before that of the run."""
        self._history.add("stopped", step=step, reason=reason)
        self.say(f"{reason}: saved at step {step} of {steps}; the same command continues")

    def abandoned(self, reason: str, lost: int) -> None:
        """Report that the process is ended at once."""
        self._history.add("stopped", reason=reason, lost=lost)
        text = f"{lost} steps since the last checkpoint are lost" if lost else "nothing is lost"
        self.say(f"{reason}: stopped at once, {text}; the same command continues")

    def failed(self, error: Exception) -> None:
        """Add an error to the history."""
        self._history.add("failed", error=str(error))
