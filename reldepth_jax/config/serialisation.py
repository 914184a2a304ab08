"""Configurations as plain values, for JSON."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, get_args

from reldepth_jax.config import renamed
from reldepth_jax.config.choice import Choice, option_defaults
from reldepth_jax.config.schema import Config, ModelConfig
from reldepth_jax.config.validation import (
    ConfigError,
    has_items,
    is_group,
    unknown,
    validate,
    validate_model,
    without_none,
)
from reldepth_jax.registry import Registry


def to_dict(config: Config) -> dict[str, Any]:
    """Return nested dictionaries of plain values, for JSON; a choice gives all of its options."""
    return plain(config)


def plain(value: Any, registry: Registry | None = None) -> Any:
    """Return a value of a configuration as JSON has it; `registry` is that of its choices."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: plain(getattr(value, field.name), field.metadata.get("registry"))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Choice):
        assert registry is not None
        options = option_defaults(registry.lookup(value.name)) | value.options
        return {"name": value.name} | {k: plain(v, registry) for k, v in options.items()}
    if isinstance(value, tuple):
        return [plain(item, registry) for item in value]
    return value


def from_dict(values: Mapping[str, Any]) -> Config:
    """Invert `to_dict` and validate. Former names are accepted."""
    config = _build(Config, values, "")
    validate(config)
    return config


def model_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Return the network of a configuration alone, validated, from what `to_dict` says of it."""
    model = _build(ModelConfig, values, "model")
    validate_model(model)
    return model


def _build(kind: Any, value: Any, path: str, registry: Registry | None = None) -> Any:
    kind = without_none(kind)
    if is_group(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected {kind.__name__}, got {repr(value)[:80]}")
        hints, arguments = typing.get_type_hints(kind), {}
        registries = {f.name: f.metadata.get("registry") for f in dataclasses.fields(kind)}
        for name, item in renamed.new_names(kind.__name__, value, quiet=True).items():
            where = f"{path}.{name}".strip(".")
            if name not in hints:
                raise ConfigError(unknown(where, hints, name))
            arguments[name] = _build(hints[name], item, where, registries[name])
        return kind(**arguments)
    if kind is Choice and value is not None:
        assert registry is not None
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ConfigError(f"{path}: expected a name with options, got {repr(value)[:80]}")
        return renamed.new_choice(registry, _choice(value), quiet=True)
    if has_items(kind) and isinstance(value, list):
        item_kind = get_args(kind)[0]
        return tuple(_build(item_kind, v, f"{path}.{i}", registry) for i, v in enumerate(value))
    return tuple(value) if isinstance(value, list) else value


def _choice(value: Any) -> Any:
    """Return the options of a choice, or itself, from plain values."""
    if isinstance(value, dict):
        return Choice(**{name: _choice(option) for name, option in value.items()})
    return tuple(map(_choice, value)) if isinstance(value, list) else value
