"""Files of weights of this package: safetensors that say what they hold.

Keys and axes are those of `weights.arrays`; the metadata entry `reldepth_jax` is JSON with
architecture, configuration of the model, preprocessing, sign of the output and provenance.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import safetensors.numpy

import reldepth_jax
from reldepth_jax import checked_json
from reldepth_jax import config as config_module
from reldepth_jax.checked_json import (
    JsonError,
    anything,
    each,
    fields,
    number,
    one_of,
    optional,
    text,
    whole,
)
from reldepth_jax.config import Config, ModelConfig
from reldepth_jax.config.serialisation import model_from_dict
from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError, printable
from reldepth_jax.types import LARGER_IS
from reldepth_jax.weights import presets
from reldepth_jax.weights.arrays import Arrays, Part, compare, shapes
from reldepth_jax.weights.tensors import Outlines, WeightsError, is_regular, read_tensors

_KEY = "reldepth_jax"
_FORMAT = 1
CUSTOM = "custom"
_ANY_FORMAT = fields({"format": whole(1), "version": text(100)}, others=True)
_FACTS = fields(
    {
        "format": whole(1, _FORMAT),
        "version": text(100),
        "architecture": text(100),
        "part": one_of("network", "encoder"),
        # Looked at by the classes that they are of.
        "model": each(anything),
        "preprocessing": each(anything),
        "larger_is": one_of(*LARGER_IS.values()),
        "unit": optional(one_of("metre")),
        "temperature": optional(number()),
        "provenance": each(text(10_000)),
    }
)
_STEP = re.compile("[0-9]{1,15}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The arrays of a network, or of its encoder alone, with everything needed to use them."""

    model: ModelConfig
    part: Part = "network"
    preprocessing: Preprocessing
    arrays: Arrays
    provenance: Mapping[str, str]
    temperature: float | None = None
    """Of the confidence, in units of the output (`metrics.confidence`); None: not fitted."""

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
    def unit(self) -> Literal["metre"] | None:
        """The unit of the network's output; None: it has none."""
        return unit_of(self.model, self.provenance)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all arrays, as float32, and their names.

        The same arrays with `ModelConfig.mirrored` have others: their output is another.
        """
        found = hashlib.sha256(b"mirrored" if self.model.mirrored else b"")
        for name, array in sorted(self.arrays.items()):
            array = np.ascontiguousarray(array, np.float32)
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(array.data)
        return found.hexdigest()[:16]

    @property
    def meaning(self) -> str:
        """What the network's output means, in words."""
        if self.part == "encoder":
            return "features, no depth"
        if self.unit:
            return f"larger is farther (depth in {self.unit}s)"
        return (
            "larger is farther (depth-like)"
            if self.model.output == "depth"
            else "larger is nearer (inverse depth)"
        )


def _function(model: ModelConfig) -> ModelConfig:
    """Return the configuration without what does not change what given weights are for."""
    return dataclasses.replace(model, dtype="float32", init="gaussian", mirrored=False)


def unit_of(model: ModelConfig, provenance: Mapping[str, str]) -> Literal["metre"] | None:
    """Return the unit of a network's output, None if it has none.

    No loss here knows a scale: what was trained here has lost its unit.
    """
    return "metre" if model.max_depth and "run" not in provenance else None


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a safetensors file that `write` made, whole or damaged."""
    try:
        if not is_regular(path):
            return False
        with open(path, "rb") as file:
            start = file.read(1 << 16)
    except OSError:
        return False
    return start[8:9] == b"{" and f'"{_KEY}"'.encode() in start


def write(path: str | os.PathLike[str], weights: Weights, *, half: bool = False) -> None:
    """Write the file whole or not at all.

    With `half` numbers are stored as float16: half the size, and an error of at most 2^-11 of each
    weight. Numbers that float16 cannot hold are refused.

    Raises WeightsError if the path is a directory.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise WeightsError(f"{path}: is a directory; name a file in it, as network.safetensors")
    arrays = weights.arrays
    if half:
        with np.errstate(over="ignore"):
            arrays = {key: array.astype(np.float16) for key, array in arrays.items()}
        if lost := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
            raise WeightsError(f"{path}: float16 cannot hold {', '.join(lost[:3])}: leave it out")
    data = safetensors.numpy.save(arrays, {_KEY: json.dumps(metadata(weights))})
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(data)


def metadata(weights: Weights) -> dict[str, Any]:
    """Return what a file says of itself, for JSON."""
    return {
        "format": _FORMAT,
        "version": reldepth_jax.__version__,
        "architecture": weights.architecture,
        "part": weights.part,
        "model": _model_to_dict(weights.model),
        "preprocessing": weights.preprocessing.to_dict(),
        "larger_is": LARGER_IS[weights.model.output],
        **({"unit": weights.unit} if weights.unit else {}),
        **({} if weights.temperature is None else {"temperature": weights.temperature}),
        "provenance": dict(weights.provenance),
    }


def read(path: str | os.PathLike[str]) -> Weights:
    """Read a file that `write` made; strict about metadata, keys and shapes.

    Raises WeightsError with one line for anything else.
    """
    name = printable(path)
    made: list[Weights] = []

    def wanted(outlines: Outlines, metadata: Mapping[str, str]) -> list[str]:
        said = metadata.get(_KEY)
        if said is None:
            raise WeightsError(
                f"{name}: holds weights in another program's layout; convert them first:"
                f" reldepth convert {name} OUT.safetensors"
            )
        try:
            made.append(_described(said))
            expected = shapes(made[0].model, made[0].part)
        except WeightsError as error:
            raise WeightsError(f"{name}: {error}") from None
        except UserError as error:
            raise WeightsError(f"{name}: its metadata: {printable(str(error))}") from None
        except Exception as error:
            # Numbers that no network can have make its layers raise what they like.
            reason = f"{type(error).__name__}: {printable(str(error)[:200])}"
            raise WeightsError(f"{name}: its metadata cannot be used: {reason}") from None
        mismatch = compare(outlines, expected)
        if mismatch:
            raise WeightsError(
                f"{name}: does not hold the network that its metadata names:\n  {mismatch}"
            )
        return list(expected)

    held = read_tensors(path, wanted, as_named=True)
    return dataclasses.replace(made[0], arrays=held.tensors)


def _described(content: str) -> Weights:
    """Return what the metadata say, without arrays; raises UserError if they are wrong."""
    try:
        first = checked_json.parse(content, _ANY_FORMAT)
        if first["format"] > _FORMAT:
            raise WeightsError(
                f"written by reldepth_jax {printable(first['version'])}, which is newer; update"
            )
        facts = _FACTS(first)
    except JsonError as error:
        raise WeightsError(f"its metadata cannot be read: {error}") from None
    weights = Weights(
        model=model_from_dict(facts["model"]),
        part=facts["part"],
        preprocessing=Preprocessing.from_dict(facts["preprocessing"]),
        arrays={},
        provenance={printable(key): printable(v) for key, v in facts["provenance"].items()},
        temperature=facts.get("temperature"),
    )
    if weights.temperature is not None and weights.temperature <= 0:
        raise WeightsError(f"its metadata: temperature: must be above 0, got {weights.temperature}")
    if weights.part == "network" and weights.preprocessing.multiple % weights.model.multiple:
        raise WeightsError(
            f"its metadata: preprocessing.multiple {weights.preprocessing.multiple}, which is none"
            f" of {weights.model.encoder.name}'s {weights.model.multiple}"
        )
    if facts["larger_is"] != LARGER_IS[weights.model.output]:
        raise WeightsError(
            f"its metadata contradict each other: larger_is {facts['larger_is']}, model.output"
            f" {weights.model.output}"
        )
    if facts.get("unit") != weights.unit:
        raise WeightsError(
            f"its metadata contradict each other: unit {facts.get('unit') or 'none'}, of the model"
            f" {weights.unit or 'none'}"
        )
    if not _STEP.fullmatch(weights.provenance.get("step", "0")):
        raise WeightsError(
            "its metadata: provenance.step: expected a whole number, got"
            f" '{weights.provenance['step'][:40]}'"
        )
    return weights


def _model_to_dict(model: ModelConfig) -> dict[str, Any]:
    return config_module.to_dict(Config(model=model))["model"]
