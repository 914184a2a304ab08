"""What a field of the configuration declares: default, range, resume rule, part in the step."""

import dataclasses
import functools
from typing import Any, Literal, NoReturn, TypedDict, TypeVar, Unpack, cast, dataclass_transform

from reldepth_jax.config import renamed
from reldepth_jax.config.choice import Choice
from reldepth_jax.registry import Registry

T = TypeVar("T")


class Rule(TypedDict, total=False):
    """What a field declares beside its type and default."""

    step: bool
    """Whether the compiled training step sees it. Every field of a group of `Config` says so."""
    resume: Literal["free"]
    """A continued run may have another value."""
    free_options: tuple[str, ...]
    """Of a plug-in: options that may have another value in a continued run."""
    registry: Registry
    """Of a plug-in: where its name is looked up."""
    least: float
    most: float
    above: float
    below: float
    """Range of a number, or of each in a tuple."""


def setting(default: T, **rule: Unpack[Rule]) -> T:
    """Return a dataclass field; to type checkers it is its default."""
    return cast(T, dataclasses.field(default=default, metadata=rule))


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def group(cls: type[T]) -> type[T]:
    """Decorate a frozen dataclass of settings, all given by keyword; former names are accepted."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    init = made.__init__
    registries = {field.name: field.metadata.get("registry") for field in dataclasses.fields(made)}

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        values = renamed.new_names(made.__name__, values)
        for name, value in values.items():
            registry = registries.get(name)
            if isinstance(value, Choice) and registry is not None:
                values[name] = renamed.new_choice(registry, value)
        init(self, *args, **values)

    made.__init__ = __init__
    return made


def _is_nested(field: dataclasses.Field[Any]) -> bool:
    """Return whether the fields of a group declare for themselves."""
    return dataclasses.is_dataclass(field.default) and not field.metadata


def require_step_declared(config: type) -> None:
    """Raise TypeError for a field, or one of a group, that does not say if the step sees it."""
    for field in dataclasses.fields(config):
        if _is_nested(field):
            require_step_declared(type(field.default))
        elif "step" not in field.metadata:
            raise TypeError(
                f"{config.__name__}.{field.name}: declare whether the compiled training step sees"
                " it: setting(…, step=True) or step=False"
            )


def seen_by_step(settings: T, path: str = "") -> T:
    """Return a configuration, or a group of one, in which all else is `Unseen`."""
    seen: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, settings)):
        value, where = getattr(settings, field.name), f"{path}.{field.name}".strip(".")
        if _is_nested(field):
            seen[field.name] = seen_by_step(value, where)
        else:
            seen[field.name] = value if field.metadata["step"] else Unseen(where)
    return type(settings)(**seen)


@dataclasses.dataclass(frozen=True)
class Unseen:
    """A field that the compiled step does not see; using it raises TypeError."""

    path: str

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, Unseen) else self._refuse()

    def __getattr__(self, name: str) -> Any:
        self._refuse()

    def __bool__(self) -> bool:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{self.path} is used in the compiled step but not declared with step=True")
