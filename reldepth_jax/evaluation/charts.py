"""Charts, drawn with Matplotlib (`pip install 'reldepth-jax[plot]'`).

Drawing functions take the axes, so that only `save` imports Matplotlib.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.metrics.confidence import Reliability


def save(path: pathlib.Path, draw: Callable[[Any], None]) -> None:
    """Write a chart as PNG; without Matplotlib print one line instead.

    Args:
      draw: draws on the `matplotlib.axes.Axes` that it gets.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(
            f"{path.name} is left out: Matplotlib is missing; pip install 'reldepth-jax[plot]'",
            file=sys.stderr,
        )
        return
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    draw(figure.subplots())
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def reliability_diagram(axes: Any, bins: Mapping[str, Reliability]) -> None:
    """Draw accuracy over confidence as points; below the diagonal a score is surer than right."""
    axes.plot([0.5, 1], [0.5, 1], color="gray", linewidth=1)
    for name, each in bins.items():
        axes.plot(each.confidence, each.accuracy, "o", label=name)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0.5, 1), ylim=(0, 1))
    axes.legend()


def learning_curves(
    axes: Any, curves: Mapping[str, Mapping[int, Sequence[float]]], title: str
) -> None:
    """Draw the mean over seeds of each curve (step -> value of each seed), a share, in percent.

    The band is one standard deviation of the seeds.
    """
    for name, curve in curves.items():
        steps = sorted(curve)
        mean, spread = (
            np.array([100 * reduce(curve[step]) for step in steps]) for reduce in (np.mean, np.std)
        )
        axes.plot(steps, mean, label=name)
        axes.fill_between(steps, mean - spread, mean + spread, alpha=0.15)
    axes.set(title=title, xlabel="steps", ylabel="percent, mean and standard deviation of seeds")
    axes.grid(alpha=0.3)
    axes.legend()
