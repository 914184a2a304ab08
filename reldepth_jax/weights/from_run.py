"""The trained weights that a run directory holds."""

import dataclasses
import os
import pathlib
import sys
from typing import Literal

from flax import nnx

from reldepth_jax.config import Config
from reldepth_jax.errors import printable
from reldepth_jax.registry import LOSSES
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import RunError, load_config, read_config
from reldepth_jax.training.state import new_state
from reldepth_jax.training.targets import compared


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with where it came from."""

    workdir: pathlib.Path
    config: Config
    step: int
    params: nnx.State
    stats: nnx.State

    @property
    def inverse_depth(self) -> bool:
        """Whether its scores are minus inverse depth up to scale and shift, as its loss has it."""
        loss = LOSSES.create(self.config.loss.name, **self.config.loss.options)
        return set(compared(loss)) == {"inverse depth"}


def load_run(workdir: str | os.PathLike[str], step: int | Literal["best"] | None = None) -> Run:
    """Load a run's configuration and the verified weights of `step` (default: the newest).

    "best" is the checkpoint with the lowest validation WHDR. Only reads, so it may look at a run
    that is being trained. Raises RunError if the directory, its configuration or the step does not
    exist, CheckpointError if what is there does not verify.
    """
    folder = pathlib.Path(workdir)
    config = load_config(folder)
    if config is None:
        raise RunError(f"{folder}: no {layout.CONFIG} here; is this a run directory?")
    lost = read_config(folder)[1]
    if lost:
        print(printable(f"{folder}: {lost}"), file=sys.stderr)
    checkpoints = Checkpoints(folder / layout.CHECKPOINTS)
    found = checkpoints.steps()
    if not found:
        raise RunError(f"{folder}: no checkpoint yet")
    wanted = checkpoints.best() if step == "best" else step
    if step == "best" and wanted is None:
        raise RunError(f"{folder}: no checkpoint has a validation WHDR")
    if wanted is not None and wanted not in found:
        known = ", ".join(map(str, found))
        raise RunError(f"{folder}: no checkpoint of step {wanted}; there are: {known}")
    _, like = new_state(config, abstract=True)
    restored = checkpoints.restore(like, wanted)
    for line in restored.damaged:
        line = f"{folder}: {line}; using step {restored.manifest.step}"
        print(printable(line), file=sys.stderr)
    return Run(
        folder,
        config,
        restored.manifest.step,
        *restored.state.result,
    )
