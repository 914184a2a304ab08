"""Published networks, one file each: configuration, names in the original's files, facts.

Imports no JAX: configurations start from them, `Config(model=presets.get("midas_v21").model)`.
Encoders are defined with JAX, and imported when their public weights are asked for.
"""

from reldepth_jax.errors import UserError
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import ENCODERS, PRESETS, did_you_mean
from reldepth_jax.weights.presets.base import KeyMap, Preset
from reldepth_jax.weights.presets.encoders import encoder_preset

__all__ = ["IMAGENET", "KeyMap", "Preset", "get", "names", "public", "published"]

IMAGENET = "imagenet:"
"""In front of the name of an encoder's public weights."""


def get(name: str) -> Preset:
    """Return a published network or an encoder by name.

    Raises ValueError with the nearest name if there is none.
    """
    return encoder_preset(name) if name in ENCODERS.entries else PRESETS.create(name)


def names() -> list[str]:
    """Return the names of all networks, then of all encoders."""
    return [*PRESETS.entries, *ENCODERS.entries]


def published(name: str) -> tuple[Preset, PublicFile]:
    """Return the network and the file of `midas_v21`, or the encoder's of `imagenet:resnet50`.

    Raises UserError if there are no public weights of that name.
    """
    known = public(encoders=name.startswith(IMAGENET))
    if name in known:
        return known[name]
    if name in PRESETS.entries:
        raise UserError(f"{name}: no public weights ({get(name).source})")
    if name in ENCODERS.entries:
        raise UserError(
            f"{name} is an encoder, which gives no depth; a training can start from it:"
            f" --config.init_from={IMAGENET}{name}"
        )
    raise UserError(
        f"no public weights are called {name!r}.{did_you_mean(name, known)} There are"
        f" {', '.join(known)}"
    )


def public(*, encoders: bool) -> dict[str, tuple[Preset, PublicFile]]:
    """Return what is public of whole networks or of encoders, by the names that users give."""
    registry, front = (ENCODERS, IMAGENET) if encoders else (PRESETS, "")
    return {
        f"{front}{each.name}": (preset, each)
        for preset in map(get, registry.entries)
        for each in preset.files
    }
