"""Configurations from files, overrides from the command line."""

import dataclasses
import pathlib
import re
import runpy
import traceback
import typing
from collections.abc import Mapping
from typing import Any, get_origin

from reldepth_jax.config import schema
from reldepth_jax.config.schema import Choice, Config, ConfigError, registry_of
from reldepth_jax.config.validation import (
    annotation,
    group_of_tuple,
    is_choice,
    lookup,
    tuple_items,
    unknown,
    validate,
)
from reldepth_jax.registry import did_you_mean


def load(path: str) -> Config:
    """Run a configuration file and return what its `get_config()` returns.

    `path` may end in `:variant`, which is passed to `get_config(variant)`. Raises ConfigError with
    file and line for a file that is missing or fails.
    """
    config = run_file(path, "get_config")
    try:
        validate(config)
    except ConfigError as error:
        raise ConfigError(f"{path.partition(':')[0]}: {error}") from None
    return config


def run_file(path: str, function: str) -> Any:
    """Run a Python file and return what its `function()` returns, or `function(variant)`.

    Raises ConfigError with file and line for a file that is missing or fails.
    """
    file, _, variant = path.partition(":")
    source = pathlib.Path(file)
    if not source.is_file():
        there = [str(p) for p in sorted(source.parent.glob("*.py"))]
        hint = did_you_mean(file, there) or f" Available: {', '.join(there) or 'none'}."
        raise ConfigError(f"no configuration file {file}.{hint}")
    try:
        get = runpy.run_path(file).get(function)
        if get is None:
            raise ConfigError(f"{file}: defines no function {function}()")
        return get(*[variant] if variant else [])
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ConfigError(f"{file}{where}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """Return the message, with the nearest field name for a misspelt keyword."""
    word = re.search(r"^(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    group = getattr(schema, word[1], None) if word else None
    if word is None or not dataclasses.is_dataclass(group):
        return f"{type(error).__name__}: {error}"
    names = [field.name for field in dataclasses.fields(group)]
    return f"{word[1]} has no field {word[2]!r}.{did_you_mean(word[2], names)}"


def override(config: Config, assignments: Mapping[str, str]) -> Config:
    """Return `config` with dotted paths set from text, e.g. `{"optim.learning_rate": "0.1"}`.

    Naming another plug-in (`loss.name=mae`) starts from that plug-in's default options.
    """
    # Names first: `--config.loss.sigma=… --config.loss.name=…` means the same in either order.
    for path, text in sorted(assignments.items(), key=lambda item: not item[0].endswith(".name")):
        config = _assign(config, path.split("."), text, path)
    return config


def _assign(node: Any, parts: list[str], text: str, path: str) -> Any:
    hints = typing.get_type_hints(type(node))
    head, *rest = parts
    if head not in hints:
        raise ConfigError(unknown(path, hints, head))
    value = getattr(node, head)
    if is_choice(hints[head]):
        new = _assign_choice(value, rest, text, path)
    elif group_of_tuple(hints[head]) is not None:
        new = _assign_item(value, rest, text, path)
    elif dataclasses.is_dataclass(value):
        if not rest:
            inner = typing.get_type_hints(type(value))
            raise ConfigError(f"{path} is a group; set one of {path}.{{{','.join(inner)}}}")
        new = _assign(value, rest, text, path)
    elif rest:
        raise ConfigError(f"{path}: {path.removesuffix('.' + '.'.join(rest))} has no fields")
    else:
        new = _parse(text, hints[head], path)
    return dataclasses.replace(node, **{head: new})


def _assign_item(items: tuple[Any, ...], rest: list[str], text: str, path: str) -> Any:
    """Set a field of one item of a tuple of groups, as in `data.mix.0.share`."""
    known = [str(position) for position in range(len(items))]
    if len(rest) < 2 or rest[0] not in known:
        raise ConfigError(
            f"{path}: name an item and one of its fields; items: {', '.join(known) or 'none'}"
        )
    position = int(rest[0])
    new = _assign(items[position], rest[1:], text, path)
    return (*items[:position], new, *items[position + 1 :])


def _assign_choice(choice: Choice | None, rest: list[str], text: str, path: str) -> Choice:
    kind = registry_of(path if not rest else path.rsplit(".", len(rest))[0])
    if rest in ([], ["name"]):
        lookup(kind, text, path)
        return choice if choice is not None and text == choice.name else Choice(text)
    if choice is None:
        whole = path.removesuffix("." + ".".join(rest))
        raise ConfigError(f"{path}: {whole} is not set; name it first: {whole}.name=…")
    options = lookup(kind, choice.name, path).options
    if len(rest) > 1 or rest[0] not in options:
        where = f"{kind.kind} {choice.name!r}"
        raise ConfigError(unknown(path, {"name": None, **options}, rest[0], where))
    value = _parse(text, annotation(options[rest[0]][0]), path)
    return Choice(choice.name, **{**choice.options, rest[0]: value})


def _parse(text: str, kind: Any, path: str) -> Any:
    """Turn the text of an override into a value of type `kind`."""
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.strip("()[] ").rstrip(",").split(",")]
        return tuple(
            _parse(part, item, path)
            for part, item in zip(parts, tuple_items(kind, len(parts), path, text), strict=True)
        )
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ConfigError(f"{path}: expected true or false, got {text!r}")
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            number = {int: "a whole number", float: "a number"}[kind]
            raise ConfigError(f"{path}: expected {number}, got {text!r}") from None
    return text
