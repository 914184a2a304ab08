"""The manifest of a checkpoint: the step, its arrays with a SHA-256 each, and some facts.

A step without a manifest is not saved. Digests find accidents (flipped bits, lost writes), not an
attacker, who can write the manifest too.
"""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from reldepth_jax import failpoints
from reldepth_jax.checked_json import (
    JsonError,
    anything,
    each,
    fields,
    number,
    optional,
    parse,
    sequence,
    text,
    whole,
)
from reldepth_jax.run_dir import layout

SCHEMA = 1
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE)
"""What keeps a file from being read that need not be damaged."""


class NewerSchemaError(ValueError):
    """A later version wrote the manifest: it is not damaged."""


def _array(value: Any) -> tuple[tuple[int, ...], str, str]:
    shape, dtype, digest = sequence(anything, 3)(value)
    return tuple(sequence(whole(0))(shape)), text(40)(dtype), text(64)(digest)


_FIELDS = fields(
    {
        "step": whole(0),
        "arrays": each(_array),
        "facts": fields(
            {
                "whdr": optional(number(0, 1)),
                "skipped": optional(whole(0)),
                "save_seconds": optional(number(0)),
            },
            others=True,
        ),
        "schema": whole(1),
    }
)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One saved step."""

    step: int
    arrays: Mapping[str, tuple[tuple[int, ...], str, str]]
    """Path in the state -> shape, dtype, SHA-256 of the values."""
    facts: Mapping[str, Any]
    """Plain values beside the arrays: `whdr` of the validation, counters, versions."""
    schema: int = SCHEMA

    @property
    def validation_whdr(self) -> float | None:
        """Validation WHDR of this state; lower is better, None if it was not measured."""
        whdr = self.facts.get("whdr")
        return whdr if isinstance(whdr, float) else None


def describe(state: Any) -> dict[str, tuple[tuple[int, ...], str, str]]:
    """Return path -> shape, dtype and SHA-256 for the arrays of a state on the host."""
    return {
        # As bytes: bfloat16 offers no buffer of its own.
        path: (*signature, _sha256(np.ascontiguousarray(array).view(np.uint8).data))
        for path, (signature, array) in _arrays(state).items()
    }


def signatures(state: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return path -> shape and dtype for arrays or abstract arrays."""
    return {path: signature for path, (signature, _) in _arrays(state).items()}


def write_manifest(path: pathlib.Path, manifest: Manifest) -> None:
    """Write the manifest whole and durably, or not at all."""
    content = json.dumps(dataclasses.asdict(manifest), indent=1)
    temporary = layout.mark(path.parent, manifest.step)
    with open(temporary, "w", encoding="utf-8") as file:
        # Its own digest too: a flipped bit in a number would still be a number.
        file.write(f"{content}\n{_sha256(content.encode())}\n")
        file.flush()
        os.fsync(file.fileno())
    failpoints.reach("commit.written")
    os.replace(temporary, path)
    failpoints.reach("commit.renamed")
    sync(path.parent)
    failpoints.reach("commit.done")


def read_manifest(path: pathlib.Path, step: int) -> Manifest:
    """Return the manifest of a step.

    Raises OSError if the system does not let it be read, NewerSchemaError if this version cannot,
    ValueError with the reason if it is damaged.
    """
    try:
        content, digest = path.read_text(encoding="utf-8").rstrip("\n").rsplit("\n", 1)
    except OSError as error:
        if error.errno in UNREADABLE:
            raise
        raise ValueError(f"its manifest {path.name} cannot be read: {error.strerror}") from None
    except ValueError:
        content, digest = "", ""
    if _sha256(content.encode()) != digest:
        raise ValueError(f"its manifest {path.name} is damaged")
    try:
        schema = parse(content, fields({"schema": whole(1)}, others=True))["schema"]
        if schema > SCHEMA:
            raise NewerSchemaError(
                f"its manifest {path.name} has schema {schema}, this version reads {SCHEMA};"
                " update reldepth_jax"
            )
        manifest = Manifest(**parse(content, _FIELDS))
    except JsonError as error:
        raise ValueError(f"its manifest {path.name} is damaged: {error}") from None
    if manifest.step != step:
        raise ValueError(f"its manifest is that of step {manifest.step}")
    return manifest


def sync(path: str | os.PathLike[str]) -> None:
    """Make a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: pathlib.Path) -> None:
    """Make every file and folder below durable: Orbax leaves some of its files unsynced."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(os.path.join(parent, name))
        sync(parent)


def _arrays(state: Any) -> dict[str, tuple[tuple[tuple[int, ...], str], Any]]:
    return {
        jax.tree_util.keystr(path): ((tuple(leaf.shape), str(leaf.dtype)), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()
