"""A plug-in in the configuration: its name and options."""

from typing import Any, Literal

from reldepth_jax.registry import Entry


class Choice:
    """A plug-in by name with the options that differ from its defaults.

    An option may itself be a tuple of choices, of plug-ins of the same kind.
    """

    def __init__(self, name: str, **options: Any):
        self.name = name
        self.options = options

    def __repr__(self) -> str:
        options = (f"{name}={value!r}" for name, value in self.options.items())
        return f"Choice({', '.join([repr(self.name), *options])})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.options.items())))


_NAMES = {each.__name__: each for each in (int, float, bool, str, tuple, Choice)}


def option_types(plug_in: Entry) -> dict[str, Any]:
    """Return the type of each option of a plug-in; Any where it is not one of plain values."""
    found: dict[str, Any] = {}
    for option, (annotation, _) in plug_in.options.items():
        try:
            found[option] = _evaluate(annotation)
        except (NameError, TypeError, AttributeError):
            found[option] = Any
    return found


def option_defaults(plug_in: Entry) -> dict[str, Any]:
    """Return the default of each option of a plug-in: plain values, tuples and choices."""
    return {option: _evaluate(default) for option, (_, default) in plug_in.options.items()}


def _evaluate(source: str) -> Any:
    """Return the value of an annotation or a default in a plug-in's source."""
    return eval(source, {"__builtins__": {}}, {**_NAMES, "Literal": Literal})
