"""Learning curves of runs and of groups of runs, from what each has written about itself.

Of a step that was taken again after a kill, the last line counts. Minutes are those of training:
what lies between two sessions of a run is left out, steps that a kill has cost are not.
"""

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64

from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.history import History, metrics

Axis = Literal["steps", "minutes"]
_MOST = 200
"""Points of a curve; more are averaged in blocks."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One number of one run."""

    steps: Float64[np.ndarray, "n"]
    minutes: Float64[np.ndarray, "n"] | None
    """Of training until then; None of runs that wrote no times."""
    values: Float64[np.ndarray, "n"]

    def along(self, axis: Axis) -> Float64[np.ndarray, "n"] | None:
        """Return what the values are drawn over."""
        return self.steps if axis == "steps" else self.minutes


@dataclasses.dataclass(frozen=True)
class Band:
    """A group of curves: at each place their mean, least and greatest value."""

    places: Float64[np.ndarray, "n"]
    mean: Float64[np.ndarray, "n"]
    low: Float64[np.ndarray, "n"]
    high: Float64[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Run:
    """The curves of one run by name: `loss`, and of validation `whdr`, `same_row` and the rule."""

    curves: Mapping[str, Curve]

    def last(self, name: str) -> float:
        """Return the newest value, NaN if there is none."""
        return float(next(iter(self.curves[name].values[::-1]), math.nan))


VALIDATION = ("whdr", "same_row", "rule_whdr", "rule_same_row")


def read(run_dir: pathlib.Path) -> Run:
    """Return the curves of a run; UserError if it has not validated yet."""
    lines = {group: metrics(run_dir, group) for group in ("train", "val")}
    if not lines["val"]:
        raise UserError(
            f"{run_dir}: no validation is recorded there; give the run directory of a training"
        )
    times = [float(line["time"]) for line in itertools.chain(*lines.values()) if line.get("time")]
    minutes = _minutes(times, History(run_dir).events())
    return Run(
        {"loss": _curve(lines["train"], "loss", minutes)}
        | {name: _curve(lines["val"], name, minutes) for name in VALIDATION}
    )


def band(curves: Sequence[Curve], axis: Axis) -> Band | None:
    """Return the band of a group where all its curves are; None if there is no such place.

    Between two of its points a curve is a straight line.
    """
    found = [(each.along(axis), each.values) for each in map(_thinned, curves)]
    drawn = [(x, y) for x, y in found if x is not None and x.size]
    if len(drawn) < len(found) or not drawn:
        return None
    start, end = max(x[0] for x, _ in drawn), min(x[-1] for x, _ in drawn)
    places = np.unique(np.concatenate([x for x, _ in drawn]))
    places = places[(places >= start) & (places <= end)]
    if not places.size:
        return None
    values = np.stack([np.interp(places, x, y) for x, y in drawn])
    return Band(places, values.mean(0), values.min(0), values.max(0))


def _curve(lines: Sequence[Mapping[str, Any]], name: str, minutes: Mapping[float, float]) -> Curve:
    by_step = {
        line["step"]: line
        for line in lines
        if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    }
    kept = [by_step[step] for step in sorted(by_step)]
    timed = all(line.get("time") for line in kept)
    return Curve(
        np.array([line["step"] for line in kept], np.float64),
        np.array([minutes[line["time"]] for line in kept]) if timed else None,
        np.array([line[name] for line in kept], np.float64),
    )


def _minutes(times: Sequence[float], events: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """Return the minutes of training until each of `times`: not from a session's end to a start."""
    starts = {event["time"] for event in events if event["event"] == "start"}
    known = sorted({*times, *(event["time"] for event in events)})
    passed = {time: 0.0 for time in known[:1]}
    for before, after in itertools.pairwise(known):
        passed[after] = passed[before] + (0 if after in starts else (after - before) / 60)
    return passed


def _thinned(curve: Curve) -> Curve:
    """Return the means of blocks of equally many points, `_MOST` or fewer."""
    size = -(-len(curve.values) // _MOST)
    if size <= 1:
        return curve

    def blocks(values: Float64[np.ndarray, "_"]) -> Float64[np.ndarray, "_"]:
        return np.array([part.mean() for part in np.split(values, range(size, len(values), size))])

    minutes = None if curve.minutes is None else blocks(curve.minutes)
    return Curve(blocks(curve.steps), minutes, blocks(curve.values))
