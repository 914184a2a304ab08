"""What changes the maps of photographs, and the order in them: bfloat16, and standard shapes.

python -m benchmarks.changed_maps DATA                   the network of the package
python -m benchmarks.changed_maps DATA --photographs 8 --random depth_anything_v2_vits

DATA holds nyu_v2_train and kitchen, as in configs/small.py; the last 80 photographs of NYUv2 and
all of the kitchen are taken. Prints a table for docs/parity.md and one for docs/models.md: by how
much a map differs from the usual one (mean |difference| over the deviation of the usual map), the
share of its pairs that are ordered otherwise, and the errors of both against the ground truth. For
standard shapes photographs are cut to elongations half-way between two of them, lying and standing.
With --random only the difference of a published network in bfloat16, at 252x336, with random
weights: they say nothing about order.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float32

from benchmarks import machine
from benchmarks.exports import with_random_weights
from reldepth_jax import runtime
from reldepth_jax.config import EvalConfig
from reldepth_jax.data.images.preprocessing import STANDARD
from reldepth_jax.evaluation.judged_pairs import labelled_pairs
from reldepth_jax.inference import networks
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample, Source

SETTINGS = EvalConfig(sigma=0.1)
Predict = Callable[[np.ndarray], Float32[np.ndarray, "h w"]]


def sources(folder: str) -> dict[str, Source]:
    """Return the photographs that the network of the package was not trained on."""

    def of(name: str, **options: object) -> Source:
        root, size = f"{folder}/{name}", (1, 1)
        return SOURCES.create("folder", split="test", size=size, root=root, scale=0.001, **options)

    return {
        "NYUv2": of("nyu_v2_train", invalid=(0.0,), train="0:703", val="0:0", test="703:783"),
        "kitchen": of("kitchen", invalid=(0.0, 65535.0), train="0:0", val="0:0", test=":"),
    }


def in_bfloat16(model: networks.Model) -> networks.Model:
    """Return the network with convolutions and linear layers in bfloat16."""
    return dataclasses.replace(
        model, config=dataclasses.replace(model.config, dtype="bfloat16"), fast=False
    )


def difference(usual: Float32[np.ndarray, "h w"], other: Float32[np.ndarray, "h w"]) -> float:
    """Return the mean distance of two maps over the deviation of the first, as shares of it."""
    distance = np.abs(other.astype(np.float64) - usual)
    return float(distance.mean() / usual.std(dtype=np.float64))


def compared(usual: Predict, other: Predict, samples: Iterable[Sample]) -> str:
    """Return the columns of a row: difference, order, errors of both against the ground truth."""
    distances: list[float] = []
    counts: list[list[ErrorCounts]] = []
    for index, sample in enumerate(samples):
        maps = [predict(sample["image"]) for predict in (usual, other)]
        distances.append(difference(*maps))
        pairs, relation = labelled_pairs(sample, index, SETTINGS, same_row=False)
        first, second = (ordinal.difference(each, pairs) for each in maps)
        order = np.sign(first).astype(np.int8)
        judged = [ordinal.strict_error(each, relation) for each in (first, second)]
        counts.append([ordinal.strict_error(second, order), *judged])
    changed, *errors = (ErrorCounts.merge(each) for each in zip(*counts, strict=True))
    moved = ErrorCounts(errors[1].wrong - errors[0].wrong, errors[0].total)
    told = [
        f"{100 * np.mean(distances):.2f} ({100 * np.max(distances):.2f})",
        f"{100 * changed.rate:.2f} [{_interval(changed)}]",
        *(f"{100 * each.rate:.2f}" for each in errors),
        f"{100 * moved.rate:+.2f} [{_interval(moved)}]",
    ]
    return " | ".join(told)


def _interval(counts: ErrorCounts) -> str:
    return ", ".join(f"{100 * each:.2f}" for each in counts.interval)


HEADER = (
    "|  | photographs | difference, % of deviation: mean (worst) | pairs ordered otherwise, % |"
    " error before, % | after | change |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def cut(sample: Sample, elongation: float, standing: bool) -> Sample:
    """Return the largest central part of a sample whose sides have this ratio."""
    height, width = sample["mask"].shape
    ratio = 1 / elongation if standing else elongation
    rows, columns = min(height, round(width / ratio)), min(width, round(height * ratio))
    top, left = (height - rows) // 2, (width - columns) // 2
    window = (slice(top, top + rows), slice(left, left + columns))
    return {
        "image": sample["image"][window],
        "depth": sample["depth"][window],
        "mask": sample["mask"][window],
    }


def half_way() -> Sequence[float]:
    """Return the elongations farthest from all standard shapes, one between any two."""
    ratios = [long / short for short, long in STANDARD]
    return [math.sqrt(a * b) for a, b in zip(ratios, ratios[1:], strict=False)]


def main(argv: list[str] | None = None) -> int:
    """Print the tables and the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder with nyu_v2_train and kitchen")
    parser.add_argument("--photographs", type=int, default=1000, help="of each set, at most")
    parser.add_argument("--table", choices=["bfloat16", "shapes"], help="default: both")
    parser.add_argument("--random", metavar="NAME", help="only a published network, random weights")
    options = parser.parse_args(argv)
    runtime.set_up()
    held = sources(options.data)
    taken = {
        name: [source[i] for i in np.linspace(0, len(source) - 1, count, dtype=int).tolist()]
        for name, source in held.items()
        for count in (min(options.photographs, len(source)),)
    }
    print(" ".join(f"{key}={value}" for key, value in machine.facts().items()), file=sys.stderr)
    if options.random:
        model = with_random_weights(options.random)
        usual, other = (each.predictor(252) for each in (model, in_bfloat16(model)))
        for name, samples in taken.items():
            found = [difference(usual(s["image"]), other(s["image"])) for s in samples]
            print(f"{options.random}, {name}: {100 * np.mean(found):.2f} ({100 * max(found):.2f})")
        return 0
    model = networks.load_model()
    usual = model.predictor()
    samples = [sample for each in taken.values() for sample in each]
    if options.table != "shapes":
        print(HEADER)
        for name, some in taken.items():
            row = compared(usual, in_bfloat16(model).predictor(), some)
            print(f"| bfloat16, {name} | {len(some)} | {row} |", flush=True)
    if options.table != "bfloat16":
        print(HEADER)
        standard = model.predictor(standard_shapes=True)
        for elongation in half_way():
            parts = [cut(each, elongation, way) for each in samples[::4] for way in (False, True)]
            row = compared(usual, standard, parts)
            print(f"| {elongation:.2f}:1 | {len(parts)} | {row} |", flush=True)
    row = compared(usual, model.predictor(160), samples)
    print(f"| `--image-size 160` in place of 192 | {len(samples)} | {row} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
