"""JSON that others may have written or damaged, checked beyond its syntax against a schema.

A schema is built of the functions below, and itself a function: it returns the value, or raises
`JsonError` with the place and what was expected there.

    RECORD = fields({"step": whole(0), "whdr": optional(number(0, 1)), "arrays": each(text())})
    parse(path.read_text(), RECORD)
    # JsonError: step: expected a whole number, got 'x'
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from reldepth_jax.errors import printable


class JsonError(ValueError):
    """JSON that is not what was expected: the place in it and the reason, in one printable line."""

    def __init__(self, reason: str, place: str = ""):
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason = reason
        self.place = place

    def inside(self, name: str) -> "JsonError":
        """Return the same error of a value that is in another under `name`."""
        name = printable(name[:40])
        return JsonError(self.reason, f"{name}.{self.place}" if self.place else name)


Schema = Callable[[Any], Any]


def parse(text: str | bytes, schema: Schema) -> Any:
    """Return the value of a JSON text; raises JsonError if it is none, or not as in `schema`.

    Two values of one name are an error, and so is nesting too deep to follow.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise JsonError("is nested too deeply") from None
    except UnicodeDecodeError:
        raise JsonError("is not UTF-8") from None
    except JsonError:
        raise
    except ValueError as error:
        raise JsonError(f"is not JSON: {printable(str(error))}") from None
    return schema(value)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of an object; JsonError if a name is there twice. For `json.loads`."""
    found = {}
    for name, value in pairs:
        if name in found:
            raise JsonError(f"'{printable(name[:40])}' is there twice")
        found[name] = value
    return found


def anything(value: Any) -> Any:
    """Accept any value."""
    return value


def whole(low: int | None = None, high: int | None = None) -> Schema:
    """Accept whole numbers from `low` to `high`; True is none."""

    def check(value: Any) -> int:
        if type(value) is not int:
            raise _expected("a whole number", value)
        return _in_range(value, low, high, "a whole number")

    return check


def number(low: float | None = None, high: float | None = None) -> Schema:
    """Accept finite numbers from `low` to `high`."""

    def check(value: Any) -> float:
        if type(value) is not int and not (type(value) is float and math.isfinite(value)):
            raise _expected("a number", value)
        return _in_range(value, low, high, "a number")

    return check


def text(longest: int = 10_000) -> Schema:
    """Accept texts of at most `longest` characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise _expected("a text", value)
        if len(value) > longest:
            raise JsonError(f"expected at most {longest} characters, got {len(value)}")
        return value

    return check


def boolean(value: Any) -> bool:
    """Accept True and False."""
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def one_of(*choices: str | int) -> Schema:
    """Accept these values alone."""

    def check(value: Any) -> Any:
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise _expected(f"one of {', '.join(map(str, choices))}", value)
        return value

    return check


def optional(schema: Schema) -> Schema:
    """Accept null, and what `schema` accepts; as a field, it may be missing."""

    def check(value: Any) -> Any:
        return None if value is None else schema(value)

    check.optional = True  # pyright: ignore[reportFunctionMemberAccess]: `fields` asks
    return check


def sequence(schema: Schema, length: int | None = None) -> Schema:
    """Accept lists, of `length` if that is given."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) != (len(value) if length is None else length):
            raise _expected("a list" if length is None else f"a list of {length}", value)
        return [_inner(schema, part, str(place)) for place, part in enumerate(value)]

    return check


def each(schema: Schema) -> Schema:
    """Accept objects of any names, with such values."""

    def check(value: Any) -> dict[str, Any]:
        return {name: _inner(schema, part, name) for name, part in _object(value).items()}

    return check


def fields(schemas: Mapping[str, Schema], *, others: bool = False) -> Schema:
    """Accept objects of these fields; with `others`, beside fields that are not looked at."""

    def check(value: Any) -> dict[str, Any]:
        found = dict(_object(value))
        for name, schema in schemas.items():
            if name in found:
                found[name] = _inner(schema, found[name], name)
            elif not getattr(schema, "optional", False):
                raise JsonError("is missing", name)
        unknown = found.keys() - schemas.keys()
        if unknown and not others:
            raise JsonError("is unknown", printable(min(unknown)[:40]))
        return found

    return check


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expected("an object", value)
    return value


def _inner(schema: Schema, value: Any, name: str) -> Any:
    try:
        return schema(value)
    except JsonError as error:
        raise error.inside(name) from None


def _in_range(value: Any, low: float | None, high: float | None, what: str) -> Any:
    if (low is not None and value < low) or (high is not None and value > high):
        start = "" if low is None else f" from {low}{' on' if high is None else ''}"
        raise _expected(f"{what}{start}{'' if high is None else f' to {high}'}", value)
    return value


def _expected(what: str, value: Any) -> JsonError:
    # Not the whole value, which may have millions of digits or entries.
    if isinstance(value, str):
        got = f"'{printable(value[:40])}{'…' * (len(value) > 40)}'"
    elif isinstance(value, dict | list):
        got = f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    elif type(value) is int and abs(value) >= 10**20:
        got = "a huge number"
    else:
        got = json.dumps(value)
    return JsonError(f"expected {what}, got {got}")
