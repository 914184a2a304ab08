"""Part: the kernels in which the training step spends its time, by JAX's profiler."""

import collections
import math
import pathlib
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from benchmarks import ours, workload
from benchmarks.context import Context
from benchmarks.report import OURS, Part, Row
from reldepth_jax.cli.timing import Call

Times = Mapping[str, float]
"""Seconds of each kernel in one call; `defaultdict`: 0 of one that it lacks."""

KINDS, SINGLE = 12, 20
"""How many are listed, the longest first."""

_HOLD_OTHERS = ("while", "conditional", "call")
"""Their time is that of the kernels within."""


def kernels(context: Context) -> Part:
    """Profile one step a round, of the largest batch."""
    config = context.settings(batch=context.batches[-1])
    state, _ = ours.weights(config)
    step = ours.step(config, state, workload.make_batch(config))
    rounds: list[Times] = []
    with context.bar("kernels") as progress:
        for _ in range(2):  # compiles, warms up
            step.wait(step.run())
        for turn in range(context.rounds):
            progress(turn, context.rounds)
            rounds.append(_profiled(step))
    by_kind = [_by_kind(seconds) for seconds in rounds]
    whole = [math.fsum(seconds.values()) for seconds in rounds]

    def rows(what: str, rounds: list[Times], most: int) -> Iterator[Row]:
        names = sorted(set().union(*rounds))
        middle = {name: statistics.median(each[name] for each in rounds) for name in names}
        for name in sorted(names, key=lambda name: -middle[name])[:most]:
            share = middle[name] / statistics.median(whole)
            values = [each[name] for each in rounds]
            yield Row(f"{what} {name}", OURS, values, note=f"{share:.1%}", facts={"share": share})

    context.say(
        "Busy time of all threads or streams, which may overlap. Kinds: XLA's names of kernels"
        " without their numbers; a fusion is named after what it ends with."
    )
    title = (
        f"Kernels of the training step: {context.encoder},"
        f" {context.step_size}x{context.step_size}, batch {config.data.batch_size}, {context.dtype}"
    )
    listed = [
        Row("all kernels", OURS, whole),
        *rows("all", by_kind, KINDS),
        *rows("kernel", rounds, SINGLE),
    ]
    return Part("kernels", title, listed, context.taken_notes())


def _profiled(step: Call) -> Times:
    """Return the seconds of each kernel in one call."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            step.wait(step.run())
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return _seconds(jax.profiler.ProfileData.from_file(str(file)))


def _seconds(profile: Any) -> Times:
    """Return those of each kernel of a `jax.profiler.ProfileData`.

    Of the devices, or of the host where it is the only one.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    seconds: dict[str, float] = collections.defaultdict(float)
    for plane in devices or planes:
        for line in plane.lines:
            # Of a GPU, other lines repeat what its streams did.
            if devices and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                name = dict(event.stats).get("hlo_op") or (event.name if devices else None)
                if name is not None and _kind(str(name)) not in _HOLD_OTHERS:
                    seconds[str(name)] += event.duration_ns / 1e9
    return seconds


def _kind(name: str) -> str:
    return re.sub(r"([._]\d+)+$", "", name)


def _by_kind(seconds: Times) -> Times:
    found: dict[str, float] = collections.defaultdict(float)
    for name, taken in seconds.items():
        found[_kind(name)] += taken
    return found
