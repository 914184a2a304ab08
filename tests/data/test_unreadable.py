"""The list of samples that could not be read, when something has damaged it."""

import json
import pathlib
from typing import Any

import pytest

from reldepth_jax.data import unreadable
from reldepth_jax.data.unreadable import SkipUnreadable
from tests.fixtures.marked import Marked


@pytest.mark.parametrize(
    "line",
    [
        '{"source": 0, "index": 3, "err',
        "[]",
        '{"source": 0}',
        '{"source": 0, "index": "8", "error": ""}',
        '{"source": 0, "index": [8], "error": ""}',
    ],
)
def test_a_damaged_line_costs_nothing_but_itself(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, line: str
):
    monkeypatch.setenv("MARKED_BAD", "3,8")
    log = tmp_path / "bad_samples.jsonl"
    log.write_text(json.dumps({"source": 0, "index": 8, "error": "earlier"}) + "\n" + line)
    source = SkipUnreadable(Marked(split="train", size=(32, 64)), 0, str(log), (32, 64))
    for index in (3, 8, 3):
        assert source[index].get("unreadable")
    assert unreadable.read(log) == {(0, 8): "earlier", (0, 3): "3.png: is truncated"}
    assert len(log.read_text().splitlines()) == 3


def test_the_message_is_one_line_whatever_the_list_says(tmp_path: pathlib.Path):
    log = tmp_path / "bad_samples.jsonl"
    lines: list[dict[str, Any]] = [
        {"source": 0, "index": index, "error": "\x1b[2J\n"} for index in range(3)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = unreadable.too_many(log, 100, 0.0)
    assert told is not None
    assert told.isprintable()
