"""Measure speed on this machine, or beside PyTorch.

reldepth benchmark
reldepth benchmark --config ranking_resnet50 --pairs 100,1000,3000,10000 --json speed.json
reldepth benchmark --against torch
reldepth benchmark --parts step,forward --encoder resnet18 --quick
python scripts/benchmark.py …     the same, from a clone

For a configuration: the training step, the loss alone (drawing pairs, labels, loss and its gradient
by the scores) and its share of the step, and the forward pass of one image from bytes to scores.
They run in turn, round by round; the table has median and range over the rounds. Images are
embedded scenes. On a machine that other jobs use, read the CPU time, best on one core: put
`taskset -c 0` before the command.

The share is the quotient of two times: what the compiler fuses with the network counts in full.

Options of a comparison, in a clone: the paper's network and loss, part by part (benchmarks/suite.py
says what each part is), with --against torch beside the same in PyTorch, eager and compiled, and on
CPU in ONNX Runtime and OpenVINO if they are installed.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import reldepth_jax
from reldepth_jax import config
from reldepth_jax.cli import command, timing
from reldepth_jax.config import Choice, Config
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS, SOURCES

if TYPE_CHECKING:
    import numpy as np

    from reldepth_jax.training.state import TrainState
    from reldepth_jax.types import Batch

COMPARISON = ("against", "parts", "encoder", "dtype", "size", "batch", "quick")
"""Options of the comparison."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("benchmark", __doc__)
    options.add_argument("--config", metavar="NAME[:VARIANT]", help="default: ranking")
    options.add_argument(
        "--pairs",
        type=command.numbers,
        default=[],
        metavar="N,N,…",
        help="pairs an image; default: those of the configuration",
    )
    options.add_argument("--rounds", type=int, help="default: 7, with --quick 3")
    options.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write all times there")
    group = options.add_argument_group("comparison, in a clone of the repository")
    group.add_argument("--against", choices=["torch"], help="measure beside it")
    group.add_argument(
        "--parts",
        metavar="A,B,…",
        help="of step, forward, transformer, layers, loss, resize, prepare, input, checkpoint,"
        " compile, memory, kernels; default: all",
    )
    group.add_argument("--encoder", metavar="NAME", help="a ResNet, default: resnet50")
    group.add_argument("--dtype", choices=["float32", "bfloat16"], help="of convolutions")
    group.add_argument(
        "--size", type=int, help="side of images, default: 384, on CPU 256 for the step"
    )
    group.add_argument(
        "--batch",
        type=command.numbers,
        metavar="N,N,…",
        help="of the step, default: 32, on CPU 4",
    )
    group.add_argument("--quick", action="store_true", help="fewer rounds and smaller data")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    options, assignments = command.parse(parser(), argv, overrides=True)
    if options.rounds is not None and options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {options.rounds}")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    given = [name for name in COMPARISON if getattr(options, name) not in (None, False)]
    if not given:
        return _measure(options, assignments)
    if options.config or assignments:
        raise UserError(f"--{given[0]} compares the paper's network: leave --config")
    return _suite(given[0]).run(options)


def _measure(options: argparse.Namespace, assignments: dict[str, str]) -> int:
    """Measure a configuration, print, write."""
    name = options.config or "ranking"
    settings = config.override(config.load(name), assignments)
    config.validate(settings)
    variants = [_with_pairs(settings, number) for number in options.pairs] or [settings]
    rounds = options.rounds or 7

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.run_dir.numerics import numerics

    runtime.set_up()
    with command.progress_bar("compiling, then measuring") as progress:
        seconds = timing.interleave(_calls(variants), rounds, progress=progress)
    height, width = settings.data.crop
    title = f"{name}: {height}x{width}, batch {settings.data.batch_size}"
    facts = ", ".join(f"{name} {value}" for name, value in numerics().items())
    print(f"{title}; {facts}. {rounds} rounds: median (range).\n")
    print("| | time | CPU time | |\n| --- | --- | --- | --- |")
    rows = []
    for what, taken in seconds.items():
        note = ""
        if what.startswith("step"):
            rate = settings.data.batch_size / timing.spread(taken.wall).median
            note = f"{rate:.3g} images/s"
        elif what.startswith("loss"):
            step = seconds[what.replace("loss", "step", 1)]
            note = f"{timing.ratios(taken.wall, step.wall).median:.2%} of the step"
        print(f"| {what} | {timing.shown(taken.wall)} | {timing.shown(taken.cpu)} | {note} |")
        rows.append({"what": what, **taken._asdict(), "note": note})
    if options.json is not None:
        report = {"config": name, "overrides": assignments, "machine": numerics()}
        text = json.dumps(report | {"rows": rows}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _suite(option: str) -> Any:
    """Return the comparison, which lies beside the package and not in it."""
    root = pathlib.Path(reldepth_jax.__file__).parents[1]
    if not (root / "benchmarks/suite.py").exists():
        raise UserError(
            f"--{option} needs the folder benchmarks/ of the repository: run this in a clone, after"
            " pip install -e ."
        )
    sys.path.insert(0, str(root))
    return importlib.import_module("benchmarks.suite")


def _with_pairs(settings: Config, number: int) -> Config:
    """Return the configuration with so many pairs an image, and none drawn beyond them."""
    name = settings.pairs.name
    if PAIR_SAMPLERS.lookup(name).options.get("num_pairs", ("",))[0] != "int":
        raise UserError(
            f"pairs.name={name} cannot draw a given number of pairs; take"
            " --config.pairs.name=uniform or edge_guided"
        )
    pairs = {key: value for key, value in settings.pairs.options.items() if key != "padded_to"}
    return dataclasses.replace(settings, pairs=Choice(name, **{**pairs, "num_pairs": number}))


def _calls(variants: list[Config]) -> dict[str, timing.Call]:
    """Return what is timed, by name."""
    import numpy as np

    from reldepth_jax.training.state import new_state

    settings = variants[0]
    batch = scenes(settings)
    scores = np.random.default_rng(1).standard_normal(batch["mask"].shape, np.float32)
    calls = {}
    for each in variants:
        pairs = f", {each.pairs.options['num_pairs']} pairs" if len(variants) > 1 else ""
        # A state each: the step takes over the memory of the one it is given.
        calls[f"step{pairs}"] = step(each, new_state(each)[1], batch)
        calls[f"loss{pairs}"] = loss(each, scores, batch)
    image, state = batch["image"][:1], new_state(settings)[1]
    calls["forward, one image"] = timing.Call(functools.partial(forward(settings, state), image))
    return calls


def scenes(settings: Config) -> "dict[str, np.ndarray]":
    """Return a batch of embedded scenes, with what the pair sampler needs of them."""
    import numpy as np

    sampler = PAIR_SAMPLERS.create(settings.pairs.name, **settings.pairs.options)
    instances = "instances" in getattr(sampler, "needs", ())
    source = SOURCES.create(
        "synthetic", split="train", size=settings.data.crop, instances=instances
    )
    # Not the pipeline: its threads would go on rendering during the measurement.
    samples = [source[index] for index in range(settings.data.batch_size)]
    return {key: np.stack([each[key] for each in samples]) for key in samples[0]}


def step(settings: Config, state: "TrainState", batch: "Mapping[str, np.ndarray]") -> timing.Call:
    """Return the training step, compiled when first called; it returns its loss."""
    import jax

    from reldepth_jax.training.step import step_function

    function = step_function(settings)
    on_device: Any = jax.device_put(dict(batch))

    def run() -> jax.Array:
        nonlocal state
        state, metrics = function(state, on_device)
        return metrics["loss"]

    return timing.Call(run, jax.block_until_ready)


def forward(
    settings: Config, state: "TrainState", *, fast: bool = False
) -> "Callable[[np.ndarray], np.ndarray]":
    """Return images, uint8 (b, h, w, 3) -> scores, both on the host."""
    import numpy as np

    from reldepth_jax.data.images.preprocessing import Preprocessing
    from reldepth_jax.inference.networks import Model
    from reldepth_jax.weights import arrays

    variables = arrays.of_states(state.params, state.stats)
    model = Model(settings.model, variables, Preprocessing(), {}, fast)
    return lambda images: np.asarray(model(images))


def loss(settings: Config, scores: "np.ndarray", batch: "Mapping[str, np.ndarray]") -> timing.Call:
    """Return what draws pairs and gives loss and gradient by the scores."""
    import jax

    function = LOSSES.create(settings.loss.name, **settings.loss.options)
    sampler = PAIR_SAMPLERS.create(settings.pairs.name, **settings.pairs.options)
    on_device, scores_there = jax.device_put((dict(batch), scores))

    @jax.jit
    def compute(number: jax.Array, scores: jax.Array, batch: "Batch") -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(jax.random.key(0), number)
        return number + 1, *jax.value_and_grad(function)(scores, batch, sampler(key, batch))

    # Each call waits for the one before, as steps do.
    number = jax.numpy.zeros((), jax.numpy.int32)

    def run() -> tuple[jax.Array, ...]:
        nonlocal number
        number, value, gradient = compute(number, scores_there, on_device)
        return value, gradient

    return timing.Call(run, jax.block_until_ready)
