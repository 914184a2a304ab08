"""Learning curves hold what runs have written; groups are means and ranges."""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reldepth_jax.cli import main as reldepth
from reldepth_jax.evaluation import charts, curves

RULE = {"rule_whdr": 0.4, "rule_same_row": 0.45}


def write(
    run: pathlib.Path,
    loss: Sequence[tuple[int, float, float]],
    whdr: Sequence[tuple[int, float, float]],
    starts: Sequence[float] = (1000.0,),
    rule: dict[str, float] = RULE,
) -> pathlib.Path:
    """Write what a training writes: (step, time, value) of each line."""
    run.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": step, "group": "train", "time": time, "loss": value} for step, time, value in loss
    ]
    lines += [
        {"step": s, "group": "val", "time": time, "whdr": value, "same_row": value + 0.1, **rule}
        for s, time, value in whdr
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = [{"time": time, "event": "start", "step": 0} for time in starts]
    (run / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return run


def test_of_a_step_that_was_taken_again_the_last_line_counts_and_pauses_take_no_time(
    tmp_path: pathlib.Path,
):
    run = write(
        tmp_path / "run",
        # Killed after step 20; a day later it goes on from 10 and takes 20 again.
        [(10, 1060, 0.9), (20, 1120, 0.8), (20, 90060, 0.7), (30, 90120, 0.6)],
        [(0, 1000, 0.5), (30, 90120, 0.2)],
        starts=(1000, 90000),
    )
    loss = curves.read(run).curves["loss"]
    assert loss.steps.tolist() == [10, 20, 30]
    assert loss.values.tolist() == [0.9, 0.7, 0.6]
    assert loss.minutes is not None
    # The first session lasted 2 minutes: both attempts at step 20 have cost their time.
    assert loss.minutes.tolist() == pytest.approx([1, 3, 4])


def test_a_group_is_mean_and_range_where_all_its_runs_are(tmp_path: pathlib.Path):
    one = curves.Curve(np.array([0.0, 10, 20]), None, np.array([1.0, 2, 4]))
    two = curves.Curve(np.array([10.0, 20, 30]), None, np.array([4.0, 8, 9]))
    found = curves.band([one, two], "steps")
    assert found is not None
    assert found.places.tolist() == [10, 20]
    assert (found.low.tolist(), found.high.tolist()) == ([2, 4], [4, 8])
    assert found.mean.tolist() == [3, 6]
    # On the straight line between its points, where another one has a point.
    third = curves.Curve(np.array([0.0, 15, 20]), None, np.array([0.0, 6, 0]))
    found = curves.band([one, third], "steps")
    assert found is not None
    assert found.places.tolist() == [0, 10, 15, 20]
    assert found.low.tolist() == [0, 2, 3, 0]
    assert found.high.tolist() == [1, 4, 6, 4]
    assert curves.band([one, two], "minutes") is None
    apart = curves.Curve(np.array([40.0, 50]), None, np.array([0.0, 0]))
    assert curves.band([one, apart], "steps") is None


def test_many_points_become_means_of_blocks():
    steps = np.arange(1.0, 1001)
    found = curves.band([curves.Curve(steps, None, steps % 2)], "steps")
    assert found is not None
    # Blocks of 5 alternate between 3 and 2 odd numbers.
    assert found.places[:3].tolist() == [3, 8, 13]
    assert found.mean[:3].tolist() == pytest.approx([0.6, 0.4, 0.6])
    assert len(found.places) == 200


def test_what_is_not_finite_is_left_out(tmp_path: pathlib.Path):
    run = write(tmp_path / "run", [(1, 1001, float("nan")), (2, 1002, 0.5)], [(0, 1000, 0.5)])
    assert curves.read(run).curves["loss"].steps.tolist() == [2]


def test_the_chart_shows_groups_over_steps_and_minutes(tmp_path: pathlib.Path):
    def runs(name: str, *ends: float) -> list[curves.Run]:
        return [
            curves.read(
                write(
                    tmp_path / f"{name}{number}",
                    [(5, 1030, 1.0), (10, 1060, end)],
                    [(0, 1000, 0.5), (10, 1060, end)],
                )
            )
            for number, end in enumerate(ends)
        ]

    figure: Any = Figure()
    charts.runs(figure, {"mae": runs("mae", 0.3, 0.2), "ranking": runs("ranking", 0.1)})
    titles = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert [axes.get_xlabel() for axes in figure.axes[:6]] == [
        *["steps"] * 3,
        *["minutes of training"] * 3,
    ]
    mae, ranking, rule = figure.axes[1].lines
    np.testing.assert_allclose(mae.get_xydata(), [[0, 50], [10, 25]])
    np.testing.assert_allclose(ranking.get_xydata(), [[0, 50], [10, 10]])
    assert rule.get_ydata() == [40, 40]
    np.testing.assert_allclose(figure.axes[4].lines[0].get_xydata(), [[0, 50], [1, 25]])
    (band,) = figure.axes[2].collections
    ends = band.get_paths()[0].vertices
    np.testing.assert_allclose(sorted({*ends[ends[:, 0] == 10][:, 1]}), [30, 40])
    newest = titles["validation WHDR, newest"]
    assert [list(line.get_xdata()) for line in newest.lines] == [[30, 20], [10]]
    assert [text.get_text() for text in newest.texts] == ["25.0", "10.0"]
    assert [text.get_text() for text in newest.get_yticklabels()] == ["mae", "ranking"]
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mae", "ranking", "lower is nearer"]


def run_command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        reldepth.main(["plot", *map(str, words)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_the_command_writes_a_picture_and_says_what_it_cannot_show(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    timed = write(tmp_path / "a", [(1, 1001, 0.5)], [(0, 1000, 0.5), (2, 1002, 0.4)])
    other = {"rule_whdr": 0.3, "rule_same_row": 0.4}
    old = write(tmp_path / "b", [(1, 0, 0.5)], [(0, 0, 0.5)], rule=other)
    output = tmp_path / "new/curves.PNG"
    assert run_command(capsys, timed, old, "--output", output) == (
        0,
        f"written: {output}\n",
        "b: 1 of 1 runs wrote no times; curves over minutes are left out\n"
        "the runs are validated on different images or pairs: their errors cannot be compared\n",
    )
    with Image.open(output) as image:
        assert (image.format, image.size) == ("PNG", (1500, 1100))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give run directories"),
        (["nowhere"], "nowhere: no validation is recorded there"),
        (["RUN", "--output", "x.doc"], "x.doc: no format of pictures; known endings: "),
        (["RUN", "RUN"], "two groups are called 'a'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
):
    run = write(tmp_path / "a", [(1, 1001, 0.5)], [(0, 1000, 0.5)])
    monkeypatch.chdir(tmp_path)
    code, _, error = run_command(capsys, *(str(run) if word == "RUN" else word for word in words))
    assert (code, len(error.splitlines())) == (2, 1)
    assert error.startswith(f"error: {told}")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run = write(tmp_path / "a", [(1, 1001, 0.5)], [(0, 1000, 0.5)])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, error = run_command(capsys, run)
    assert (code, error) == (
        2,
        "error: Matplotlib is missing; pip install 'reldepth-jax[plot]'\n",
    )
