"""Between our arrays and the files of published networks: strict in both directions."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reldepth_jax.weights import presets
from reldepth_jax.weights.arrays import Arrays, shapes
from reldepth_jax.weights.presets import Preset
from reldepth_jax.weights.tensors import WeightsError

_COUNTER = "num_batches_tracked"


class Mismatch(NamedTuple):
    """What keeps a file from being the weights of a network; all empty: nothing."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        parts = [
            f"{len(keys)} {what}: {', '.join(keys)}"
            for what, keys in self._asdict().items()
            if keys
        ]
        return "\n  ".join(parts)


def from_published(
    tensors: Mapping[str, np.ndarray], name: str | None = None
) -> tuple[Preset, Arrays]:
    """Return which network the tensors of a file belong to, and its arrays under our names.

    Arrays that the network never uses, batch counters and classifiers are left out.

    Args:
      name: of a preset or encoder; None: found by the keys and shapes.

    Raises WeightsError with all missing, unexpected and mis-shaped keys, or if no network fits.
    """
    if name is not None:
        preset = presets.get(name)
        rename, mismatch = _closest(tensors, preset)
        if mismatch:
            fitting = _nearest(tensors)
            but = f" but of {fitting[0].name}" if fitting and not fitting[2] else ""
            raise WeightsError(f"not the weights of {name}{but}:\n  {mismatch}")
    else:
        preset, rename = _guess(tensors)
    ours = shapes(preset.model, preset.part)
    return preset, {key: tensors[rename(key)] for key in ours}


def to_published(arrays: Mapping[str, np.ndarray], preset: Preset) -> Arrays:
    """Return the tensors that the original's strict loading expects, in torch's axes.

    Arrays that the network never uses are zeros, and so are batch counters.
    """
    rename = preset.key_maps[0]
    tensors = {rename(key): np.asarray(value) for key, value in arrays.items()}
    tensors |= {key: np.zeros(shape, np.float32) for key, shape in preset.dead.items()}
    for key in list(tensors):
        if key.endswith("running_var"):
            tensors[key.removesuffix("running_var") + _COUNTER] = np.zeros((), np.int64)
    return tensors


def compare(
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, Sequence[int]],
    optional: Mapping[str, Sequence[int]] | None = None,
    superfluous: Sequence[str] = (),
) -> Mismatch:
    """Return how the keys and shapes differ from those expected; batch counters do not matter."""
    optional = optional or {}
    known = {**expected, **optional}
    unexpected = [
        key
        for key in tensors
        if key not in known
        and key.rsplit(".", 1)[-1] != _COUNTER
        and not key.startswith(tuple(superfluous))
    ]
    misshaped = [
        f"{key} {tensors[key].shape}, expected {tuple(shape)}"
        for key, shape in known.items()
        if key in tensors and tensors[key].shape != tuple(shape)
    ]
    return Mismatch([key for key in expected if key not in tensors], unexpected, misshaped)


def _closest(
    tensors: Mapping[str, np.ndarray], preset: Preset
) -> tuple[Callable[[str], str], Mismatch]:
    """Return the way of naming of `preset` that fits best, and what does not fit."""
    ours = shapes(preset.model, preset.part)

    def differ(rename: Callable[[str], str]) -> Mismatch:
        theirs = {rename(key): shape for key, shape in ours.items()}
        return compare(tensors, theirs, preset.dead, preset.superfluous)

    found = [(rename, differ(rename)) for rename in preset.key_maps]
    return min(found, key=lambda pair: sum(map(len, pair[1])))


def _guess(tensors: Mapping[str, np.ndarray]) -> tuple[Preset, Callable[[str], str]]:
    nearest = _nearest(tensors)
    if nearest is None:
        raise WeightsError(f"no known network has these keys; known: {', '.join(presets.names())}")
    preset, rename, mismatch = nearest
    if mismatch:
        raise WeightsError(
            f"no known network fits; the nearest is {preset.name}, with\n  {mismatch}"
        )
    return preset, rename


def _nearest(
    tensors: Mapping[str, np.ndarray],
) -> tuple[Preset, Callable[[str], str], Mismatch] | None:
    """Return the network that fits best, None if the keys are not those of any."""
    found = []
    for preset in map(presets.get, presets.names()):
        if _could_be(tensors, preset):
            found.append((preset, *_closest(tensors, preset)))
            # The rest need not be built.
            if not found[-1][2]:
                return found[-1]
    return min(found, key=lambda each: sum(map(len, each[2])), default=None)


def _could_be(tensors: Mapping[str, np.ndarray], preset: Preset) -> bool:
    """Return whether the first and last convolution are there: quicker than all shapes."""
    front = "encoder." if preset.part == "network" else ""
    first = [f"{front}{stem}.weight" for stem in ("conv1", "conv_stem")]
    last = ["head.conv1.weight"] if front else first
    return any(
        any(rename(key) in tensors for key in first) and any(rename(key) in tensors for key in last)
        for rename in preset.key_maps
    )
