"""Charts, drawn with Matplotlib (`pip install 'reldepth-jax[plot]'`).

Drawing functions take the axes or the figure, so that only `save_figure` imports Matplotlib.
"""

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation import curves
from reldepth_jax.metrics.confidence import Reliability
from reldepth_jax.metrics.ordinal import RULE


def save(path: pathlib.Path, draw: Callable[[Any], None]) -> None:
    """Write a chart as PNG; without Matplotlib print one line instead.

    Args:
      draw: draws on the `matplotlib.axes.Axes` that it gets.
    """
    try:
        save_figure(path, lambda figure: draw(figure.subplots()), (9.0, 5.2))
    except MissingError as error:
        print(f"{path.name} is left out: {error}", file=sys.stderr)


class MissingError(UserError):
    """Matplotlib is not installed."""


def save_figure(
    path: pathlib.Path, draw: Callable[[Any], None], inches: tuple[float, float]
) -> None:
    """Write a picture of charts in the format that the name of the file ends with.

    Args:
      draw: draws on the `matplotlib.figure.Figure` that it gets.
      inches: width and height.

    Raises MissingError, and UserError for a format that Matplotlib does not write.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingError("Matplotlib is missing; pip install 'reldepth-jax[plot]'") from None
    figure = Figure(figsize=inches, layout="constrained")
    kind, known = path.suffix.lower().removeprefix("."), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UserError(f"{path}: no format of pictures; known endings: {', '.join(sorted(known))}")
    draw(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        figure.savefig(file, format=kind)


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


_TITLES = {"loss": "training loss", "whdr": "validation WHDR", "same_row": "validation, same row"}
_AXES: Mapping[curves.Axis, str] = {"steps": "steps", "minutes": "minutes of training"}


def runs(figure: Any, groups: Mapping[str, Sequence[curves.Run]]) -> None:
    """Draw what groups of runs have learnt: curves over steps and over time, newest errors.

    A line is the mean of a group, the band its least and greatest value. Dashed: the rule "lower in
    the image is nearer" on the same pairs, where all runs have the same.
    """
    rows = figure.subplots(3, 3, gridspec_kw={"height_ratios": (1, 1, 0.8)})
    colours = {name: f"C{number % 10}" for number, name in enumerate(groups)}
    styles = {name: ("-", "--", ":")[number // 10 % 3] for number, name in enumerate(groups)}
    for row, (axis, words) in zip(rows, _AXES.items(), strict=False):
        for axes, (measure, title) in zip(row, _TITLES.items(), strict=True):
            of_pairs = measure != "loss"
            share = 100 if of_pairs else 1
            for name, group in groups.items():
                found = curves.band([run.curves[measure] for run in group], axis)
                if found is None:
                    continue
                line = {"color": colours[name], "linestyle": styles[name], "label": name}
                axes.plot(found.places, share * found.mean, **line)
                if len(group) > 1:
                    low, high = share * found.low, share * found.high
                    axes.fill_between(
                        found.places, low, high, color=colours[name], alpha=0.2, linewidth=0
                    )
            rules = {
                run.last(f"rule_{measure}")
                for group in groups.values()
                for run in group
                if of_pairs
            }
            if len(rules) == 1:
                axes.axhline(100 * rules.pop(), color="gray", linestyle="--", label=RULE)
            axes.set(title=title, xlabel=words, ylabel="percent" if of_pairs else "loss")
            axes.grid(alpha=0.3)
    for axes, measure in zip(rows[2][:2], ("whdr", "same_row"), strict=True):
        for place, (name, group) in enumerate(groups.items()):
            errors = [100 * run.last(measure) for run in group]
            axes.plot(errors, [place] * len(errors), "o", color=colours[name], alpha=0.6)
            axes.annotate(
                f"{np.mean(errors):.1f}",
                (float(np.mean(errors)), place),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
            )
        axes.set(
            title=f"{_TITLES[measure]}, newest",
            xlabel="percent; points: runs, number: their mean",
            yticks=range(len(groups)),
            yticklabels=[*groups],
            ylim=(len(groups) - 0.5, -0.5),
        )
        axes.margins(x=0.15)
        axes.grid(alpha=0.3, axis="x")
    rows[2][2].axis("off")
    handles, labels = rows[0][1].get_legend_handles_labels()
    several = any(len(group) > 1 for group in groups.values())
    rows[2][2].legend(
        handles,
        labels,
        title="lines: means, bands: ranges of groups" if several else None,
        loc="center",
        frameon=False,
        fontsize="large",
    )
