"""Published networks, one file each: configuration, names in the original's files, facts.

Imports no JAX: configurations start from them, `Config(model=presets.get("midas_v21").model)`.
"""

from reldepth_jax.weights.presets.base import Preset, get, names

__all__ = ["Preset", "get", "names"]
