"""Legal values: types, names, ranges and combinations."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from reldepth_jax.config.choice import Choice, option_types
from reldepth_jax.config.schema import Config, LayerGroup, ModelConfig
from reldepth_jax.errors import UserError
from reldepth_jax.registry import Entry, Registry, did_you_mean


class ConfigError(UserError):
    """A mistake in a configuration, in one line for the person who made it."""


def validate(config: Config) -> None:
    """Check types, names, ranges and combinations; ConfigError at the first that is wrong."""
    if not isinstance(config, Config):
        raise ConfigError(f"expected a reldepth_jax.config.Config, got {type(config).__name__}")
    _validate_group(config, "")
    need = math.prod((config.data.batch_size, *config.data.crop, _BYTES_A_PIXEL))
    if need > _LARGEST_BATCH:
        raise ConfigError(
            f"data.batch_size ({config.data.batch_size}) images of data.crop {config.data.crop}"
            f" take {need / 1e9:,.0f} GB a batch, more than any machine has"
        )
    multiple = config.model.multiple
    for side in config.data.crop:
        _validate_multiple("data.crop", side, multiple)
    if config.eval.image_size:
        _validate_multiple("eval.image_size", config.eval.image_size, multiple)
    low, high = config.data.zoom
    if not 1 <= low <= high:
        raise ConfigError(f"data.zoom must be 1 <= smallest <= largest, got ({low}, {high})")
    shares = [mixed.share for mixed in config.data.mix]
    if sum(shares) >= 1:
        raise ConfigError(
            f"data.mix: shares must add up to less than 1, got {', '.join(map(str, shares))};"
            " data.source gives the rest"
        )
    if config.data.label_noise.levels == 1:
        raise ConfigError("data.label_noise.levels must be 0 or at least 2, got 1")
    _validate_combinations(config.model)
    for name, value, neutral in (
        ("optim.layer_decay", config.optim.layer_decay, 1),
        ("train.drop_path", config.train.drop_path, 0),
    ):
        if value != neutral and not config.model.blocks:
            raise ConfigError(
                f"{name} is about the blocks of a transformer; model.encoder"
                f" {config.model.encoder.name} is none"
            )
    _validate_layer_groups(config.optim.groups)
    if config.optim.warmup_steps >= config.train.steps:
        raise ConfigError(
            f"optim.warmup_steps must be below train.steps ({config.train.steps}),"
            f" got {config.optim.warmup_steps}"
        )
    if config.data.batch_size % config.train.accumulate:
        raise ConfigError(
            f"data.batch_size ({config.data.batch_size}) must be a multiple of train.accumulate,"
            f" got {config.train.accumulate}"
        )


def validate_model(model: ModelConfig) -> None:
    """Check a network alone as `validate` does."""
    _validate_group(model, "model")
    _validate_combinations(model)


def _validate_combinations(model: ModelConfig) -> None:
    if model.narrowing == "none" and len(set(model.widening)) > 1:
        raise ConfigError(
            "model.narrowing must be conv3x3 or conv1x1 where the stages differ in width"
            f" (model.widening {model.widening})"
        )
    for name, default in (("reassembly", (1, 2, 4, 8)), ("readout", "ignore")):
        if not model.patch and getattr(model, name) != default:
            raise ConfigError(
                f"model.{name} is about the tokens of a transformer; model.encoder"
                f" {model.encoder.name} is none"
            )
    if model.max_depth and (model.non_negative or model.output != "depth"):
        raise ConfigError(
            "model.max_depth ends the head with a sigmoid that grows with distance: it needs"
            " model.output=depth and model.non_negative=False"
        )
    if model.head == "midas" and model.head_relu:
        raise ConfigError("model.head_relu belongs to model.head=paper; the other head has its own")


def _validate_layer_groups(groups: tuple[LayerGroup, ...]) -> None:
    first: dict[str, int] = {}
    for position, group in enumerate(groups):
        if first.setdefault(group.prefix, position) != position:
            raise ConfigError(
                f"optim.groups.{position}.prefix: {group.prefix!r} is that of"
                f" optim.groups.{first[group.prefix]} already; remove one of them"
            )


def _validate_multiple(path: str, side: int, unit: int) -> None:
    if side < unit or side % unit:
        lower = max(unit, side // unit * unit)
        nearest = f"{lower}" if side < unit else f"{lower} or {lower + unit}"
        raise ConfigError(f"{path} must be multiples of {unit}, got {side}; nearest: {nearest}")


def _validate_group(group: Any, path: str) -> None:
    hints = typing.get_type_hints(type(group))
    for field in dataclasses.fields(group):
        value, where = getattr(group, field.name), f"{path}.{field.name}".strip(".")
        _check_type(value, hints[field.name], where, field.metadata.get("registry"))
        for number in value if isinstance(value, tuple) else (value,):
            for bound, (holds, words) in _BOUNDS.items():
                limit = field.metadata.get(bound)
                if limit is not None and not holds(number, limit):
                    raise ConfigError(f"{where} must be {words} {limit}, got {value}")


_BYTES_A_PIXEL = 8
"""Of a batch: colours, depth, mask."""
_LARGEST_BATCH = 2**40
_BOUNDS = {
    "least": (operator.ge, "at least"),
    "most": (operator.le, "at most"),
    "above": (operator.gt, "greater than"),
    "below": (operator.lt, "below"),
}


def _check_type(value: Any, kind: Any, path: str, registry: Registry | None) -> None:
    if value is None and without_none(kind) != kind:
        return
    kind = without_none(kind)
    if is_group(kind):
        if not isinstance(value, kind):
            raise ConfigError(f"{path}: expected {kind.__name__}(…), got {value!r}")
        _validate_group(value, path)
    elif kind is Choice:
        _check_choice(value, path, registry)
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            known = [str(option) for option in get_args(kind)]
            raise ConfigError(
                f"{path}: {value!r} is not one of {', '.join(known)}."
                f"{did_you_mean(str(value), known)}"
            )
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise ConfigError(f"{path}: expected a tuple, got {value!r}")
        kinds = tuple_items(kind, len(value), path, value)
        for position, (item, item_kind) in enumerate(zip(value, kinds, strict=True)):
            where = f"{path}.{position}" if has_items(kind) else path
            _check_type(item, item_kind, where, registry)
    elif isinstance(kind, types.UnionType):
        if not isinstance(value, kind):
            raise ConfigError(f"{path}: expected {kind}, got {value!r}")
    elif kind is float:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ConfigError(f"{path}: expected a finite number, got {value!r}")
    elif kind in (int, str, bool) and (
        not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    ):
        word = {int: "a whole number", str: "text", bool: "True or False"}[kind]
        raise ConfigError(f"{path}: expected {word}, got {value!r}")


def _check_choice(choice: Any, path: str, registry: Registry | None) -> None:
    if not isinstance(choice, Choice) or registry is None:
        raise ConfigError(f"{path}: expected Choice(name, …), got {choice!r}")
    kinds = option_types(lookup(registry, choice.name, f"{path}.name"))
    for name, value in choice.options.items():
        if name not in kinds:
            where = f"{registry.kind} {choice.name!r}"
            raise ConfigError(unknown(f"{path}.{name}", kinds, name, where))
        _check_type(value, kinds[name], f"{path}.{name}", registry)
        try:
            hash(value)
        except TypeError:
            raise ConfigError(
                f"{path}.{name}: expected plain values and tuples, got {value!r}"
            ) from None


def lookup(registry: Registry, name: str, path: str) -> Entry:
    """Return the plug-in's entry; ConfigError that names `path` if there is none."""
    try:
        return registry.lookup(name)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def unknown(path: str, known: Iterable[str], part: str, where: str = "") -> str:
    """Return the message for a field that does not exist, with the nearest that does."""
    hint = did_you_mean(part, known) or f" Known: {', '.join(known)}."
    return f"unknown field {path!r}{' of ' + where if where else ''}.{hint}"


def is_group(kind: Any) -> bool:
    """Return whether a type is a dataclass: a group of fields."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def has_items(kind: Any) -> bool:
    """Return whether a type is a tuple of groups or of choices, whose fields can be set."""
    items = get_args(kind)
    return get_origin(kind) is tuple and (items[0] is Choice or is_group(items[0]))


def without_none(kind: Any) -> Any:
    """Return X for the type `X | None`, and any other type as it is."""
    kinds = [item for item in get_args(kind) if item is not types.NoneType]
    return kinds[0] if isinstance(kind, types.UnionType) and len(kinds) == 1 else kind


def tuple_items(kind: Any, count: int, path: str, got: Any) -> list[Any]:
    """Return the type of each of `count` items of a tuple; ConfigError if it has another number."""
    items = get_args(kind)
    if len(items) == 2 and items[1] is Ellipsis:
        return [items[0]] * count
    if len(items) != count:
        raise ConfigError(f"{path}: expected {len(items)} comma-separated values, got {got!r}")
    return list(items)
