"""Lines of JSON: what a kill has cut short costs one line, not two."""

import pathlib

from reldepth_jax.run_dir.history import History


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
