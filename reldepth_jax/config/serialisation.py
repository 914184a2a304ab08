"""Configurations as plain values, for JSON."""

import ast
import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from reldepth_jax.config.schema import Choice, Config, ConfigError, registry_of
from reldepth_jax.config.validation import group_of_tuple, is_choice, unknown, validate


def to_dict(config: Config) -> dict[str, Any]:
    """Return nested dictionaries of plain values, for JSON; a choice gives all of its options."""

    def convert(value: Any, path: str) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                field.name: convert(getattr(value, field.name), f"{path}.{field.name}".strip("."))
                for field in dataclasses.fields(value)
            }
        if isinstance(value, Choice):
            entry = registry_of(path).lookup(value.name)
            defaults = {name: default for name, (_, default) in entry.options.items()}
            given = {name: repr(option) for name, option in value.options.items()}
            return {"name": value.name, **{k: _literal(v) for k, v in (defaults | given).items()}}
        if isinstance(value, tuple):
            return [convert(item, f"{path}.{position}") for position, item in enumerate(value)]
        return value

    return convert(config, "")


def from_dict(values: Mapping[str, Any]) -> Config:
    """Invert `to_dict` and validate."""

    def build(kind: Any, value: Any, path: str) -> Any:
        if is_choice(kind):
            if value is None:
                return None
            return Choice(
                value["name"],
                **{
                    k: tuple(v) if isinstance(v, list) else v
                    for k, v in value.items()
                    if k != "name"
                },
            )
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            for name in value:
                if name not in hints:
                    raise ConfigError(unknown(f"{path}.{name}".strip("."), hints))
            arguments = {k: build(hints[k], v, f"{path}.{k}".strip(".")) for k, v in value.items()}
            return typing.cast(Callable[..., Any], kind)(**arguments)
        group = group_of_tuple(kind)
        if group is not None:
            return tuple(build(group, item, f"{path}.{i}") for i, item in enumerate(value))
        return tuple(value) if isinstance(value, list) else value

    config = build(Config, values, "")
    validate(config)
    return config


def _literal(text: str) -> Any:
    """Return the value of a default written in a plug-in's source, as JSON has it."""
    value = ast.literal_eval(text)
    return list(value) if isinstance(value, tuple) else value
