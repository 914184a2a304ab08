"""Weights & Biases (extra `wandb`).

Its own environment variables hold: WANDB_MODE=offline, WANDB_PROJECT, WANDB_ENTITY, WANDB_RUN_ID, …
"""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.run_dir import layout

_PROJECT = "reldepth"
_SECONDS = 30
"""Longest wait for its server, at the start and at the end."""


class WeightsAndBiases:
    """One run there for each run directory, whatever number of sessions it takes.

    After a failure nothing more is sent. A kill loses what its own process has not written yet, of
    the last 15 seconds (measured with wandb 0.31).
    """

    def __init__(
        self, run_dir: pathlib.Path, config: Mapping[str, Any], say: Callable[[str], None] = print
    ):
        """Begin or continue the run; `say` is told where it is to be seen.

        Raises OSError, also where the package, a login or the server is missing.
        """
        self._run: Any = None
        try:
            import wandb
        except ImportError:
            raise OSError("wandb is missing: pip install 'reldepth-jax[wandb]'") from None
        self._wandb = wandb
        with self._failing():
            settings = wandb.Settings(
                # The console shows a bar; on a terminal it would be sent line by line.
                console="off",
                silent=True,
                init_timeout=_SECONDS,
                finish_timeout=_SECONDS,
            )
            # It must not ask for a key while training waits.
            sends = wandb.setup().settings.mode in ("online", "shared", "run")
            if sends and not wandb.login(prompt=False):
                raise OSError("no login: run wandb login, or set WANDB_MODE=offline")
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or _PROJECT,
                name=os.environ.get("WANDB_NAME") or run_dir.resolve().name,
                id=_run_id(run_dir),
                resume="allow",
                dir=str(run_dir),
                config=dict(config),
                allow_val_change=True,
                settings=settings,
            )
            # A step that is taken again after a kill is before its own count of calls.
            self._run.define_metric("*", step_metric="step")
            say(f"Weights & Biases: {self._run.url or self._run.dir}")

    def scalars(self, step: int, group: str, values: Mapping[str, float]) -> None:
        """Log the numbers of `step`; OSError if that fails."""
        self._log({"step": step, **{f"{group}/{name}": value for name, value in values.items()}})

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Log a uint8 (h, w, 3) picture; OSError if that fails."""
        with self._failing():
            self._log({"step": step, name: self._wandb.Image(image)})

    def close(self) -> None:
        """Send what is left, which takes half a minute at most."""
        run, self._run = self._run, None
        if run is not None:
            with self._failing():
                run.finish()

    def _log(self, values: Mapping[str, Any]) -> None:
        if self._run is not None:
            with self._failing():
                self._run.log(values)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turn whatever the package raises into OSError, and end the run here."""
        try:
            yield
        except Exception as error:
            self._run = None
            reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            raise OSError(reason) from error


def _run_id(run_dir: pathlib.Path) -> str:
    """Return the name of the run on the server: that of an earlier session, or a new one."""
    path = layout.wandb_run_id(run_dir)
    with contextlib.suppress(FileNotFoundError):
        if known := path.read_text(encoding="utf-8").strip():
            return known
    chosen = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path) as file:
        file.write(chosen.encode())
    return chosen
