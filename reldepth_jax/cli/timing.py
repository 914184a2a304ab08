"""Timing several calls in turn, A B A B: what disturbs one round disturbs all calls alike."""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

WINDOW = 0.3
"""Seconds that a round gives to each call, if it does not take longer alone."""
MOST = 1000
"""Repetitions in a window."""

K = TypeVar("K", bound=Hashable)
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}


class Call(NamedTuple):
    """Something to be timed."""

    run: Callable[[], Any]
    wait: Callable[[Any], Any] = lambda result: None
    """Returns when the last result is there; devices compute behind our back."""


class Seconds(NamedTuple):
    """What one call took, a value for each round."""

    wall: list[float]
    cpu: list[float]
    """CPU time of this process, all threads: hardly changed by what else runs on the machine."""


class Spread(NamedTuple):
    """Median and range over the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and range of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(first: Sequence[float], second: Sequence[float]) -> Spread:
    """Return the spread of first / second, round by round."""
    return spread([a / b if b else math.inf for a, b in zip(first, second, strict=True)])


def shown(values: Sequence[float], unit: str = "s") -> str:
    """Return median and range as text; seconds as s, ms or us."""
    found = spread(values)
    if unit == "s":
        unit = next((u for u in UNITS if found.median * UNITS[u] >= 1), "us")
        found = Spread(*(value * UNITS[unit] for value in found))
    return f"{found.median:.4g} {unit} ({found.low:.4g}–{found.high:.4g})"


def interleave(
    calls: Mapping[K, Call],
    rounds: int,
    *,
    window: float | None = None,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[K, Seconds]:
    """Return what each call took in each of the rounds, in which they follow one another.

    A first round, not counted, warms up (each call twice: the first time it may compile) and
    decides how often a call is repeated within `window` seconds (default: WINDOW).
    """
    window = WINDOW if window is None else window
    taken = {name: Seconds([], []) for name in calls}
    repeats: dict[K, int] = {}
    total = (rounds + 1) * len(calls)
    for turn in range(rounds + 1):
        for place, (name, call) in enumerate(calls.items()):
            progress(turn * len(calls) + place, total)
            if turn == 0:
                call.wait(call.run())
                seconds = _once(call, 1, wall, cpu)[0]
                repeats[name] = max(1, min(MOST, math.floor(window / max(seconds, 1e-9))))
                continue
            for values, value in zip(
                taken[name], _once(call, repeats[name], wall, cpu), strict=True
            ):
                values.append(value)
    progress(total, total)
    return taken


def _once(
    call: Call, repeats: int, wall: Callable[[], float], cpu: Callable[[], float]
) -> tuple[float, float]:
    began, used = wall(), cpu()
    result = None
    for _ in range(repeats):
        result = call.run()
    call.wait(result)
    return (wall() - began) / repeats, (cpu() - used) / repeats
