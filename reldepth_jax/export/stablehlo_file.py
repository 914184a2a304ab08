"""A network as one file of StableHLO, for programs with JAX: `jax.export.deserialize`.

The function takes and gives what an ONNX file does (`onnx_file`), on CPU and on CUDA. The weights
are inside. What the file cannot say of itself stands in a JSON file beside it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from reldepth_jax import runtime
from reldepth_jax.errors import require
from reldepth_jax.export import traced
from reldepth_jax.export.verification import largest_error
from reldepth_jax.inference.networks import Model

PLATFORMS = ("cpu", "cuda")


def export(model: Model) -> tuple[bytes, float]:
    """Return the file, and its largest error on this machine (`verification.largest_error`).

    Raises ExportError if the error is too large, UserError without flatbuffers.
    """
    require("export", "flatbuffers")
    model = traced.in_float32(model)
    with runtime.for_any_device():
        network = traced.function(model)

        def depth(image: jax.Array) -> jax.Array:
            return network(jnp.moveaxis(image, 1, 3))

        data = serialised(depth, model.config.multiple)
    return data, largest_error(model, runner(data))


def serialised(function: Any, multiple: int) -> bytes:
    """Return the file of a function of images (b, 3, h, w), h and w multiples."""
    image = traced.image(multiple, channels_first=True)
    made = jax_export.export(jax.jit(function), platforms=PLATFORMS)(image)
    return bytes(made.serialize())


def runner(data: bytes) -> Any:
    """Return the function of a file, compiled for each new size."""
    return jax.jit(jax_export.deserialize(bytearray(data)).call)
