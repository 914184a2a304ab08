"""What all parts are given, and how peers that cannot run are told."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from benchmarks import workload
from reldepth_jax.cli import command
from reldepth_jax.config import Config

if TYPE_CHECKING:
    from benchmarks.torch_calls import Torch

TORCH, COMPILED = "torch", "torch.compile"

T = TypeVar("T")


@dataclasses.dataclass
class Context:
    """The options of one run, and what its parts found out for later ones."""

    gpu: bool
    encoder: str
    dtype: Literal["float32", "bfloat16"]
    step_size: int
    size: int
    """Of everything but the step."""
    batches: list[int]
    pairs: list[int]
    rounds: int
    quick: bool
    torch: "Torch | None"
    """None: no peers."""
    images_per_second: dict[int, float] = dataclasses.field(default_factory=dict)
    """Of our step, by batch size, once it was measured."""
    processes: dict[tuple[str, str, str], list[dict[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """What the processes of `benchmarks.processes` told, once they ran."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Of the part in progress."""

    def settings(self, *, size: int = 0, batch: int = 1, pairs: int = 3000) -> Config:
        """Return the configuration that is computed; the size is that of the step if it is 0."""
        return workload.settings(
            self.encoder, size=size or self.step_size, batch=batch, dtype=self.dtype, pairs=pairs
        )

    def programs(self) -> dict[str, bool]:
        """Return which of eager and compiled torch can run here, and whether it is compiled."""
        found: dict[str, bool] = {}
        if self.torch is None:
            return found
        for who, compiled in ((TORCH, False), (COMPILED, True)):
            lacking = self.torch.lacks(compiled)
            if lacking:
                self.say(f"{who}: not measured, {lacking}.")
            else:
                found[who] = compiled
        return found

    def peers(self, make: Callable[["Torch", bool], T], use: Callable[[T], Any]) -> dict[str, T]:
        """Return `make(torch, compiled)` of each program, as far as `use` of it succeeds."""
        found: dict[str, T] = {}
        if self.torch is not None:
            for who, compiled in self.programs().items():
                with self.trying(who):
                    made = make(self.torch, compiled)
                    use(made)
                    found[who] = made
        return found

    @contextlib.contextmanager
    def trying(self, who: str) -> Iterator[None]:
        """Turn what fails within into a note: a peer that does not run here is no mistake."""
        try:
            yield
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.say(f"{who}: not measured, {reason}.")

    def say(self, note: str) -> None:
        """Add a note to the part in progress, once."""
        if note not in self.notes:
            self.notes.append(note)

    def taken_notes(self) -> list[str]:
        """Return the notes of the part and begin anew."""
        notes, self.notes = self.notes, []
        return notes

    @staticmethod
    def bar(what: str) -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
        """Show the progress of a part."""
        return command.progress_bar(what)
