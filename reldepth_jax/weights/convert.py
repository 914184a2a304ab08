"""From whatever holds weights to ours, and back to what the original's code loads."""

import hashlib
import json
import os
import pathlib

import reldepth_jax
from reldepth_jax.weights import packages, presets, published
from reldepth_jax.weights.arrays import Arrays
from reldepth_jax.weights.file import CUSTOM, Weights
from reldepth_jax.weights.tensors import WeightsError, read_tensors


def from_file(path: str | os.PathLike[str], name: str | None = None) -> Weights:
    """Read a published file (torch or safetensors), or `pretrained:NAME` of a package.

    Args:
      name: of the preset or encoder that it holds; None: found by the keys and shapes.

    Raises WeightsError with all that is missing, unexpected or mis-shaped.
    """
    text = os.fspath(path)
    if text.startswith(packages.PREFIX):
        encoder = text.removeprefix(packages.PREFIX)
        path, name = packages.locate(encoder), name or encoder
    held = read_tensors(path)
    try:
        preset, arrays = published.from_published(held.tensors, name)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    return Weights(
        model=preset.model,
        part=preset.part,
        preprocessing=preset.preprocessing,
        arrays=arrays,
        provenance={
            "file": pathlib.Path(path).name,
            "sha256": _digest(path),
            "source": preset.source,
            "licence": preset.licence,
            "paper": preset.paper,
            "converted": f"by reldepth_jax {reldepth_jax.__version__}",
        },
    )


def to_torch(weights: Weights) -> Arrays:
    """Return the tensors for the original's code, or under our own names if there is none."""
    architecture = weights.architecture
    if architecture == CUSTOM:
        return dict(weights.arrays)
    return published.to_published(weights.arrays, presets.get(architecture))


def told(weights: Weights) -> dict[str, str]:
    """Return the metadata of a file for the original's code: what it is and where it is from."""
    facts = {
        "architecture": weights.architecture,
        "output": weights.meaning,
        "preprocessing": weights.preprocessing.to_dict(),
        "provenance": dict(weights.provenance),
    }
    # One entry: several would be written in an order that varies.
    return {"about": json.dumps(facts)}


def _digest(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
