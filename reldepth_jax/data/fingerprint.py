"""Whether the training data are still those that a run began with.

Names and numbers of samples, not contents: reading half a million files at every start would take
longer than what it protects from happens. Prepared shards give the number only.
"""

import hashlib
from typing import Any

from reldepth_jax.data.selection import names_of
from reldepth_jax.types import Source


def fingerprint(source: Source) -> dict[str, Any]:
    """Return how many samples a source has, and the SHA-256 of their names if it has names."""
    facts: dict[str, Any] = {"samples": len(source)}
    names = names_of(source)
    if names is not None:
        text = "\n".join(names).encode("utf-8", "surrogateescape")
        facts["names"] = hashlib.sha256(text).hexdigest()[:16]
    return facts


def name_of(source: Source, index: int) -> str:
    """Return the name of a sample in brackets after a space, empty if it has none."""
    names = names_of(source)
    return f" ({names[index]})" if names else ""
