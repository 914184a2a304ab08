"""Run directories: the configuration and the weights that training left there.

A run directory holds config.json, checkpoints/, metrics.jsonl, tensorboard/ and pictures/.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jaxlib.version
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, UInt8

from reldepth_jax import config as config_module
from reldepth_jax import runtime
from reldepth_jax.checkpoint import Checkpoints
from reldepth_jax.config import Config, ModelConfig
from reldepth_jax.conventions import Source
from reldepth_jax.data.fingerprint import fingerprint
from reldepth_jax.errors import UserError
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.reldepth_net import RelDepthNet, build
from reldepth_jax.train import optim, state
from reldepth_jax.train.step import make_forward

# What may change between a run and its continuation: none of it touches the computed numbers,
# except train.steps, which prolongs the schedule.
_FREE = {
    "data.workers", "data.threads", "data.prefetch", "data.timeout", "data.max_bad",
    "train.steps", "train.epochs", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "train.max_minutes",
    "train.grace_seconds", "train.max_skipped", "init_from", "init_part",
}  # fmt: skip

_PLACE = re.compile(r"data\..*\b(root|prepared)")
"""Where the same data lie: other in every session on a borrowed machine. The fingerprint tells."""

CONFIG = "config.json"
_DATA = "data_fingerprint"

ModelFn = Callable[
    [UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w"]
]


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
    """Compiled forward pass: RGB (uint8, or float32 in 0..1) with sides that are multiples of 32 ->
    float32 scores."""


def new_state(config: Config, *, abstract: bool = False) -> tuple[RelDepthNet, state.TrainState]:
    """Return the configured network and its state before the first step.

    With `abstract` both hold shapes and dtypes only: nothing is computed.
    """
    optimizer = optim.make_optimizer(config.optim, config.train.steps)

    def make(rngs: nnx.Rngs) -> RelDepthNet:
        return build(config.model, rngs=rngs)

    model = abstract_network(make) if abstract else make(nnx.Rngs(config.train.seed))
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    create = functools.partial(
        state.create, optimizer=optimizer, trained=optim.trained(config.optim)
    )
    return model, jax.eval_shape(create, params, stats) if abstract else create(params, stats)


def load_run(workdir: str | os.PathLike[str], step: int | Literal["best"] | None = None) -> Run:
    """Load a run's configuration and the verified weights of `step` (default: the newest).

    "best" is the checkpoint with the lowest validation WHDR. Only reads, so it may look at a run
    that is being trained. Raises RunError if the directory, its configuration or the step does not
    exist, CheckpointError if what is there does not verify.
    """
    folder = pathlib.Path(workdir)
    config = load_config(folder)
    if config is None:
        raise RunError(f"{folder}: no config.json here; is this the run directory of a training?")
    checkpoints = Checkpoints(folder / "checkpoints")
    found = checkpoints.steps()
    if not found:
        raise RunError(f"{folder}: no checkpoint yet")
    wanted = checkpoints.best() if step == "best" else step
    if step == "best" and wanted is None:
        raise RunError(f"{folder}: no checkpoint has a validation score")
    if wanted is not None and wanted not in found:
        known = ", ".join(map(str, found))
        raise RunError(f"{folder}: no checkpoint of step {wanted}; there are: {known}")
    _, like = new_state(config, abstract=True)
    restored = checkpoints.restore(like, wanted)
    for line in restored.set_aside:
        print(f"{folder}: {line}; using step {restored.record.step}", file=sys.stderr)
    return Run(
        folder,
        config,
        restored.record.step,
        restored.state.params,
        restored.state.stats,
        forward_of(config.model)(restored.state),
    )


def image_size(config: Config) -> int:
    """Return the shorter side at which images are predicted."""
    return config.eval.image_size or min(config.data.crop)


@functools.lru_cache(maxsize=8)
def forward_of(config: ModelConfig) -> Callable[[state.TrainState], ModelFn]:
    """Return `bind(state) -> model_fn`; a network is compiled once for all states of a process."""
    forward = jax.jit(make_forward(abstract_network(lambda rngs: build(config, rngs=rngs))))

    def bind(weights: state.TrainState) -> ModelFn:
        return lambda images: np.asarray(
            forward(weights.params, weights.stats, runtime.ready(jax.device_put(images)))
        )

    return bind


def load_config(folder: pathlib.Path) -> Config | None:
    """Return the configuration saved in a run directory, None if there is none."""
    values = _load(folder)
    if values is None:
        return None
    try:
        return config_module.from_dict(
            {name: value for name, value in values.items() if name != _DATA}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / CONFIG} cannot be read: {error}") from error


def save_config(folder: pathlib.Path, config: Config, sources: Sequence[Source] = ()) -> None:
    """Write the resolved configuration and the fingerprint of the data, whole or not at all."""
    values = config_module.to_dict(config) | {_DATA: [fingerprint(source) for source in sources]}
    text = json.dumps(values, indent=2)
    temporary = folder / "config.json.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, folder / CONFIG)


def require_same(folder: pathlib.Path, config: Config, sources: Sequence[Source]) -> None:
    """Raise RunError if the directory holds a run with another configuration or other data."""
    old = load_config(folder)
    if old is None:
        return
    changed = differences(old, config)
    if not changed:
        before = (_load(folder) or {}).get(_DATA, [])
        after = [fingerprint(source) for source in sources]
        changed = [
            f"training data: {_told(one)} -> {_told(other)}"
            for one, other in zip(before, after, strict=False)
            # Prepared shards have no names to compare.
            if any(one[fact] != other[fact] for fact in one.keys() & other.keys())
        ]
    if changed:
        raise RunError(
            f"{folder} holds a run with another configuration: {'; '.join(changed)}."
            " Choose another --workdir, or undo the change"
        )


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{value} {key}" if key == "samples" else f"{key} {value}" for key, value in facts.items()
    )


def _load(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def numerics() -> dict[str, str]:
    """Return what the bits of results depend on beside the configuration."""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}" + processes,
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0),
    }


def numerics_changed(facts: Mapping[str, Any]) -> str:
    """Return how this process differs from the one that saved, empty if it does not."""
    return ", ".join(
        f"{name} {facts[name]} -> {value}"
        for name, value in numerics().items()
        if name in facts and facts[name] != value
    )


def differences(old: Config, new: Config) -> list[str]:
    """Return the changed fields that a continued run must not change, as `path: old -> new`."""
    before, after = (_flat(config_module.to_dict(config)) for config in (old, new))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before | after)
        if before.get(path) != after.get(path)
        and path not in _FREE
        and not _PLACE.fullmatch(path)
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
