"""JSON from outside: accepted as it stands, or refused with the place and the reason."""

import json
from typing import Any

import pytest

from reldepth_jax import checked_json
from reldepth_jax.checked_json import (
    JsonError,
    Schema,
    boolean,
    each,
    fields,
    number,
    one_of,
    optional,
    sequence,
    text,
    whole,
)

RECORD = fields(
    {
        "step": whole(0, 10**9),
        "whdr": optional(number(0, 1)),
        "arrays": each(sequence(text(9), 2)),
        "part": one_of("network", "encoder"),
        "done": optional(boolean),
    }
)
GOOD = {"step": 3, "whdr": 0.5, "arrays": {"a": ["x", "y"]}, "part": "network", "done": True}


def test_what_fits_is_returned():
    assert checked_json.parse(json.dumps(GOOD), RECORD) == GOOD
    least = {"step": 0, "whdr": None, "arrays": {}, "part": "encoder"}
    assert checked_json.parse(json.dumps(least).encode(), RECORD) == least
    more = fields({"a": whole()}, others=True)
    assert checked_json.parse('{"a": -1, "b": [1]}', more) == {"a": -1, "b": [1]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"part": ...}, "part: is missing"),
    "unknown": ({"extra\x1b": 1}, "extra\\x1b: is unknown"),
    "text_for_a_number": ({"step": "3"}, "step: expected a whole number, got '3'"),
    "true_for_a_number": ({"step": True}, "step: expected a whole number, got true"),
    "fraction": ({"step": 1.0}, "step: expected a whole number, got 1.0"),
    "negative": ({"step": -1}, "step: expected a whole number from 0 to 1000000000, got -1"),
    "huge": (
        {"step": 10**400},
        "step: expected a whole number from 0 to 1000000000, got a huge number",
    ),
    "huge_for_a_share": ({"whdr": 10**400}, "whdr: expected a number from 0 to 1, got a huge num"),
    "not_a_number": ({"whdr": float("nan")}, "whdr: expected a number, got NaN"),
    "infinite": ({"whdr": float("inf")}, "whdr: expected a number, got Infinity"),
    "null": ({"step": None}, "step: expected a whole number, got null"),
    "no_object": ({"arrays": [1]}, "arrays: expected an object, got a list of 1"),
    "no_list": ({"arrays": {"a": "xy"}}, "arrays.a: expected a list of 2, got 'xy'"),
    "short_list": ({"arrays": {"a": ["x"]}}, "arrays.a: expected a list of 2, got a list of 1"),
    "inside": ({"arrays": {"a": ["x", 1]}}, "arrays.a.1: expected a text, got 1"),
    "long": (
        {"arrays": {"a": ["x", "y" * 10]}},
        "arrays.a.1: expected at most 9 characters, got 10",
    ),
    "choice": ({"part": "head"}, "part: expected one of network, encoder, got 'head'"),
    "not_true": ({"done": 1}, "done: expected true or false, got 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_told_with_its_place(case: str):
    changes, said = WRONG[case]
    values = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    with pytest.raises(JsonError) as caught:
        checked_json.parse(json.dumps(values), RECORD)
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "is nested too deeply"),
        (b'{"a": "\xff"}', "is not UTF-8"),
        ("{", "is not JSON: "),
        ("", "is not JSON: "),
        ("9" * 5000, "is not JSON: "),
        ('{"a\x1b": 1}', "is not JSON: "),
        ('{"a\\u001b": 1, "a\\u001b": 2}', "'a\\x1b' is there twice"),
        ('{"b": {"a": 1, "a": 1}}', "'a' is there twice"),
    ],
    ids=range(8),
)
def test_what_is_no_json_is_told(content: str | bytes, said: str):
    with pytest.raises(JsonError) as caught:
        checked_json.parse(content, checked_json.anything)
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()


SCHEMAS = {
    "text": text(),
    "whole": whole(),
    "number": number(),
    "boolean": boolean,
    "sequence": sequence(text()),
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_value_of_millions_is_not_repeated(schema: Schema):
    for value in ({str(k): k for k in range(1000)}, "x" * 10**6 + "\n"):
        with pytest.raises(JsonError) as caught:
            schema(value)
        assert len(str(caught.value)) < 100
