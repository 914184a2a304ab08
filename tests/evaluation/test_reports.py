"""Reports are written whole or not at all."""

import pathlib

import pytest

from reldepth_jax.data.images import io
from reldepth_jax.evaluation.run_evaluation import write_json


def test_a_full_disk_leaves_the_report_that_was_there(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "eval" / "test.json"
    write_json(path, {"whdr": 0.25})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"whdr": 0.5})
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["test.json"]
