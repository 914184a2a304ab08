"""Weights that a run starts from: another run's, a file's, or an encoder's from ImageNet."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from flax import nnx

from reldepth_jax.config import Choice, Config, ModelConfig
from reldepth_jax.run_dir.saved_config import RunError
from reldepth_jax.weights import arrays, by_name, convert, file, hub, presets
from reldepth_jax.weights.arrays import Arrays, Part
from reldepth_jax.weights.download import DownloadError
from reldepth_jax.weights.from_run import load_run


class StartingWeights(NamedTuple):
    """Arrays for a whole network or for its encoder."""

    arrays: Arrays
    part: Part
    """Which part of the new network they fill."""
    description: str
    """Where they are from."""


def load(config: Config) -> StartingWeights | None:
    """Return the weights that `config.init_from` names, None if it names none.

    A run directory, a `.safetensors` file of this package, a folder or name of the hub, public
    weights by name, as `midas_v21` or `imagenet:resnet50`, or `pretrained:NAME`. The latter two are
    encoders, and imply `init_part="encoder"`.
    Raises RunError or WeightsError, in one line, if they do not fit the configured network.
    """
    if not config.init_from:
        return None
    origin = hub.located(config.init_from)
    exists = pathlib.Path(origin).exists()
    public = not exists and (
        origin.startswith(presets.IMAGENET) or origin in presets.public(encoders=False)
    )
    packaged = origin.startswith(convert.PRETRAINED)
    wanted = "encoder" if packaged or origin.startswith(presets.IMAGENET) else config.init_part
    if pathlib.Path(origin).is_dir():
        run = load_run(origin)
        held, model, part = arrays.from_state(run.params, run.stats), run.config.model, "network"
        description = f"{origin}, step {run.step}"
    else:
        if public:
            # Before anything is fetched.
            preset, _ = presets.published(origin)
            _require_fitting(origin, preset.model, preset.part, config.model, wanted)
            try:
                weights = by_name.load(origin)
            except DownloadError as error:
                raise type(error)(
                    f"{error}. Or start from a file, --weights FILE, or from scratch,"
                    " --config.init_from= --config.init_part=network"
                ) from None
        elif packaged:
            weights = convert.from_file(origin)
        elif exists:
            weights = file.read(origin)
        else:
            raise RunError(
                f"init_from {origin}: no such file; give a run directory, a .safetensors file, or"
                f" a name as midas_v21, {presets.IMAGENET}resnet50 or {convert.PRETRAINED}NAME"
            )
        held, model, part = weights.arrays, weights.model, weights.part
        description = (
            f"{config.init_from} ({weights.architecture}, {weights.provenance.get('file', '?')})"
        )
    _require_fitting(origin, model, part, config.model, wanted)
    if wanted == "encoder" and part == "network":
        front = "encoder."
        held = {key.removeprefix(front): v for key, v in held.items() if key.startswith(front)}
        description += ", the encoder"
    return StartingWeights(held, wanted, description)


def fill(
    start: StartingWeights, config: ModelConfig, params: nnx.State, stats: nnx.State
) -> tuple[nnx.State, nnx.State]:
    """Return parameters and statistics of a new network with those of `start` in place."""
    front = "encoder." if start.part == "encoder" else ""
    filled = arrays.from_state(params, stats)
    filled |= {front + key: value for key, value in start.arrays.items()}
    return arrays.to_states(config, "network", filled)


def _require_fitting(
    origin: str, theirs: ModelConfig, part: Part, ours: ModelConfig, wanted: Part
) -> None:
    if wanted == "network" and part == "encoder":
        raise RunError(
            f"init_from {origin} holds an encoder only ({theirs.encoder.name}); set"
            " init_part=encoder to start with a new decoder"
        )
    different = _differences(theirs, ours, wanted)
    if different:
        raise RunError(f"init_from {origin} holds another {wanted}: {'; '.join(different)}")


def _differences(theirs: ModelConfig, ours: ModelConfig, part: Part) -> list[str]:
    """Return the fields that make them different networks for the same weights."""
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    names -= {"dtype", "init", "mirrored"}
    if part == "encoder":
        names = {"encoder", "normalisation"}
    return [
        f"model.{name} is {_text(getattr(theirs, name))} there and"
        f" {_text(getattr(ours, name))} here"
        for name in sorted(names)
        if getattr(theirs, name) != getattr(ours, name)
    ]


def _text(value: Any) -> str:
    return repr(value.name if isinstance(value, Choice) and not value.options else value)
