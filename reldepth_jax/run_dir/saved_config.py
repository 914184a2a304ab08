"""The configuration that a run directory was begun with, and what a continuation may change."""

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from reldepth_jax import config as config_module
from reldepth_jax.config import Config
from reldepth_jax.data.fingerprint import fingerprint
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import layout
from reldepth_jax.types import Source

# What may change between a run and its continuation: none of it touches the computed numbers,
# except train.steps, which prolongs the schedule.
_FREE = {
    "data.workers", "data.threads", "data.prefetch", "data.timeout", "data.max_bad",
    "train.steps", "train.epochs", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "train.max_minutes",
    "train.grace_seconds", "train.max_skipped", "init_from", "init_part",
}  # fmt: skip

_PLACE = re.compile(r"data\..*\b(root|prepared)")
"""Where the same data lie: other in every session on a borrowed machine. The fingerprint tells."""

_DATA = "data_fingerprint"


class RunError(UserError):
    """A run directory that cannot be used, in one line."""


def load_config(folder: pathlib.Path) -> Config | None:
    """Return the configuration saved in a run directory, None if there is none."""
    values = _load(folder)
    if values is None:
        return None
    try:
        return config_module.from_dict(
            {name: value for name, value in values.items() if name != _DATA}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / layout.CONFIG} cannot be read: {error}") from error


def save_config(folder: pathlib.Path, config: Config, sources: Sequence[Source] = ()) -> None:
    """Write the resolved configuration and the fingerprint of the data, whole or not at all."""
    values = config_module.to_dict(config) | {_DATA: [fingerprint(source) for source in sources]}
    text = json.dumps(values, indent=2)
    temporary = folder / f"{layout.CONFIG}.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, folder / layout.CONFIG)


def require_same(folder: pathlib.Path, config: Config, sources: Sequence[Source]) -> None:
    """Raise RunError if the directory holds a run with another configuration or other data."""
    old = load_config(folder)
    if old is None:
        return
    changed = differences(old, config)
    if not changed:
        before = (_load(folder) or {}).get(_DATA, [])
        after = [fingerprint(source) for source in sources]
        changed = [
            f"training data: {_told(one)} -> {_told(other)}"
            for one, other in zip(before, after, strict=False)
            # Prepared shards have no names to compare.
            if any(one[fact] != other[fact] for fact in one.keys() & other.keys())
        ]
    if changed:
        raise RunError(
            f"{folder} holds a run with another configuration: {'; '.join(changed)}."
            " Choose another --workdir, or undo the change"
        )


def _told(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{value} {key}" if key == "samples" else f"{key} {value}" for key, value in facts.items()
    )


def _load(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / layout.CONFIG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def differences(old: Config, new: Config) -> list[str]:
    """Return the changed fields that a continued run must not change, as `path: old -> new`."""
    before, after = (_flat(config_module.to_dict(config)) for config in (old, new))
    return [
        f"{path}: {before.get(path)} -> {after.get(path)}"
        for path in sorted(before | after)
        if before.get(path) != after.get(path)
        and path not in _FREE
        and not _PLACE.fullmatch(path)
        and not path.startswith("eval.")
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
