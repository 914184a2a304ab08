"""The commit record of a checkpoint: what must be there, and its SHA-256, array by array.

Digests find accidents (flipped bits, lost writes), not an attacker who can write the record too.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reldepth_jax import failpoints

SCHEMA = 1


class NewerSchemaError(ValueError):
    """A record that a later version wrote: nothing is wrong with it."""


@dataclasses.dataclass(frozen=True)
class CommitRecord:
    """One saved step."""

    step: int
    arrays: Mapping[str, tuple[tuple[int, ...], str, str]]
    """Path in the state -> shape, dtype, SHA-256 of the values."""
    facts: Mapping[str, Any]
    """What the caller wants to know again: scores, counters, versions; plain values."""
    schema: int = SCHEMA

    @property
    def score(self) -> float | None:
        """Validation WHDR of this state; lower is better, None if it was not measured."""
        score = self.facts.get("whdr")
        return score if isinstance(score, float) else None


def describe(state: Any) -> dict[str, tuple[tuple[int, ...], str, str]]:
    """Return path -> shape, dtype and SHA-256 for the arrays of a state on the host."""
    return {
        # As bytes: bfloat16 offers no buffer of its own.
        path: (
            *signature,
            hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest(),
        )
        for path, (signature, array) in _arrays(state).items()
    }


def signatures(state: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return path -> shape and dtype for arrays or abstract arrays."""
    return {path: signature for path, (signature, _) in _arrays(state).items()}


def _arrays(state: Any) -> dict[str, tuple[tuple[tuple[int, ...], str], Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {
        jax.tree_util.keystr(path): ((tuple(leaf.shape), str(leaf.dtype)), leaf)
        for path, leaf in leaves
    }


def write_record(path: pathlib.Path, record: CommitRecord) -> None:
    """Write the record whole and durably, or not at all."""
    content = json.dumps(dataclasses.asdict(record), indent=1)
    # The digest of the record itself: a flipped bit in a number would still be a number.
    seal = hashlib.sha256(content.encode()).hexdigest()
    temporary = path.with_suffix(".json.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f"{content}\n{seal}\n")
        file.flush()
        os.fsync(file.fileno())
    failpoints.reach("commit.written")
    os.replace(temporary, path)
    failpoints.reach("commit.renamed")
    sync_folder(path.parent)
    failpoints.reach("commit.done")


def read_record(path: pathlib.Path) -> CommitRecord:
    """Return the record.

    Raises NewerSchemaError if this version cannot read it, ValueError with the reason if it is
    damaged.
    """
    try:
        content, seal = path.read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)
    except OSError as error:
        raise ValueError(f"its record {path.name} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"its record {path.name} is damaged") from None
    if hashlib.sha256(content.encode()).hexdigest() != seal:
        raise ValueError(f"its record {path.name} is damaged")
    values = json.loads(content)
    if values["schema"] > SCHEMA:
        raise NewerSchemaError(
            f"its record {path.name} is of schema {values['schema']}, this version reads {SCHEMA};"
            " update reldepth_jax"
        )
    values["arrays"] = {
        name: (tuple(shape), dtype, digest)
        for name, (shape, dtype, digest) in values["arrays"].items()
    }
    return CommitRecord(**values)


def sync_tree(folder: pathlib.Path) -> None:
    """Make every file and folder below durable: Orbax leaves some of its files unsynced."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Make names in a folder durable."""
    _sync(os.fspath(folder))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
