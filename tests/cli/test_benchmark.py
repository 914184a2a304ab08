"""The own measurement of `reldepth benchmark`: what is timed, and what is printed of it."""

import json
import pathlib
import re
import statistics

import jax
import numpy as np
import pytest

import reldepth_jax
from reldepth_jax import config
from reldepth_jax.cli import benchmark, timing
from reldepth_jax.config import Choice, Config, DataConfig
from reldepth_jax.errors import UserError

TINY = "tests/fixtures/marked_config.py"


def small(**choices: Choice) -> Config:
    # Which field a choice is for is up to the caller.
    return Config(data=DataConfig(crop=(32, 64), batch_size=2), **choices)  # type: ignore[arg-type]


def test_the_table_and_the_file_say_the_same(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(timing, "WINDOW", 0.01)
    path = tmp_path / "new" / "speed.json"
    arguments = ["--config", TINY, "--pairs", "50,9,50", "--rounds", "3", "--json", str(path)]
    assert benchmark.main([*arguments, "--config.train.seed=0"]) == 0
    report = json.loads(path.read_text())
    assert report["config"] == TINY
    assert report["overrides"] == {"train.seed": "0"}
    assert report["machine"]["jax"] == jax.__version__
    rows = {row["what"]: row for row in report["rows"]}
    names = ["step, 9 pairs", "loss, 9 pairs", "step, 50 pairs", "loss, 50 pairs"]
    assert list(rows) == [*names, "forward, one image"]
    assert all(len(row["wall"]) == len(row["cpu"]) == 3 for row in rows.values())
    assert all(min(row["wall"]) > 0 for row in rows.values())
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(table) == 2 + len(rows)
    for line, row in zip(table[2:], rows.values(), strict=True):
        what, wall, _, note = (cell.strip() for cell in line.strip("|").split("|"))
        assert what == row["what"]
        value, unit = re.findall(r"^(\S+) (s|ms|us) \(", wall)[0]
        seconds = float(value) / {"s": 1, "ms": 1e3, "us": 1e6}[unit]
        np.testing.assert_allclose(seconds, statistics.median(row["wall"]), rtol=0.001)
        assert note == row["note"]
    step, loss = rows["step, 9 pairs"], rows["loss, 9 pairs"]
    rate = 4 / statistics.median(step["wall"])
    np.testing.assert_allclose(float(step["note"].split()[0]), rate, rtol=0.01)
    share = statistics.median(np.divide(loss["wall"], step["wall"]))
    np.testing.assert_allclose(float(loss["note"].split("%")[0]), 100 * share, atol=0.01)


@pytest.mark.parametrize("number", [1, 7])
def test_each_call_draws_so_many_new_pairs_and_differentiates_by_the_scores(number: int):
    pairs = Choice("uniform", num_pairs=9, padded_to=900)
    settings = benchmark._with_pairs(small(pairs=pairs, loss=Choice("ranking")), number)
    batch = benchmark.scenes(settings)
    scores = np.random.default_rng(0).standard_normal(batch["mask"].shape, np.float32)
    call = benchmark.loss(settings, scores, batch)
    gradients = [np.asarray(call.run()[1]) for _ in range(8)]
    assert {gradient.shape for gradient in gradients} == {(2, 32, 64)}
    touched = [np.count_nonzero(gradient) for gradient in gradients]
    assert 0 < max(touched) <= 2 * 2 * number
    assert len({gradient.tobytes() for gradient in gradients}) > 6


def test_a_sampler_gets_the_keys_that_it_needs():
    settings = benchmark._with_pairs(small(pairs=Choice("instance_guided")), 5)
    batch = benchmark.scenes(settings)
    assert len(np.unique(batch["instances"])) > 2
    scores = np.zeros(batch["mask"].shape, np.float32)
    assert np.isfinite(benchmark.loss(settings, scores, batch).run()[0])


def test_the_default_configuration_can_be_measured():
    settings = config.load("ranking")
    changed = benchmark._with_pairs(settings, 10)
    assert changed.pairs == Choice("uniform", num_pairs=10)
    assert (changed.model, changed.loss) == (settings.model, settings.loss)
    padded = small(pairs=Choice("uniform", num_pairs=9, padded_to=900))
    assert benchmark._with_pairs(padded, 10).pairs == Choice("uniform", num_pairs=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--pairs", "0,10"], "--pairs: takes whole numbers from 1 on"),
        (["--pairs", "5", "--config.pairs.name=annotated"], "annotated cannot draw a given number"),
        (
            ["--pairs", "5", "--config.pairs.name=mixture", "--config.pairs.num_pairs=(3, 4)"],
            "pairs.name=mixture cannot draw a given number",
        ),
        (["--against", "tensorflow"], "invalid choice: 'tensorflow'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_compiled(arguments: list[str], message: str):
    with pytest.raises(UserError, match=re.escape(message)):
        benchmark.main(["--config", TINY, *arguments])


@pytest.mark.parametrize("option", ["--against=torch", "--parts=step"])
def test_the_comparison_needs_the_repository(
    option: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reldepth_jax, "__file__", str(tmp_path / "reldepth_jax/__init__.py"))
    with pytest.raises(UserError, match="needs the folder benchmarks/ of the repository"):
        benchmark.main([option])


def test_the_comparison_gets_its_options():
    with pytest.raises(UserError, match="--parts: no part 'stp'; there are step, forward"):
        benchmark.main(["--parts", "stp", "--quick", "--encoder", "resnet18"])


def test_the_comparison_has_its_own_configuration():
    with pytest.raises(UserError, match="--quick compares the paper's network: leave --config"):
        benchmark.main(["--quick", "--config", TINY])
