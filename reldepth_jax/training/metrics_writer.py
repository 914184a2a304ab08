"""What a run writes about itself: JSON lines as the source of truth, other writers beside them.

None of it is needed to continue: if it cannot be written, one line says so and training goes on.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from reldepth_jax import json_lines
from reldepth_jax.config import Config, to_dict
from reldepth_jax.data.images.pictures import save_picture
from reldepth_jax.run_dir import layout

_FILES = "metrics and pictures"
_SERVICE = "Weights & Biases"


@runtime_checkable
class Writer(Protocol):
    """One place where numbers and pictures go; each method raises OSError if they cannot."""

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`; `group` is `train` or `val`."""

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 (h, w, 3) picture."""

    def close(self) -> None:
        """Finish; nothing follows."""


class JsonLines:
    """The metrics of a run directory, and its pictures."""

    def __init__(self, run_dir: pathlib.Path):
        self._run_dir = run_dir

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Append a line, with the time in Unix seconds."""
        line = {"step": step, "group": group, "time": round(time.time(), 3), **values}
        json_lines.append(self._run_dir / layout.METRICS, line)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a PNG."""
        del name
        save_picture(layout.picture(self._run_dir, step), image)

    def close(self) -> None:
        """Do nothing: no file stays open."""


class MetricsWriter:
    """Gives numbers and pictures to all writers of a run; the failure of one stops no other."""

    def __init__(self, run_dir: pathlib.Path, config: Config, say: Callable[[str], None] = print):
        """`say` is called, once for files and once for a service, if something cannot be written.

        What is written beside the JSON lines: `config.train.writers`.
        """
        self._say, self._warned = say, set()
        self._writers: list[tuple[str, Writer]] = [(_FILES, JsonLines(run_dir))]
        for name in dict.fromkeys(config.train.writers):
            what = _SERVICE if name == "wandb" else _FILES
            with self._tolerant(what):
                self._writers.append((what, _make(name, run_dir, config, say)))

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Write the numbers of `step`; `group` is `train` or `val`."""
        self._each(lambda writer: writer.scalars(step, group, values))

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write a uint8 (h, w, 3) picture."""
        self._each(lambda writer: writer.picture(step, name, image))

    def close(self) -> None:
        """Finish all of them."""
        self._each(lambda writer: writer.close())

    def _each(self, act: Callable[[Writer], None]) -> None:
        for what, writer in self._writers:
            with self._tolerant(what):
                act(writer)

    @contextlib.contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if what not in self._warned:
                self._warned.add(what)
                self._say(f"{what} cannot be written ({error}); training goes on without them")


def _make(name: str, run_dir: pathlib.Path, config: Config, say: Callable[[str], None]) -> Writer:
    # Imported late: each takes its own time, and what it needs may be missing.
    if name == "tensorboard":
        from reldepth_jax.training.writers.tensorboard import TensorBoard

        return TensorBoard(run_dir)
    if name == "csv":
        from reldepth_jax.training.writers.csv_files import CsvFiles

        return CsvFiles(run_dir)
    from reldepth_jax.training.writers.weights_and_biases import WeightsAndBiases

    return WeightsAndBiases(run_dir, to_dict(config), say)
