"""Run directories: the configuration and the weights that training left there.

A run directory holds config.json, checkpoints/, metrics.jsonl, tensorboard/ and pictures/.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from reldepth_jax import config as config_module
from reldepth_jax.checkpoint import Checkpoints
from reldepth_jax.config import Config
from reldepth_jax.errors import UserError
from reldepth_jax.models.reldepth_net import RelDepthNet, build
from reldepth_jax.train import optim, state
from reldepth_jax.train.step import make_forward

# What may change between a run and its continuation: none of it touches the computed numbers,
# except train.steps, which prolongs the schedule.
_FREE = {
    "data.workers", "data.threads", "data.prefetch",
    "train.steps", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "init_from",
}  # fmt: skip


ModelFn = Callable[[UInt8[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w"]]


class RunError(UserError):
    """A run directory that cannot be used, in one line."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network with where it came from."""

    workdir: pathlib.Path
    config: Config
    step: int
    params: nnx.State
    stats: nnx.State
    model_fn: ModelFn
    """Compiled forward pass: uint8 RGB with sides that are multiples of 32 -> float32 scores."""


def new_state(config: Config, *, abstract: bool = False) -> tuple[RelDepthNet, state.TrainState]:
    """Return the configured network and its state before the first step.

    With `abstract` both hold shapes and dtypes only: nothing is computed.
    """
    optimizer = optim.make_optimizer(config.optim, config.train.steps)

    def make() -> RelDepthNet:
        return build(config.model, rngs=nnx.Rngs(config.train.seed))

    model = nnx.eval_shape(make) if abstract else make()
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    create = functools.partial(state.create, optimizer=optimizer)
    return model, jax.eval_shape(create, params, stats) if abstract else create(params, stats)


def load_run(workdir: str | os.PathLike[str], step: int | None = None) -> Run:
    """Load a run's configuration and the weights of `step` (default: the newest).

    Raises RunError if the directory, its configuration or the step does not exist.
    """
    folder = pathlib.Path(workdir)
    config = load_config(folder)
    if config is None:
        raise RunError(f"{folder}: no config.json here; is this the run directory of a training?")
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.steps()
    if not found:
        raise RunError(f"{folder}: no checkpoint yet")
    if step is not None and step not in found:
        known = ", ".join(map(str, found))
        raise RunError(f"{folder}: no checkpoint of step {step}; there are: {known}")
    step = found[-1] if step is None else step
    model, like = new_state(config, abstract=True)
    restored = restore(checkpoints, step, like)
    return Run(
        folder, config, step, restored.params, restored.stats, compile_forward(model)(restored)
    )


def restore(checkpoints: Checkpoints, step: int, like: state.TrainState) -> state.TrainState:
    """Return the state of `step`; RunError if its files do not hold such a state."""
    try:
        return checkpoints.restore(step, like)
    except Exception as error:  # Orbax raises plain Exception, KeyError and others for bad files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"checkpoint of step {step} cannot be read: {reason}") from error


def compile_forward(model: RelDepthNet) -> Callable[[state.TrainState], ModelFn]:
    """Return `bind(state) -> model_fn`; the network is compiled once for all states."""
    forward = jax.jit(make_forward(model))

    def bind(weights: state.TrainState) -> ModelFn:
        return lambda images: np.asarray(forward(weights.params, weights.stats, images))

    return bind


def load_config(folder: pathlib.Path) -> Config | None:
    """Return the configuration saved in a run directory, None if there is none."""
    path = folder / "config.json"
    try:
        return config_module.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def save_config(folder: pathlib.Path, config: Config) -> None:
    """Write the resolved configuration, whole or not at all."""
    text = json.dumps(config_module.to_dict(config), indent=2)
    temporary = folder / "config.json.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, folder / "config.json")


def differences(old: Config, new: Config) -> list[str]:
    """Return the changed fields that a continued run must not change, as `path: old -> new`."""
    before, after = (_flat(config_module.to_dict(config)) for config in (old, new))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before | after)
        if before.get(path) != after.get(path)
        and path not in _FREE
        and not path.startswith("eval.")
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
