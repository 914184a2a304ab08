"""What is read of a history and of the metrics is what was written there, and nothing else."""

import json
import pathlib
from typing import Any

import pytest

from reldepth_jax.run_dir.history import History, metrics


def test_a_line_cut_short_does_not_swallow_the_next(tmp_path: pathlib.Path):
    history = History(tmp_path)
    history.add("start", step=1)
    path = tmp_path / "history.jsonl"
    with open(path, "a") as file:
        file.write('{"time": 1.0, "event": "sav')
    history.add("saved", step=2)
    history.add("saved", step=3)
    found = [(event["event"], event["step"]) for event in history.events()]
    assert found == [("start", 1), ("saved", 2), ("saved", 3)]


@pytest.mark.parametrize(
    "other",
    [
        {"event": "saved", "step": 7},
        {"time": 1e300, "event": "saved", "step": 7},
        {"time": float("nan"), "event": "saved", "step": 7},
        {"time": 1.0, "event": "saved"},
        {"time": 1.0, "event": "saved", "step": "7"},
        {"time": 1.0, "event": "start", "step": -1},
        {"time": 1.0, "event": ["saved"], "step": 7},
        {"time": 1.0, "event": "stopped", "lost": 1.5},
        {"time": 1.0, "event": "failed", "error": {}},
    ],
    ids=str,
)
def test_an_event_of_another_form_is_left_out(tmp_path: pathlib.Path, other: dict[str, Any]):
    history = History(tmp_path)
    history.add("saved", step=1, seconds=0.1)
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write(json.dumps(other) + "\n")
    history.add("stopped", step=3, reason="SIGTERM")
    assert [event.get("step") for event in history.events()] == [1, 3]


def test_metrics_of_a_group_are_lines_with_a_step(tmp_path: pathlib.Path):
    lines = [
        {"step": 2, "group": "train", "loss": float("nan"), "skipped": 1.0},
        {"step": 2, "group": "val", "whdr": 0.25},
        {"step": "2", "group": "train"},
        {"step": 3, "group": "val", "whdr": "low"},
        {"group": "train"},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert [line["skipped"] for line in metrics(tmp_path, "train")] == [1.0]
    assert metrics(tmp_path, "val") == [lines[1]]
