"""Where numbers and pictures go: CSV, Weights & Biases; what fails costs a line, not the run."""

import csv
import importlib
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

from reldepth_jax.config import Config, ConfigError, override, validate
from reldepth_jax.training.metrics_writer import MetricsWriter


def writing(*names: str) -> Config:
    return override(Config(), {"train.writers": ",".join(names)})


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_writers_are_chosen_and_checked_as_other_fields():
    assert Config().train.writers == ("tensorboard",)
    assert writing("csv", "wandb").train.writers == ("csv", "wandb")
    assert writing("none").train.writers == ()
    with pytest.raises(ConfigError, match=r"^train.writers: 'cvs' .* Did you mean 'csv'\?$"):
        validate(writing("cvs"))


def test_only_what_is_chosen_is_written(tmp_path: pathlib.Path):
    records = MetricsWriter(tmp_path, writing("none"))
    records.scalars(1, "train", {"loss": 0.5})
    records.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line.pop("time") > 1.7e9
    assert line == {"step": 1, "group": "train", "loss": 0.5}


# CSV


def test_tables_have_the_numbers_of_each_group_and_a_continued_run_appends(tmp_path: pathlib.Path):
    for session in (1, 3):
        records = MetricsWriter(tmp_path, writing("csv"), pytest.fail)
        for step in (session, session + 1):
            records.scalars(step, "train", {"loss": 1 / step, "whdr": 0.25})
        records.scalars(session, "val", {"whdr": float("nan")})
        records.close()
        # A kill cuts the last row short.
        with open(tmp_path / "metrics_train.csv", "a") as file:
            file.write("9,17")
    MetricsWriter(tmp_path, writing("csv"), pytest.fail).scalars(
        5, "train", {"loss": 0.0, "whdr": 0.0}
    )
    found = rows(tmp_path / "metrics_train.csv")
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5]
    assert [float(row["loss"]) for row in found] == [1, 1 / 2, 1 / 3, 1 / 4, 0]
    assert all(float(row["time"]) > 1.7e9 for row in found)
    assert [row["whdr"] for row in rows(tmp_path / "metrics_val.csv")] == ["nan", "nan"]


def test_a_table_with_other_columns_is_left_as_it_is_with_one_line(tmp_path: pathlib.Path):
    table, said = tmp_path / "metrics_train.csv", []
    table.write_text("step,other\n1,2\n")
    records = MetricsWriter(tmp_path, writing("csv"), said.append)
    for step in (1, 2):
        records.scalars(step, "train", {"loss": 0.5})
    assert said == [
        f"metrics and pictures cannot be written ({table} has other columns; move it away);"
        " training goes on without them"
    ]
    assert table.read_text() == "step,other\n1,2\n"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


# Weights & Biases


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    # No login of this machine, and no settings of it.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    # It reads the environment once in a process.
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()


def journal(content: bytes) -> list[bytes]:
    """Return the records of a `.wandb` file: LevelDB's log format behind a head of 7 bytes.

    Blocks of 32 KiB hold pieces: checksum (4 bytes), length (2), and 1 whole, 2 first, 3 middle, 4
    last. What a kill cut short is left out.
    """
    records, place = [], 7
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        piece = content[place + 7 : place + 7 + length]
        place += 7 + length
        if len(piece) < length or kind == 0:
            break
        if kind in (1, 2):
            records.append(piece)
        else:
            records[-1] += piece
    return records


def test_sessions_of_a_run_share_one_run_there_also_after_a_kill(
    tmp_path: pathlib.Path, offline: None
):
    proto: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    run = tmp_path / "ranking"
    run.mkdir()
    program = f"""
        import os, pathlib, sys
        import numpy as np
        from reldepth_jax.training.metrics_writer import MetricsWriter
        from tests.training.test_writers import writing
        records = MetricsWriter(pathlib.Path({str(run)!r}), writing("wandb"))
        if sys.argv[1] == "first":
            for step in (10, 20):
                records.scalars(step, "train", {{"loss": 1.0 / step}})
            os.kill(os.getpid(), 9)
        # Step 20 again, and a picture.
        records.scalars(20, "train", {{"loss": 0.25}})
        records.picture(20, "val", np.full((4, 6, 3), 7, np.uint8))
        records.close()
    """
    for session, code in (("first", -signal.SIGKILL), ("second", 0)):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), session],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "cannot be written" not in done.stdout
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"))
    name = (run / "wandb/run_id").read_text()
    assert [path.name for path in files] == [f"run-{name}.wandb"] * 2
    assert len(name) == 8

    # What a killed session had not flushed is lost: the last one counts.
    logged, begun, settings = [], [], {}
    for data in journal(files[-1].read_bytes()):
        record: Any = proto.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {".".join(item.nested_key): item.value_json for item in record.history.item}
            logged.append({name: json.loads(value) for name, value in items.items()})
        elif record.HasField("run"):
            begun.append((record.run.run_id, record.run.project, record.run.display_name))
            settings |= {item.key: item.value_json for item in record.run.config.update}
    assert {*begun} == {(name, "reldepth", "ranking")}
    assert json.loads(settings["train"])["writers"] == ["wandb"]
    losses = [(line["step"], line["train/loss"]) for line in logged if "train/loss" in line]
    assert losses == [(20, 0.25)]
    (picture,) = [line for line in logged if "val.format" in line]
    assert (picture["step"], picture["val.width"], picture["val.height"]) == (20, 6, 4)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (False, "no login: run wandb login, or set WANDB_MODE=offline"),
        (True, "wandb is missing: pip install 'reldepth-jax[wandb]'"),
    ],
)
def test_without_package_or_login_one_line_says_so(
    tmp_path: pathlib.Path,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
    missing: bool,
    told: str,
):
    monkeypatch.delenv("WANDB_MODE")
    if missing:
        monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    records = MetricsWriter(tmp_path, writing("wandb", "csv"), said.append)
    records.scalars(1, "train", {"loss": 0.5})
    records.close()
    assert said == [f"Weights & Biases cannot be written ({told}); training goes on without them"]
    assert rows(tmp_path / "metrics_train.csv")[0]["loss"] == "0.5"


def test_a_service_that_fails_later_is_left_alone(
    tmp_path: pathlib.Path, offline: None, monkeypatch: pytest.MonkeyPatch
):
    import wandb

    calls, said = [], []

    class Failing:
        url, dir = None, "somewhere"

        def define_metric(self, *_: str, **__: str) -> None:
            pass

        def log(self, values: dict[str, float]) -> None:
            calls.append(values)
            raise RuntimeError("the server\nis gone")

        def finish(self) -> None:
            calls.append("finish")

    monkeypatch.setattr(wandb, "init", lambda **_: Failing())
    records = MetricsWriter(tmp_path, writing("wandb"), said.append)
    for step in (1, 2):
        records.scalars(step, "train", {"loss": 0.5})
        records.picture(step, "val", np.zeros((2, 2, 3), np.uint8))
    records.close()
    assert calls == [{"step": 1, "train/loss": 0.5}]
    assert said == [
        "Weights & Biases: somewhere",
        "Weights & Biases cannot be written (the server); training goes on without them",
    ]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
