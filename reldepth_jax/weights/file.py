"""Files of weights of this package: safetensors that say what they hold.

Keys and axes are those of `weights.arrays`; the metadata entry `reldepth_jax` is JSON with
architecture, configuration of the model, preprocessing, sign of the output and provenance.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import safetensors.numpy

import reldepth_jax
from reldepth_jax import config as config_module
from reldepth_jax.config import Config, ModelConfig
from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.weights import presets
from reldepth_jax.weights.arrays import Arrays, Part, compare, shapes
from reldepth_jax.weights.tensors import WeightsError, read_tensors

_KEY = "reldepth_jax"
_FORMAT = 1
CUSTOM = "custom"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The arrays of a network, or of its encoder alone, with everything needed to use them."""

    model: ModelConfig
    part: Part = "network"
    preprocessing: Preprocessing
    arrays: Arrays
    provenance: Mapping[str, str]

    @property
    def architecture(self) -> str:
        """Name of the preset or encoder that this is, or "custom"."""
        for name in presets.names():
            preset = presets.get(name)
            if preset.part == self.part and _function(preset.model) == _function(self.model):
                return name
        return CUSTOM

    @property
    def dead_parameters(self) -> int:
        """How many parameters of the published file take no part in the output."""
        name = self.architecture
        dead = presets.get(name).dead if name != CUSTOM else {}
        return sum(map(math.prod, dead.values()))

    @property
    def meaning(self) -> str:
        """What the network's output means, in words."""
        if self.part == "encoder":
            return "features, no depth"
        return (
            "larger is farther (depth-like)"
            if self.model.output == "depth"
            else "larger is nearer (inverse depth)"
        )


def _function(model: ModelConfig) -> ModelConfig:
    """Return the configuration without what does not change the function of given weights."""
    return dataclasses.replace(model, dtype="float32", init="gaussian")


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a safetensors file that `write` made, whole or damaged."""
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    return start[8:9] == b"{" and f'"{_KEY}"'.encode() in start


def write(path: str | os.PathLike[str], weights: Weights) -> None:
    """Write the file whole or not at all.

    Raises WeightsError if the path is a directory.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: is a directory; name a file in it, as network.safetensors")
    facts = {
        "format": _FORMAT,
        "version": reldepth_jax.__version__,
        "architecture": weights.architecture,
        "part": weights.part,
        "model": _model_to_dict(weights.model),
        "preprocessing": weights.preprocessing.to_dict(),
        "larger_is": "farther" if weights.model.output == "depth" else "nearer",
        "provenance": dict(weights.provenance),
    }
    data = safetensors.numpy.save(weights.arrays, {_KEY: json.dumps(facts)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(data)


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a file that `write` made; strict about keys and shapes.

    Raises WeightsError with one line for anything else.
    """
    held = read_tensors(path)
    text = held.metadata.get(_KEY)
    if text is None:
        raise WeightsError(
            f"{path}: holds weights in another program's layout; convert them first:"
            f" reldepth convert {path} OUT.safetensors"
        )
    try:
        facts = json.loads(text)
        if facts["format"] > _FORMAT:
            raise WeightsError(
                f"{path}: written by reldepth_jax {facts['version']}, which is newer; update"
            )
        part, provenance = facts["part"], facts["provenance"]
        model = _model_from_dict(facts["model"])
        preprocessing = Preprocessing.from_dict(facts["preprocessing"])
        if part not in ("network", "encoder") or not isinstance(provenance, dict):
            raise ValueError(f"part {part!r}, provenance {type(provenance).__name__}")
        if preprocessing.multiple % model.multiple:
            raise ValueError(
                f"preprocessing.multiple {preprocessing.multiple}, which is none of"
                f" {model.encoder.name}'s {model.multiple}"
            )
    except WeightsError:
        raise
    except UserError as error:
        raise WeightsError(f"{path}: its metadata: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its metadata cannot be read: {type(error).__name__}: {error}"
        ) from None
    mismatch = compare(held.tensors, shapes(model, part))
    if mismatch:
        raise WeightsError(
            f"{path}: does not hold the network that its metadata names:\n  {mismatch}"
        )
    return Weights(
        model=model,
        part=part,
        preprocessing=preprocessing,
        arrays=held.tensors,
        provenance={str(key): str(value) for key, value in provenance.items()},
    )


def _model_to_dict(model: ModelConfig) -> dict[str, Any]:
    return config_module.to_dict(Config(model=model))["model"]


def _model_from_dict(values: Any) -> ModelConfig:
    return config_module.from_dict({"model": values}).model
