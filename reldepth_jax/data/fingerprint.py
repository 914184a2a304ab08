"""Whether the training data are still those that a run began with.

Names and numbers of samples, not contents: reading half a million files at every start would take
longer than what it protects from happens. Prepared shards give the number only.
"""

import hashlib
from typing import Any

from reldepth_jax.data.reading.records import Selected, relative_name
from reldepth_jax.data.selection import Subset
from reldepth_jax.data.unreadable import Tolerant
from reldepth_jax.types import Source


def fingerprint(source: Source) -> dict[str, Any]:
    """Return how many samples a source has, and the SHA-256 of their names if it has names."""
    facts: dict[str, Any] = {"samples": len(source)}
    names = _names(source)
    if names is not None:
        text = "\n".join(names).encode("utf-8", "surrogateescape")
        facts["names"] = hashlib.sha256(text).hexdigest()[:16]
    return facts


def name_of(source: Source, index: int) -> str:
    """Return the name of a sample in brackets after a space, empty if it has none."""
    names = _names(source)
    return f" ({names[index]})" if names else ""


def _names(source: Any) -> list[str] | None:
    if isinstance(source, Tolerant):
        return _names(source.source)
    if isinstance(source, Subset):
        names = _names(source.source)
        return names and [names[index] for index in source.order[: source.size]]
    if hasattr(source, "names"):
        return source.names()
    records = getattr(source, "_records", None)
    positions = range(len(source))
    if isinstance(records, Selected):
        records, positions = records.records, records.positions
    paths = getattr(records, "images", None) or getattr(records, "paths", None)
    if not isinstance(paths, tuple):
        return None
    root = getattr(records, "root", "")
    return [relative_name(paths[int(index)], root) for index in positions]
