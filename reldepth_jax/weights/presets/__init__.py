"""Published networks, one file each: configuration, names in the original's files, facts.

Imports no JAX: configurations start from them, `Config(model=presets.get("midas_v21").model)`.
"""

from reldepth_jax.registry import ENCODERS, PRESETS
from reldepth_jax.weights.presets.base import KeyMap, Preset
from reldepth_jax.weights.presets.encoders import encoder_preset

__all__ = ["KeyMap", "Preset", "get", "names"]


def get(name: str) -> Preset:
    """Return a published network or an encoder by name.

    Raises ValueError with the nearest name if there is none.
    """
    return encoder_preset(name) if name in ENCODERS.entries else PRESETS.create(name)


def names() -> list[str]:
    """Return the names of all networks, then of all encoders."""
    return [*PRESETS.entries, *ENCODERS.entries]
