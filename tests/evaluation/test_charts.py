"""Charts hold the numbers that they are given, and are left out without Matplotlib."""

import functools
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from reldepth_jax.evaluation import charts
from reldepth_jax.metrics.confidence import Reliability

BINS = Reliability(np.array([3, 1]), np.array([0.75, 1.0]), np.array([0.25, 0.875]))
CURVES = {"ranking": {0: [0.5, 0.5], 100: [0.2, 0.4]}, "mae": {0: [0.6], 100: [0.1]}}


def test_a_reliability_diagram_has_its_points_where_they_belong():
    axes: Any = Figure().subplots()
    charts.reliability_diagram(axes, {"T = 1": BINS})
    diagonal, points = axes.lines
    assert diagonal.get_xydata().tolist() == [[0.5, 0.5], [1, 1]]
    assert points.get_xydata().tolist() == [[0.75, 0.25], [1.0, 0.875]]
    assert points.get_label() == "T = 1"
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.5, 1), (0, 1))


def test_learning_curves_are_means_over_seeds_in_percent():
    axes: Any = Figure().subplots()
    charts.learning_curves(axes, CURVES, "a title")
    ranking, mae = axes.lines
    np.testing.assert_allclose(ranking.get_xydata(), [[0, 50], [100, 30]])
    np.testing.assert_allclose(mae.get_xydata(), [[0, 60], [100, 10]])
    # One standard deviation of (20, 40) is 10.
    band = axes.collections[0].get_paths()[0].vertices
    assert band[band[:, 0] == 100][:, 1].min() == pytest.approx(20)
    assert band[band[:, 0] == 100][:, 1].max() == pytest.approx(40)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ranking", "mae"]


def test_a_chart_becomes_a_png(tmp_path: pathlib.Path):
    path = tmp_path / "new" / "chart.png"
    charts.save(path, functools.partial(charts.learning_curves, curves=CURVES, title="a title"))
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    assert [file.name for file in path.parent.iterdir()] == ["chart.png"]


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    charts.save(tmp_path / "chart.png", functools.partial(charts.reliability_diagram, bins={}))
    assert capsys.readouterr().err == (
        "chart.png is left out: Matplotlib is missing; pip install 'reldepth-jax[plot]'\n"
    )
    assert not list(tmp_path.iterdir())
