"""The configuration that a run directory was begun with, and what a continuation may change."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from reldepth_jax.checked_json import (
    JsonError,
    anything,
    each,
    fields,
    optional,
    parse,
    sequence,
    whole,
)
from reldepth_jax.config import Config, from_dict, to_dict
from reldepth_jax.config.serialisation import plain
from reldepth_jax.data.fingerprint import fingerprint
from reldepth_jax.data.selection import ORDER
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.manifest import read_manifest, sync
from reldepth_jax.types import Source

_DATA = "data_fingerprint"
_ORDER = "order"
_FIELDS = fields(
    {_DATA: optional(sequence(each(anything))), _ORDER: optional(whole(1))}, others=True
)


class RunError(UserError):
    """A run directory that cannot be used, in one line."""


def describe(config: Config, sources: Sequence[Source] = (), order: int = ORDER) -> dict[str, Any]:
    """Return the resolved configuration, the data's fingerprint and the order as plain values.

    They are what the file of the configuration holds, and each manifest under `config`.
    """
    data = [fingerprint(source) for source in sources]
    return to_dict(config) | {_DATA: data, _ORDER: order}


def load_config(folder: pathlib.Path) -> Config | None:
    """Return the configuration of a run directory, None if there is none.

    A file that is missing or empty is replaced by what the checkpoints hold. Raises RunError if it
    is damaged, or not that of the checkpoints.
    """
    values, _ = read_config(folder)
    if values is None:
        return None
    path = folder / layout.CONFIG
    config = _from_values(values, path)
    step, sealed = _sealed(folder)
    if sealed is not None and sealed is not values:
        changed = differences(_from_values(sealed, layout.manifest(path.parent, step)), config)
        if changed:
            raise RunError(
                f"{path} is not the configuration of the checkpoint of step {step}:"
                f" {'; '.join(changed)}. Delete the file: the checkpoint holds it too"
            )
    return config


def read_config(folder: pathlib.Path) -> tuple[dict[str, Any] | None, str]:
    """Return `describe` of a run directory as it stands there, and what is lost of it, in words.

    None if there is nothing. Raises RunError if the file is damaged or the system does not let it
    be read.
    """
    path = folder / layout.CONFIG
    step, sealed = _sealed(folder)
    held = f"the checkpoint of step {step} holds it too"
    try:
        # A machine that loses power may leave a file of zeros.
        text = path.read_bytes().strip(b"\0 \t\r\n")
    except FileNotFoundError:
        text = None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if text:
        try:
            return parse(text, _FIELDS), ""
        except JsonError as error:
            remedy = f"Delete it: {held}" if sealed is not None else "Put it back from a copy"
            raise RunError(f"{path} cannot be read: {error}. {remedy}") from error
    lost = f"{layout.CONFIG} is {'missing' if text is None else 'empty'}"
    if sealed is not None:
        return sealed, f"{lost}; {held}"
    if text is None and not layout.saved_steps(folder / layout.CHECKPOINTS):
        return None, ""
    return None, f"{lost}, and no checkpoint holds it: it is not known what the run began with"


def save_config(folder: pathlib.Path, config: Config, sources: Sequence[Source] = ()) -> None:
    """Write `describe` to its file, whole or not at all, unless it is there already."""
    path = folder / layout.CONFIG
    content = json.dumps(describe(config, sources, saved_order(folder)), indent=2) + "\n"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == content:
            return
    temporary = path.with_suffix(".json.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(folder)


def saved_order(folder: pathlib.Path) -> int:
    """Return the order (`data.selection.ORDER`) of the run in a directory, or of one begun now."""
    values, lost = read_config(folder)
    if values is None and not lost:
        return ORDER
    # Runs from before it was recorded are in the first one.
    order = (values or {}).get(_ORDER) or 1
    if order > ORDER:
        raise RunError(
            f"{folder / layout.CONFIG}: {_ORDER} is {order}, this version knows 1 to {ORDER};"
            " update reldepth_jax"
        )
    return order


def require_same(folder: pathlib.Path, config: Config, sources: Sequence[Source]) -> None:
    """Raise RunError if the directory holds a run with another configuration or other data."""
    old = load_config(folder)
    if old is None:
        return
    changed = differences(old, config)
    if not changed:
        before = (read_config(folder)[0] or {}).get(_DATA) or []
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


def _sealed(folder: pathlib.Path) -> tuple[int, dict[str, Any] | None]:
    """Return the newest saved step whose manifest holds the configuration, and that."""
    checkpoints = folder / layout.CHECKPOINTS
    for step in reversed(layout.saved_steps(checkpoints)):
        with contextlib.suppress(ValueError, OSError):
            values = read_manifest(layout.manifest(checkpoints, step), step).facts.get("config")
            if values is not None:
                return step, _FIELDS(values)
    return 0, None


def _from_values(values: dict[str, Any], path: pathlib.Path) -> Config:
    try:
        return from_dict({k: value for k, value in values.items() if k not in (_DATA, _ORDER)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
