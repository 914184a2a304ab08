"""Step time against the number of pairs: what is timed, and what is told of it."""

import importlib.util
import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
import pytest

from reldepth_jax import config
from reldepth_jax.config import Choice, Config, DataConfig
from reldepth_jax.errors import UserError

TINY = "tests/fixtures/marked_config.py"
SCRIPT = pathlib.Path(__file__).parents[2] / "scripts/measure_pairs.py"
SPEC = importlib.util.spec_from_file_location("measure_pairs", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
script = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(script)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_pairs.py", *map(str, arguments)])
    assert script.main() == 0


def small(**choices: Choice) -> Config:
    # Which field a choice is for is up to the caller.
    return Config(data=DataConfig(crop=(32, 64), batch_size=2), **choices)  # type: ignore[arg-type]


def test_the_table_and_the_file_tell_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(script, "REFERENCE", DataConfig(crop=(32, 32), batch_size=1))
    monkeypatch.setattr(script, "_WINDOW", 0.01)
    path = tmp_path / "new" / "pairs.json"
    run(monkeypatch, "--config", TINY, "--pairs", "50,50", "--rounds", 3, "--json", path,
        "--config.train.seed=0")  # fmt: skip
    report = json.loads(path.read_text())
    assert report["config"] == TINY
    assert report["overrides"] == {"train.seed": "0"}
    assert (report["crop"], report["batch_size"]) == ([32, 64], 4)
    assert report["machine"]["jax"] == jax.__version__
    assert "cpu" in report["machine"]["devices"]
    (row,) = report["rows"]
    assert row["pairs"] == 50
    steps, losses = row["step_seconds"]["rounds"], row["loss_seconds"]["rounds"]
    assert len(steps) == len(losses) == 3
    np.testing.assert_allclose(row["share"]["rounds"], np.divide(losses, steps))
    for found in (row["step_seconds"], row["loss_seconds"], row["share"]):
        values = found["rounds"]
        assert found["median"] == statistics.median(values)
        assert (found["min"], found["max"]) == (min(values), max(values))
        assert found["min"] > 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 4
    cells = [cell.strip().split(" ")[0] for cell in table[2].strip("|").split("|")]
    told = [1000 * row["step_seconds"]["median"], 1000 * row["loss_seconds"]["median"],
            100 * row["share"]["median"]]  # fmt: skip
    np.testing.assert_allclose(list(map(float, cells)), [50, *told], rtol=0.006)
    assert "3000, 32x32, batch 1" in table[3]


@pytest.mark.parametrize("number", [1, 7])
def test_each_call_draws_so_many_new_pairs_and_differentiates_by_the_scores(number: int):
    settings = script._with_pairs(
        small(pairs=Choice("uniform", num_pairs=9, padded_to=900), loss=Choice("ranking")), number
    )
    call = script._loss_alone(settings, script._batch(settings, settings.data))
    gradients = [np.asarray(call()[2]) for _ in range(8)]
    assert {gradient.shape for gradient in gradients} == {(2, 32, 64)}
    touched = [np.count_nonzero(gradient) for gradient in gradients]
    assert 0 < max(touched) <= 2 * 2 * number
    assert len({gradient.tobytes() for gradient in gradients}) > 6


def test_a_sampler_gets_the_keys_that_it_needs():
    settings = script._with_pairs(small(pairs=Choice("instance_guided")), 5)
    batch = script._batch(settings, settings.data)
    assert len(np.unique(batch["instances"])) > 2
    assert np.isfinite(script._loss_alone(settings, batch)()[1])


def test_time_is_that_of_one_call():
    found = script._time(lambda: time.sleep(0.02), 5)
    assert 0.02 <= found < 0.09


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", 0), "--rounds must be at least 1, got 0"),
        (("--pairs", "0,10"), "--pairs: an image has at least 1, got 0"),
        (("--config.pairs.name=annotated",), "pairs.name=annotated cannot draw a given number"),
        (
            ("--config.pairs.name=mixture", "--config.pairs.num_pairs=(3, 4)"),
            "pairs.name=mixture cannot draw a given number",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, "--config", TINY, *arguments)


def test_the_default_configuration_can_be_measured():
    settings = config.load("configs/ranking.py")
    changed = script._with_pairs(settings, 10)
    assert changed.pairs == Choice("uniform", num_pairs=10)
    assert (changed.model, changed.loss) == (settings.model, settings.loss)
    padded = small(pairs=Choice("uniform", num_pairs=9, padded_to=900))
    assert script._with_pairs(padded, 10).pairs == Choice("uniform", num_pairs=10)
