"""Legal values: types, names, ranges and combinations."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from reldepth_jax import registry
from reldepth_jax.config.schema import (
    Choice,
    Config,
    ConfigError,
    LayerGroup,
    ModelConfig,
    registry_of,
)
from reldepth_jax.registry import did_you_mean


def validate(config: Config) -> None:
    """Check types, names, ranges and combinations; ConfigError at the first that is wrong."""
    if not isinstance(config, Config):
        raise ConfigError(f"expected a reldepth_jax.config.Config, got {type(config).__name__}")
    _validate_types(config, "")
    for path, least in _LEAST.items():
        value = _get(config, path)
        if value < least:
            raise ConfigError(f"{path} must be at least {least}, got {value}")
    for path in _POSITIVE:
        if not _get(config, path) > 0:
            raise ConfigError(f"{path} must be greater than 0, got {_get(config, path)}")
    for side in config.data.crop:
        _validate_multiple("data.crop", side)
    if config.eval.image_size:
        _validate_multiple("eval.image_size", config.eval.image_size)
    low, high = config.data.zoom
    if not 1 <= low <= high:
        raise ConfigError(f"data.zoom must be 1 <= smallest <= largest, got ({low}, {high})")
    shares = [mixed.share for mixed in config.data.mix]
    if any(share <= 0 for share in shares) or sum(shares) >= 1:
        raise ConfigError(
            f"data.mix: shares must be greater than 0 and add up to less than 1, got"
            f" {', '.join(map(str, shares))}; data.source gives the rest"
        )
    if not config.data.max_bad < 1:
        raise ConfigError(f"data.max_bad must be below 1, got {config.data.max_bad}")
    if not config.data.color_jitter < 1:
        raise ConfigError(f"data.color_jitter must be below 1, got {config.data.color_jitter}")
    noise = config.data.label_noise
    if not noise.wrong < 1:
        raise ConfigError(f"data.label_noise.wrong must be below 1, got {noise.wrong}")
    if noise.levels == 1:
        raise ConfigError("data.label_noise.levels must be 0 or at least 2, got 1")
    _validate_model(config.model)
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


def _validate_model(model: ModelConfig) -> None:
    if min(model.widening) < 1:
        raise ConfigError(f"model.widening must be at least 1, got {model.widening}")
    if model.narrowing == "none" and len(set(model.widening)) > 1:
        raise ConfigError(
            "model.narrowing must be conv3x3 or conv1x1 where the stages differ in width"
            f" (model.widening {model.widening})"
        )
    if model.head == "midas" and model.head_relu:
        raise ConfigError("model.head_relu belongs to model.head=paper; the other head has its own")


_LEAST = {
    "data.batch_size": 1,
    "data.subset": 0,
    "data.max_bad": 0,
    "data.workers": 0,
    "data.threads": 1,
    "data.prefetch": 1,
    "data.color_jitter": 0,
    "data.gamma_jitter": 0,
    "data.label_noise.gain": 0,
    "data.label_noise.offset": 0,
    "data.label_noise.levels": 0,
    "data.label_noise.wrong": 0,
    "model.decoder_width": 2,
    "optim.encoder_lr_scale": 0,
    "optim.momentum": 0,
    "optim.weight_decay": 0,
    "optim.warmup_steps": 0,
    "optim.final_lr_scale": 0,
    "optim.max_grad_norm": 0,
    "train.steps": 1,
    "train.epochs": 0,
    "train.max_minutes": 0,
    "train.grace_seconds": 0,
    "train.max_skipped": 1,
    "train.seed": 0,
    "train.accumulate": 1,
    "train.log_every": 1,
    "train.eval_every": 1,
    "train.eval_images": 0,
    "train.checkpoint_every": 1,
    "train.keep": 1,
    "eval.num_images": 0,
    "eval.pairs_per_image": 1,
    "eval.seed": 0,
    "eval.sigma": 0,
    "eval.image_size": 0,
}
_POSITIVE = ("optim.learning_rate", "train.checkpoint_minutes", "data.timeout")


def _validate_layer_groups(groups: tuple[LayerGroup, ...]) -> None:
    first: dict[str, int] = {}
    for position, group in enumerate(groups):
        where = f"optim.groups.{position}"
        if group.lr_scale < 0:
            raise ConfigError(f"{where}.lr_scale must be at least 0, got {group.lr_scale}")
        if first.setdefault(group.prefix, position) != position:
            raise ConfigError(
                f"{where}.prefix: {group.prefix!r} is that of optim.groups.{first[group.prefix]}"
                " already; one of them must go"
            )


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _validate_multiple(path: str, side: int) -> None:
    if side < 32 or side % 32:
        lower = max(32, side // 32 * 32)
        nearest = f"{lower}" if side < 32 else f"{lower} or {lower + 32}"
        raise ConfigError(f"{path} must be multiples of 32, got {side}; nearest: {nearest}")


def _validate_types(node: Any, path: str) -> None:
    for name, kind in typing.get_type_hints(type(node)).items():
        value, where = getattr(node, name), f"{path}.{name}".strip(".")
        group = group_of_tuple(kind)
        if dataclasses.is_dataclass(value):
            _validate_types(value, where)
        elif group is not None:
            if not isinstance(value, tuple) or not all(isinstance(item, group) for item in value):
                raise ConfigError(f"{where}: expected a tuple of {group.__name__}, got {value!r}")
            for position, item in enumerate(value):
                _validate_types(item, f"{where}.{position}")
        elif is_choice(kind):
            if value is not None or kind is Choice:
                _validate_choice(value, where)
        else:
            _check_type(value, kind, where)


def is_choice(kind: Any) -> bool:
    """Return whether a field is a plug-in, or one that may be left out (None)."""
    return kind is Choice or kind == Choice | None


def group_of_tuple(kind: Any) -> type | None:
    """Return G where the type of a field is `tuple[G, ...]` with a dataclass G, else None."""
    items = get_args(kind)
    if get_origin(kind) is tuple and isinstance(items[0], type) and is_group(items[0]):
        return items[0]
    return None


def is_group(kind: type) -> bool:
    """Return whether a type is a dataclass: a group of fields."""
    return dataclasses.is_dataclass(kind)


def _validate_choice(choice: Any, path: str) -> None:
    if not isinstance(choice, Choice):
        raise ConfigError(f"{path}: expected Choice(name, …), got {choice!r}")
    kind = registry_of(path)
    options = lookup(kind, choice.name, f"{path}.name").options
    for name, value in choice.options.items():
        if name not in options:
            where = f"{kind.kind} {choice.name!r}"
            raise ConfigError(unknown(f"{path}.{name}", options, name, where))
        _check_type(value, annotation(options[name][0]), f"{path}.{name}")


def _check_type(value: Any, kind: Any, path: str) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            known = [str(option) for option in get_args(kind)]
            raise ConfigError(
                f"{path}: {value!r} is not one of {', '.join(known)}."
                f"{did_you_mean(str(value), known)}"
            )
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise ConfigError(f"{path}: expected a tuple, got {value!r}")
        for item, item_kind in zip(value, tuple_items(kind, len(value), path, value), strict=True):
            _check_type(item, item_kind, path)
    elif isinstance(kind, types.UnionType):
        if not any(isinstance(value, item) for item in get_args(kind)):
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


def lookup(kind: registry.Registry, name: str, path: str) -> registry.Entry:
    """Return the plug-in's entry; ConfigError that names `path` if there is none."""
    try:
        return kind.lookup(name)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def unknown(path: str, known: Mapping[str, Any], part: str = "", where: str = "") -> str:
    """Return the message for a field that does not exist, with the nearest that does."""
    part = part or path.rsplit(".", 1)[-1]
    hint = did_you_mean(part, known) or f" Known: {', '.join(known)}."
    return f"unknown field {path!r}{' of ' + where if where else ''}.{hint}"


def annotation(text: str) -> Any:
    """Return the type written as `text` in a plug-in's source; Any where it is not a plain one."""
    names = {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple}
    try:
        return eval(text, {"__builtins__": {}}, names | {"Literal": Literal})
    except (NameError, TypeError, AttributeError):
        return Any


def tuple_items(kind: Any, count: int, path: str, got: Any) -> list[Any]:
    """Return the type of each of `count` items of a tuple; ConfigError if it has another number."""
    items = get_args(kind)
    if len(items) == 2 and items[1] is Ellipsis:
        return [items[0]] * count
    if len(items) != count:
        raise ConfigError(f"{path}: expected {len(items)} comma-separated values, got {got!r}")
    return list(items)
