r"""Measure how long a training step takes with few and with many pairs, and the loss's share of it.

python scripts/measure_pairs.py
python scripts/measure_pairs.py --config configs/ranking_resnet50.py --json pairs.json

For each number of pairs an image: the whole compiled step of the configuration, its state donated,
and the loss alone (drawing the pairs, labelling, loss and its gradient by the scores) on scores of
the same shape. The last row is the loss alone at 384x384, batch 8, 3000 pairs. Everything is timed
in turn, round by round. Training images are a fixed batch of the embedded scenes. Prints a table in
Markdown: median and range over the rounds. --config.… changes the configuration.

The share is the quotient of the two times, not a profile: what the compiler overlaps or fuses with
the network counts in full. The step's metric WHDR gathers the scores once more, beyond the loss.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.config import Choice, Config, DataConfig
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS, SOURCES

if TYPE_CHECKING:
    from reldepth_jax.types import Batch

PAIRS = "100,1000,3000,10000,30000,100000"
REFERENCE = DataConfig(crop=(384, 384), batch_size=8)
REFERENCE_PAIRS = 3000
_WINDOW = 0.2
"""Seconds that a round gives to each of them, if one call does not take longer."""


def main() -> int:
    """Compile, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", default="configs/ranking.py", help="default: configs/ranking.py"
    )
    parser.add_argument(
        "--pairs", type=_numbers, default=PAIRS, metavar="N,N,…", help=f"default: {PAIRS}"
    )
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--json", type=pathlib.Path, help="file to write all times to")
    options, assignments = command.parse(parser, overrides=True)
    if options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {options.rounds}")
    settings = config.override(config.load(options.config), assignments)
    config.validate(settings)
    settings_of = {number: _with_pairs(settings, number) for number in options.pairs}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)

    # Only now, because importing JAX takes longer than telling a mistake.
    import jax

    from reldepth_jax import runtime
    from reldepth_jax.run_dir.numerics import numerics
    from reldepth_jax.training import step as step_module
    from reldepth_jax.training.state import new_state

    runtime.set_up()  # as in training
    machine = {
        **numerics(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f}",
    }
    batch = _batch(settings, settings.data)
    state = new_state(settings)[1]

    def step(function: Callable[..., Any]) -> Any:
        nonlocal state
        state, metrics = function(state, batch)
        return state, metrics

    calls: dict[tuple[str, int], Callable[[], Any]] = {}
    for number, changed in settings_of.items():
        calls["step", number] = functools.partial(step, step_module.step_function(changed))
        calls["loss", number] = _loss_alone(changed, batch)
    reference = _with_pairs(settings, REFERENCE_PAIRS)
    calls["reference", REFERENCE_PAIRS] = _loss_alone(reference, _batch(settings, REFERENCE))

    seconds: dict[tuple[str, int], list[float]] = {what: [] for what in calls}
    repeats = {}
    with command.progress_bar("compiling, then measuring") as progress:
        done, total = 0, (options.rounds + 1) * len(calls)
        for turn in range(options.rounds + 1):
            for what, call in calls.items():
                progress(done, total)
                if turn == 0:  # compiles and warms up
                    jax.block_until_ready(call())
                    repeats[what] = max(1, min(100, math.ceil(_WINDOW / _time(call, 1))))
                else:
                    seconds[what].append(_time(call, repeats[what]))
                done += 1

    print("| pairs an image | step, ms | loss alone, ms | share of the loss, % |")
    print("| --- | --- | --- | --- |")
    shares = {
        number: [
            loss / step
            for loss, step in zip(seconds["loss", number], seconds["step", number], strict=True)
        ]
        for number in options.pairs
    }
    for number in options.pairs:
        print(
            f"| {number} | {_cell(seconds['step', number], 1000)}"
            f" | {_cell(seconds['loss', number], 1000)} | {_cell(shares[number], 100)} |"
        )
    height, width = REFERENCE.crop
    alone = seconds["reference", REFERENCE_PAIRS]
    print(
        f"| {REFERENCE_PAIRS}, {height}x{width}, batch {REFERENCE.batch_size} | -"
        f" | {_cell(alone, 1000)} | - |"
    )
    height, width = settings.data.crop
    told = " ".join([options.config, *(f"{name}={value}" for name, value in assignments.items())])
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    print(
        f"\n{told}: {height}x{width}, batch {settings.data.batch_size}, loss {settings.loss.name},"
        f" pairs {settings.pairs.name}. {options.rounds} rounds, in turn; median (range). {facts}."
    )
    if options.json is not None:
        report = {
            "config": options.config,
            "overrides": assignments,
            "crop": settings.data.crop,
            "batch_size": settings.data.batch_size,
            "loss": settings.loss.name,
            "sampler": settings.pairs.name,
            "machine": machine,
            "rounds": options.rounds,
            "rows": [
                {
                    "pairs": number,
                    "step_seconds": _numbers_of(seconds["step", number]),
                    "loss_seconds": _numbers_of(seconds["loss", number]),
                    "share": _numbers_of(shares[number]),
                }
                for number in options.pairs
            ],
            "loss_alone": {
                "crop": REFERENCE.crop,
                "batch_size": REFERENCE.batch_size,
                "pairs": REFERENCE_PAIRS,
                "loss_seconds": _numbers_of(alone),
            },
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _numbers(text: str) -> list[int]:
    return sorted({int(word) for word in text.split(",")})


def _with_pairs(settings: Config, number: int) -> Config:
    """Return the configuration with so many pairs an image, and none drawn beyond them."""
    name = settings.pairs.name
    if PAIR_SAMPLERS.lookup(name).options.get("num_pairs", ("",))[0] != "int":
        raise UserError(
            f"pairs.name={name} cannot draw a given number of pairs; take"
            " --config.pairs.name=uniform or edge_guided"
        )
    if number < 1:
        raise UserError(f"--pairs: an image has at least 1, got {number}")
    pairs = {key: value for key, value in settings.pairs.options.items() if key != "padded_to"}
    return dataclasses.replace(settings, pairs=Choice(name, **{**pairs, "num_pairs": number}))


def _batch(settings: Config, data: DataConfig) -> "Batch":
    """Return embedded scenes of the size that `data` has, on the device, with what pairs need."""
    import jax
    import numpy as np

    sampler = PAIR_SAMPLERS.create(settings.pairs.name, **settings.pairs.options)
    instances = "instances" in getattr(sampler, "needs", ())
    scenes = SOURCES.create("synthetic", split="train", size=data.crop, instances=instances)
    # Not the pipeline: its threads would go on rendering during the measurement.
    samples = [scenes[index] for index in range(data.batch_size)]
    keys = samples[0].keys()
    return jax.device_put({key: np.stack([each[key] for each in samples]) for key in keys})


def _loss_alone(settings: Config, batch: "Batch") -> Callable[[], Any]:
    """Return what draws pairs and gives loss and gradient, anew with each call."""
    import jax

    loss = LOSSES.create(settings.loss.name, **settings.loss.options)
    sampler = PAIR_SAMPLERS.create(settings.pairs.name, **settings.pairs.options)
    scores = jax.random.normal(jax.random.key(1), batch["mask"].shape)

    @jax.jit
    def compute(number: jax.Array, scores: jax.Array, batch: "Batch") -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(jax.random.key(0), number)
        value, gradient = jax.value_and_grad(loss)(scores, batch, sampler(key, batch))
        return number + 1, value, gradient

    # Each call waits for the one before, as steps do.
    number = jax.numpy.zeros((), jax.numpy.int32)

    def call() -> tuple[jax.Array, ...]:
        nonlocal number
        number, value, gradient = compute(number, scores, batch)
        return number, value, gradient

    return call


def _time(call: Callable[[], Any], repeats: int) -> float:
    """Return the seconds that one call takes, dispatch included."""
    import jax

    began = time.perf_counter()
    result = None
    for _ in range(repeats):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - began) / repeats


def _numbers_of(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


def _cell(values: list[float], scale: float) -> str:
    middle, low, high = (scale * f(values) for f in (statistics.median, min, max))
    return f"{middle:.3g} ({low:.3g}-{high:.3g})"


if __name__ == "__main__":
    command.run(main)
