"""Monocular relative depth by ranking pixel pairs, in JAX and Flax.

`reldepth_jax.types` states axes, units and signs once for the whole package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reldepth_jax.inference.depth_estimation import (
        DepthEstimation,
        DepthEstimationPipeline,
        pipeline,
    )
    from reldepth_jax.inference.networks import Model, load_model, save_model
    from reldepth_jax.inference.order import Order

__all__ = [
    "DepthEstimation",
    "DepthEstimationPipeline",
    "Model",
    "Order",
    "load_model",
    "pipeline",
    "save_model",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Only when used: importing JAX takes longer than telling a mistake in a configuration.
    if name in __all__:
        from reldepth_jax.inference import depth_estimation, networks, order

        for module in (networks, depth_estimation, order):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
