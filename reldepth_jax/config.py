"""The configuration: what can be set, its meaning, its legal values. Imports no JAX.

A configuration file is Python with `get_config() -> Config`. Overrides on the command line,
`--config.optim.learning_rate=0.1`, are applied by `override`; `validate` then checks every value.
All three raise `ConfigError` with one line that names the field and the nearest legal value.

Plug-ins (source, encoder, loss, pair sampler) stand in the configuration as a `Choice`: a name and
options. Options are checked against the plug-in's own source (see `registry`).
"""

import ast
import dataclasses
import math
import pathlib
import re
import runpy
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from reldepth_jax import registry
from reldepth_jax.errors import UserError
from reldepth_jax.registry import did_you_mean


class ConfigError(UserError):
    """A mistake in a configuration, in one line for the person who made it."""


class Choice:
    """A plug-in by name with the options that differ from its defaults."""

    def __init__(self, name: str, **options: Any):
        self.name = name
        self.options = options

    def __repr__(self) -> str:
        return ", ".join([repr(self.name), *(f"{k}={v!r}" for k, v in self.options.items())])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and what is done to them before the step."""

    source: Choice = Choice("synthetic")
    """Training, validation and test images."""
    crop: tuple[int, int] = (384, 384)
    """Height and width that the network is trained at, multiples of 32 (paper: 384x384)."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the random enlargement over the smallest resize that covers the crop."""
    flip: bool = True
    """Mirror left to right with probability one half (paper)."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    batch_size: int = 4
    """Images a step, over all devices (paper: 4)."""
    workers: int = 0
    """Processes that prepare batches; 0: threads of this process."""
    threads: int = 2
    """Threads that prepare batches (in each worker)."""
    prefetch: int = 4
    """Batches prepared ahead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network of the paper's Figure 4; the defaults are our reading of it.

    Where the paper is silent the field says why its default was chosen.
    """

    encoder: Choice = Choice("resnet50")
    decoder_width: int = 256
    """Channels of every decoder stage (paper: 256)."""
    transition: Literal["taps", "every_block"] = "taps"
    """Where the transitional 3x3 convolutions stand: before the residual unit of each encoder tap
    (the figure: only taps need another width), or before every residual unit (the sentence "before
    each residual convolution block")."""
    decoder_norm: Literal["none", "batch"] = "none"
    """Normalisation inside residual units and the head: none is drawn in the figure."""
    skip_relu: bool = False
    """Add relu(x), not x, in residual units: what in-place ReLU makes of published code."""
    head_relu: bool = False
    """ReLU between the two head convolutions: none is drawn; the authors' later code has one."""
    fusion_align_corners: bool = True
    """Corner-aligned bilinear upsampling in fusion, as all derived codes have it."""
    head_align_corners: bool = True
    """The same in the head; MiDaS has it off, the authors' later code on."""
    init: Literal["gaussian", "he"] = "gaussian"
    """New layers: N(0, 0.01) ("simple random Gaussian", deviation from the authors' later code), or
    He (but the last convolution of each unit), which starts faster from scratch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions; parameters, BatchNorm, loss and metrics stay float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and schedule; the paper names SGD and the smaller encoder rate, no numbers."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.01
    """Peak rate of the new layers."""
    encoder_lr_scale: float = 0.1
    """Rate of the encoder relative to that (paper: 10 times smaller; for pre-trained encoders)."""
    momentum: float = 0.9
    """Of SGD (Nesterov off); AdamW uses (0.9, 0.999)."""
    weight_decay: float = 1e-4
    """On convolution kernels only; decoupled for AdamW, added to the gradient for SGD."""
    warmup_steps: int = 0
    """Linear from zero."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or half a cosine to `final_lr_scale` at the last step."""
    final_lr_scale: float = 0.01
    max_grad_norm: float = 0.0
    """Clip the global gradient norm to this; 0: do not clip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and what is written on the way."""

    steps: int = 1000
    seed: int = 0
    """Of parameters, data order, augmentation and pairs."""
    log_every: int = 20
    eval_every: int = 500
    """Steps between validations with a picture; there is one before the first and after the last
    step."""
    eval_images: int = 100
    """First images of the validation split that they use; 0: all."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is one at the end and at an interruption in any case."""
    checkpoint_minutes: float = 5.0
    """A checkpoint is also due when the last one is this old."""
    keep: int = 2
    """Newest checkpoints kept."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """The fixed held-out pairs: the same for every model, run and machine.

    See `reldepth_jax.metrics.ordinal` for the protocol.
    """

    num_images: int = 200
    """First images of the split that are used; 0: all."""
    pairs_per_image: int = 2000
    """Drawn uniformly, and as many again within rows."""
    seed: int = 0
    sigma: float = 0.02
    """Depths whose ratio is within 1 + sigma are equal (paper, Eq. 1)."""
    image_size: int = 0
    """Shorter side that images are resized to; 0: shorter side of `data.crop`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: Choice = Choice("ranking")
    pairs: Choice = Choice("uniform", num_pairs=3000)
    """Point pairs of each step (paper: 3000 random pairs an image): the loss compares them, and
    every run logs its error on them."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    init_from: str = ""
    """Run directory whose newest weights this run starts from."""


def load(path: str) -> Config:
    """Run a configuration file and return what its `get_config()` returns.

    `path` may end in `:variant`, which is passed to `get_config(variant)`. Raises ConfigError with
    file and line for a file that is missing or fails.
    """
    file, _, variant = path.partition(":")
    source = pathlib.Path(file)
    if not source.is_file():
        there = [str(p) for p in sorted(source.parent.glob("*.py"))]
        hint = did_you_mean(file, there) or f" Available: {', '.join(there) or 'none'}."
        raise ConfigError(f"no configuration file {file}.{hint}")
    try:
        get_config = runpy.run_path(file).get("get_config")
        if get_config is None:
            raise ConfigError(f"{file}: defines no function get_config()")
        config = get_config(*[variant] if variant else [])
    except ConfigError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == file]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ConfigError(f"{file}{where}: {_explain(error)}") from error
    try:
        validate(config)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return config


def _explain(error: Exception) -> str:
    """Return the message, with the nearest field name for a misspelt keyword."""
    word = re.search(r"^(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    group = globals().get(word[1]) if word else None
    if word is None or not dataclasses.is_dataclass(group):
        return f"{type(error).__name__}: {error}"
    names = [field.name for field in dataclasses.fields(group)]
    return f"{word[1]} has no field {word[2]!r}.{did_you_mean(word[2], names)}"


REGISTRIES = {
    "data.source": registry.SOURCES,
    "model.encoder": registry.ENCODERS,
    "loss": registry.LOSSES,
    "pairs": registry.PAIR_SAMPLERS,
}
"""The registry that each `Choice` is looked up in, by path."""


def to_dict(config: Config) -> dict[str, Any]:
    """Return nested dictionaries of plain values, for JSON; a choice gives all of its options."""

    def convert(value: Any, path: str) -> Any:
        if dataclasses.is_dataclass(value):
            return {
                field.name: convert(getattr(value, field.name), f"{path}.{field.name}".strip("."))
                for field in dataclasses.fields(value)
            }
        if isinstance(value, Choice):
            entry = REGISTRIES[path].lookup(value.name)
            defaults = {name: default for name, (_, default) in entry.options.items()}
            given = {name: repr(option) for name, option in value.options.items()}
            return {"name": value.name, **{k: _literal(v) for k, v in (defaults | given).items()}}
        return list(value) if isinstance(value, tuple) else value

    return convert(config, "")


def from_dict(values: Mapping[str, Any]) -> Config:
    """Invert `to_dict` and validate."""

    def build(kind: Any, value: Any, path: str) -> Any:
        if kind is Choice:
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
                    raise ConfigError(_unknown(f"{path}.{name}".strip("."), hints))
            arguments = {k: build(hints[k], v, f"{path}.{k}".strip(".")) for k, v in value.items()}
            return typing.cast(Callable[..., Any], kind)(**arguments)
        return tuple(value) if isinstance(value, list) else value

    config = build(Config, values, "")
    validate(config)
    return config


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
        raise ConfigError(_unknown(path, hints, head))
    value = getattr(node, head)
    if isinstance(value, Choice):
        new = _assign_choice(value, rest, text, path)
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


def _assign_choice(choice: Choice, rest: list[str], text: str, path: str) -> Choice:
    kind = REGISTRIES[path if not rest else path.rsplit(".", len(rest))[0]]
    if rest in ([], ["name"]):
        _lookup(kind, text, path)
        return choice if text == choice.name else Choice(text)
    options = _lookup(kind, choice.name, path).options
    if len(rest) > 1 or rest[0] not in options:
        where = f"{kind.kind} {choice.name!r}"
        raise ConfigError(_unknown(path, {"name": None, **options}, rest[0], where))
    value = _parse(text, _annotation(options[rest[0]][0]), path)
    return Choice(choice.name, **{**choice.options, rest[0]: value})


def _lookup(kind: registry.Registry, name: str, path: str) -> registry.Entry:
    try:
        return kind.lookup(name)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _unknown(path: str, known: Mapping[str, Any], part: str = "", where: str = "") -> str:
    part = part or path.rsplit(".", 1)[-1]
    hint = did_you_mean(part, known) or f" Known: {', '.join(known)}."
    return f"unknown field {path!r}{' of ' + where if where else ''}.{hint}"


def _annotation(text: str) -> Any:
    """Return the type written as `text` in a plug-in's source; Any where it is not a plain one."""
    names = {"int": int, "float": float, "bool": bool, "str": str, "tuple": tuple}
    try:
        return eval(text, {"__builtins__": {}}, names | {"Literal": Literal})
    except (NameError, TypeError, AttributeError):
        return Any


def _literal(text: str) -> Any:
    """Return the value of a default written in a plug-in's source, as JSON has it."""
    value = ast.literal_eval(text)
    return list(value) if isinstance(value, tuple) else value


def _parse(text: str, kind: Any, path: str) -> Any:
    """Turn the text of an override into a value of type `kind`."""
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.strip("()[] ").rstrip(",").split(",")]
        return tuple(
            _parse(part, item, path)
            for part, item in zip(parts, _tuple_items(kind, len(parts), path, text), strict=True)
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


def _tuple_items(kind: Any, count: int, path: str, got: Any) -> list[Any]:
    items = get_args(kind)
    if len(items) == 2 and items[1] is Ellipsis:
        return [items[0]] * count
    if len(items) != count:
        raise ConfigError(f"{path}: expected {len(items)} comma-separated values, got {got!r}")
    return list(items)


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
    if not config.data.color_jitter < 1:
        raise ConfigError(f"data.color_jitter must be below 1, got {config.data.color_jitter}")
    if config.optim.warmup_steps >= config.train.steps:
        raise ConfigError(
            f"optim.warmup_steps must be below train.steps ({config.train.steps}),"
            f" got {config.optim.warmup_steps}"
        )


_LEAST = {
    "data.batch_size": 1,
    "data.workers": 0,
    "data.threads": 1,
    "data.prefetch": 1,
    "data.color_jitter": 0,
    "model.decoder_width": 2,
    "optim.encoder_lr_scale": 0,
    "optim.momentum": 0,
    "optim.weight_decay": 0,
    "optim.warmup_steps": 0,
    "optim.final_lr_scale": 0,
    "optim.max_grad_norm": 0,
    "train.steps": 1,
    "train.seed": 0,
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
_POSITIVE = ("optim.learning_rate", "train.checkpoint_minutes")


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
        if dataclasses.is_dataclass(value):
            _validate_types(value, where)
        elif kind is Choice:
            _validate_choice(value, where)
        else:
            _check_type(value, kind, where)


def _validate_choice(choice: Any, path: str) -> None:
    if not isinstance(choice, Choice):
        raise ConfigError(f"{path}: expected Choice(name, …), got {choice!r}")
    kind = REGISTRIES[path]
    options = _lookup(kind, choice.name, f"{path}.name").options
    for name, value in choice.options.items():
        if name not in options:
            where = f"{kind.kind} {choice.name!r}"
            raise ConfigError(_unknown(f"{path}.{name}", options, name, where))
        _check_type(value, _annotation(options[name][0]), f"{path}.{name}")


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
        for item, item_kind in zip(value, _tuple_items(kind, len(value), path, value), strict=True):
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
