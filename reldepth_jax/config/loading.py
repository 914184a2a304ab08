"""Configurations from files, overrides from the command line."""

import dataclasses
import pathlib
import re
import runpy
import traceback
import typing
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from reldepth_jax.config import renamed, schema
from reldepth_jax.config.choice import Choice, option_defaults, option_types
from reldepth_jax.config.schema import Config
from reldepth_jax.config.validation import (
    ConfigError,
    has_items,
    is_group,
    lookup,
    tuple_items,
    unknown,
    validate,
    without_none,
)
from reldepth_jax.errors import printable
from reldepth_jax.registry import Registry, did_you_mean


def load(name: str) -> Config:
    """Run a configuration file and return what its `get_config()` returns.

    `name` is that of `find`; `:variant` at its end is passed to `get_config(variant)`. Raises
    ConfigError with file and line for a file that is missing or fails.
    """
    config = run_file(name, "get_config")
    try:
        validate(config)
    except ConfigError as error:
        raise ConfigError(f"{find(name)}: {error}") from None
    except Exception as error:
        # Values of classes of its own, and values that hold themselves.
        raise ConfigError(f"{find(name)}: {_explain(error)}") from error
    return config


def files() -> dict[str, pathlib.Path]:
    """Return the configuration files that a name stands for, by name."""
    package = pathlib.Path(__file__).parent.parent
    # A wheel has them inside the package, a clone beside it.
    shipped = package / "configs"
    folders = (shipped if shipped.is_dir() else package.parent / "configs", pathlib.Path("configs"))
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.py"))}


def find(name: str) -> pathlib.Path:
    """Return the file of a configuration `name` or `name:variant`, given by path or by name.

    A name such as `ranking` stands for configs/ranking.py in the current directory or, if there is
    none, for the one that comes with this package. Raises ConfigError if there is no such file.
    """
    name = split(name)[0]
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    by_name = files()
    if name in by_name:
        return by_name[name]
    known = sorted([*by_name, *map(str, pathlib.Path(name).parent.glob("*.py"))])
    hint = did_you_mean(name, known) or did_you_mean(pathlib.Path(name).stem, by_name)
    hint = hint or f" Available: {', '.join(known) or 'none'}."
    raise ConfigError(f"no configuration file {name}.{hint}")


def split(name: str) -> tuple[str, str]:
    """Return file or name of a configuration, and the variant behind the last colon, or "".

    A colon may be part of a path.
    """
    if pathlib.Path(name).is_file():
        return name, ""
    file, colon, variant = name.rpartition(":")
    return (file, variant) if colon else (name, "")


def run_file(name: str, function: str) -> Any:
    """Run a Python file and return what its `function()` returns, or `function(variant)`.

    `name` as in `load`. Raises ConfigError with file and line for a file that is missing or fails.
    """
    variant = split(name)[1]
    file = str(find(name))
    try:
        get = runpy.run_path(file).get(function)
        if get is None:
            raise ConfigError(f"{file}: defines no function {function}()")
        return get(*[variant] if variant else [])
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ConfigError(f"{file}{where}: {_explain(error)}") from error


def _explain(error: BaseException) -> str:
    """Return the message, with the nearest field name for a misspelt keyword."""
    word = re.search(r"^(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    group = getattr(schema, word[1], None) if word else None
    if word is None or not dataclasses.is_dataclass(group):
        # One line, whatever the file says.
        return ": ".join(filter(None, (type(error).__name__, printable(str(error)[:500]))))
    names = [field.name for field in dataclasses.fields(group)]
    return f"{word[1]} has no field {word[2]!r}.{did_you_mean(word[2], names)}"


def override(config: Config, assignments: Mapping[str, str]) -> Config:
    """Return `config` with dotted paths set from text, e.g. `{"optim.learning_rate": "0.1"}`.

    Naming another plug-in (`loss.name=mae`) starts from that plug-in's default options.
    """

    # Names before options: the order on the command line does not matter.
    def depth(item: tuple[str, str]) -> int:
        return item[0].removesuffix(".name").count(".")

    for path, text in sorted(assignments.items(), key=depth):
        config = _assign(config, Config, path.split("."), text, path)
    return config


def override_choice(
    choice: Choice, registry: Registry, assignments: Mapping[str, str], path: str
) -> Choice:
    """Return `choice`, called `path`, with options set from text, e.g. `{"dataset.tie": "0.5"}`."""
    for name, text in assignments.items():
        parts = name.removeprefix(f"{path}.").split(".")
        choice = _assign_choice(choice, parts, text, name, path, registry)
    return choice


def _assign(
    value: Any, kind: Any, parts: list[str], text: str, path: str, registry: Registry | None = None
) -> Any:
    """Return `value`, of type `kind`, with what `parts` name in it set from text."""
    kind = without_none(kind)
    whole = path.removesuffix("." + ".".join(parts)) if parts else path
    if is_group(kind):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        if not parts:
            raise ConfigError(f"{path} is a group; set one of {path}.{{{','.join(fields)}}}")
        head = renamed.new_name(kind.__name__, parts[0])
        if head not in fields:
            raise ConfigError(unknown(path, fields, head))
        inner, registry = typing.get_type_hints(kind)[head], fields[head].metadata.get("registry")
        new = _assign(getattr(value, head), inner, parts[1:], text, path, registry)
        return dataclasses.replace(value, **{head: new})
    if kind is Choice:
        assert registry is not None
        return _assign_choice(value, parts, text, path, whole, registry)
    item_kind = get_args(kind)[0] if has_items(kind) else None
    if item_kind is not None and (parts or is_group(item_kind)):
        known = [str(position) for position in range(len(value))]
        if not parts or parts[0] not in known or (is_group(item_kind) and len(parts) == 1):
            raise ConfigError(
                f"{path}: name an item and one of its fields; items: {', '.join(known) or 'none'}"
            )
        items = list(value)
        at = int(parts[0])
        items[at] = _assign(items[at], item_kind, parts[1:], text, path, registry)
        return tuple(items)
    if parts:
        raise ConfigError(f"{path}: {whole} has no fields")
    return _parse(text, kind, path)


def _assign_choice(
    choice: Choice | None, parts: list[str], text: str, path: str, whole: str, registry: Registry
) -> Choice:
    if parts in ([], ["name"]):
        new = renamed.new_choice(registry, Choice(text))
        lookup(registry, new.name, path)
        return choice if choice is not None and new.name == choice.name else new
    if choice is None:
        raise ConfigError(f"{path}: {whole} is not set; name it first: {whole}.name=…")
    entry = lookup(registry, choice.name, path)
    kinds = option_types(entry)
    option = renamed.new_name(f"{registry.kind} {choice.name}", parts[0], quiet=True)
    if option not in kinds:
        where = f"{registry.kind} {choice.name!r}"
        raise ConfigError(unknown(path, ["name", *kinds], parts[0], where))
    before = choice.options.get(option, option_defaults(entry)[option])
    value = _assign(before, kinds[option], parts[1:], text, path, registry)
    return renamed.new_choice(registry, Choice(choice.name, **{**choice.options, parts[0]: value}))


def _parse(text: str, kind: Any, path: str) -> Any:
    """Turn the text of an override into a value of type `kind`."""
    if get_origin(kind) is tuple:
        if text.strip("()[] ") in ("", "none") and get_args(kind)[-1] is Ellipsis:
            return ()
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
    # With options it is written in a former way, see `renamed`.
    return Choice(text) if kind is Choice and ":" not in text else text
