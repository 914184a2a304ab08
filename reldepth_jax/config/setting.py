"""What a field of the configuration declares: default, range, resume rule, part in the step."""

import dataclasses
import functools
from typing import Any, Literal, NoReturn, TypeVar, cast, dataclass_transform

from reldepth_jax.config import renamed
from reldepth_jax.config.choice import Choice
from reldepth_jax.registry import Registry

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What a field declares beside its type and default; see `setting`."""

    step: bool | None = None
    resume: Literal["fixed", "free"] = "fixed"
    free_options: tuple[str, ...] = ()
    least: float | None = None
    above: float | None = None
    below: float | None = None
    registry: Registry | None = None


def setting(
    default: T,
    *,
    step: bool | None = None,
    resume: Literal["fixed", "free"] = "fixed",
    free_options: tuple[str, ...] = (),
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    registry: Registry | None = None,
) -> T:
    """Return a dataclass field; to type checkers it is its default.

    Args:
      step: whether the compiled training step sees the field. No field of a group of `Config` may
        leave it out.
      resume: "free" if a continued run may have another value.
      free_options: of a plug-in, the options that are free.
      least, above, below: range of a number, or of each in a tuple.
      registry: of a plug-in, where its name is looked up.
    """
    declared = Rule(
        step=step,
        resume=resume,
        free_options=free_options,
        least=least,
        above=above,
        below=below,
        registry=registry,
    )
    return cast(T, dataclasses.field(default=default, metadata={"rule": declared}))


def rule_of(field: dataclasses.Field[Any]) -> Rule:
    """Return what a field declares."""
    return field.metadata.get("rule", Rule())


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,)
)
def group(cls: type[T]) -> type[T]:
    """Decorate a frozen dataclass of settings, all given by keyword; former names are accepted."""
    made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    init = made.__init__
    registries = {field.name: rule_of(field).registry for field in dataclasses.fields(made)}

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


def require_step_declared(config: type) -> None:
    """Raise TypeError for a field, or one of a group, that does not say if the step sees it."""
    for field in dataclasses.fields(config):
        if is_nested(field):
            require_step_declared(type(field.default))
        elif rule_of(field).step is None:
            raise TypeError(
                f"{config.__name__}.{field.name}: declare whether the compiled training step sees"
                " it: setting(…, step=True) or step=False"
            )


def is_nested(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field is a group of fields, each with its own rule."""
    return dataclasses.is_dataclass(field.default) and "rule" not in field.metadata


def seen_by_step(settings: T, path: str = "") -> T:
    """Return a configuration, or a group of one, in which all else is `Unseen`."""
    seen: dict[str, Any] = {}
    for field in dataclasses.fields(cast(Any, settings)):
        value, where = getattr(settings, field.name), f"{path}.{field.name}".strip(".")
        if is_nested(field):
            seen[field.name] = seen_by_step(value, where)
        else:
            seen[field.name] = value if rule_of(field).step else Unseen(where)
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
