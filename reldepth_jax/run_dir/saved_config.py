"""The configuration that a run directory was begun with, and what a continuation may change."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from reldepth_jax.config import Config, from_dict, to_dict
from reldepth_jax.config.serialisation import plain
from reldepth_jax.data.fingerprint import fingerprint
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.manifest import sync
from reldepth_jax.types import Source

_DATA = "data_fingerprint"


class RunError(UserError):
    """A run directory that cannot be used, in one line."""


def load_config(folder: pathlib.Path) -> Config | None:
    """Return the configuration saved in a run directory, None if there is none."""
    values = _load(folder)
    if values is None:
        return None
    try:
        return from_dict({name: value for name, value in values.items() if name != _DATA})
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / layout.CONFIG} cannot be read: {error}") from error


def save_config(folder: pathlib.Path, config: Config, sources: Sequence[Source] = ()) -> None:
    """Write the resolved configuration and the fingerprint of the data, whole or not at all."""
    values = to_dict(config) | {_DATA: [fingerprint(source) for source in sources]}
    text = json.dumps(values, indent=2)
    temporary = folder / f"{layout.CONFIG}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / layout.CONFIG)
    sync(folder)


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
            f"training data: {_listed(one)} -> {_listed(other)}"
            for one, other in zip(before, after, strict=False)
            # Prepared shards have no names to compare.
            if any(one[fact] != other[fact] for fact in one.keys() & other.keys())
        ]
    if changed:
        raise RunError(
            f"{folder} holds a run with another configuration: {'; '.join(changed)}."
            " Choose another --workdir, or undo the change"
        )


def _listed(facts: dict[str, Any]) -> str:
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
    """Return the changed fields that a continued run must not change, as `path: old -> new`.

    The schema says which may change: none that affects the computed numbers, except train.steps,
    which prolongs the schedule.
    """
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        path, rule = prefix + field.name, field.metadata
        if rule.get("resume") == "free":
            continue
        if dataclasses.is_dataclass(before):
            yield from _differences(before, after, f"{path}.")
        elif _are_groups(before) and _are_groups(after) and len(before) == len(after):
            for position, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _differences(one, other, f"{path}.{position}.")
        else:
            registry, free = rule.get("registry"), rule.get("free_options", ())
            before, after = ({path: plain(value, registry)} for value in (before, after))
            if registry is not None:
                # Of plug-ins, each option.
                before, after = (
                    {f"{path}.{k}": v for k, v in (value[path] or {}).items() if k not in free}
                    for value in (before, after)
                )
            for name in before | after:
                if before.get(name) != after.get(name):
                    yield f"{name}: {before.get(name)} -> {after.get(name)}"


def _are_groups(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(dataclasses.is_dataclass, value))
