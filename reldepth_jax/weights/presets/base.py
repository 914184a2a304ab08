"""What is known of a published network beside its weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.public_files import PublicFile

KeyMap = Callable[[str], str]
"""From our name of an array, as torch would spell it (`encoder.bn1.running_mean`), to theirs."""


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
    """How published files call our arrays; the first is what we write."""
    dead: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Arrays of published files, with their shapes in torch, that take no part in the output."""
    superfluous: tuple[str, ...] = ()
    """Beginnings of further keys that a file may have: classifiers."""
    preprocessing: Preprocessing = Preprocessing()
    files: tuple[PublicFile, ...] = ()
    """The public weights, which users get by name."""
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
