"""What is known of a published network beside its weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile

Names = str | tuple[str, ...]
"""Of an array, or of several that are ours if they are put one below the other."""
KeyMap = Callable[[str], Names]
"""From our name of an array, as torch would spell it (`encoder.bn1.running_mean`), to theirs."""


def parts(names: Names) -> tuple[str, ...]:
    """Return the names of all arrays that ours is made of."""
    return (names,) if isinstance(names, str) else names


def same(key: str) -> str:
    """Return the key: the original has the same names."""
    return key


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A network as its authors published it, or an encoder alone."""

    name: str
    model: ModelConfig
    part: Literal["network", "encoder"] = "network"
    """What a file of weights holds. The keys of an encoder have no `encoder.` in front."""
    key_maps: tuple[KeyMap, ...] = (same,)
    """How published files call our arrays; the first, without parts, is what we write."""
    dead: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Arrays of published files, with their shapes in torch, that take no part in the output."""
    superfluous: tuple[str, ...] = ()
    """Beginnings of further keys that a file may have: classifiers."""
    layout: str = ""
    """What the presets share whose files have the same keys and shapes: which one a file holds must
    be said. Empty: no other preset's files have these."""
    preprocessing: Preprocessing = Preprocessing()
    files: tuple[PublicFile, ...] = ()
    """The public weights, which users get by name. The names of the files tell presets with one
    layout apart."""
    ordinal: bool = False
    """Whether it was trained to order points, so that the spacing of its values means nothing."""
    source: str
    """Whose they are, and where there are others; or why there are none."""
    licence: str
    """Of the public weights."""
    paper: str


def substitute(key: str, prefixes: Mapping[str, str]) -> str:
    """Return `key` with the first matching beginning replaced; whole components only."""
    for ours, theirs in prefixes.items():
        if key == ours or key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    return key
