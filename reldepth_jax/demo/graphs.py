"""ONNX of the package's network without its weights, which lie in the package once already.

A graph names the places of its kernels in a second file: all arrays of the network as float16, one
after the other by name. It is called by the digest of the network that it belongs to.
"""

import pathlib

import numpy as np

from reldepth_jax.inference.networks import Model

FOLDER = pathlib.Path(__file__).with_name("graph")
ARRAYS = "network.bin"
"""The second file; the graphs name it."""


def path_of(model: Model) -> pathlib.Path:
    """Return where the graph of this network lies, if there is one."""
    return FOLDER / f"{model.digest}.onnx"


def arrays(model: Model) -> tuple[bytes, dict[bytes, int]]:
    """Return the second file, and where in it the bytes of each array begin.

    Exact for a network whose file has float16, as that of the package.
    """
    held = model.weights().arrays
    parts = [held[name].astype("<f2").tobytes() for name in sorted(held)]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return b"".join(parts), dict(zip(parts, starts, strict=False))
