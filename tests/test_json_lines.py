"""Lines of JSON: what a kill has cut short costs one line, not two."""

import pathlib

import pytest

from reldepth_jax import json_lines
from reldepth_jax.checked_json import fields, whole

SCHEMA = fields({"a": whole(0)})


@pytest.mark.parametrize("cut", ['{"a"', '{"a": 1}', "\0\0\0", "\xff"])
def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: pathlib.Path, cut: str):
    path = tmp_path / "lines.jsonl"
    json_lines.append(path, {"a": 0})
    with open(path, "ab") as file:
        file.write(cut.encode("latin-1"))
    json_lines.append(path, {"a": 2})
    json_lines.append(path, {"a": 3})
    whole_line = [1] if cut == '{"a": 1}' else []
    assert [line["a"] for line in json_lines.read(path, SCHEMA)] == [0, *whole_line, 2, 3]


def test_lines_of_another_form_are_left_out(tmp_path: pathlib.Path):
    path = tmp_path / "lines.jsonl"
    assert json_lines.read(path, SCHEMA) == []
    others = ["", "[]", "1", '{"a": -1}', '{"a": 1.0}', '{"a": 1, "b": 2}', "[" * 10**5, "1" * 5000]
    path.write_text("\n".join([*others, '{"a": 5}']))
    assert json_lines.read(path, SCHEMA) == [{"a": 5}]
