"""Predict relative depth for photographs and folders.

reldepth predict photo.jpg holiday/ --output out/       the network that comes with the package
reldepth predict photo.jpg --workdir runs/ranking
reldepth predict photo.jpg --weights midas.safetensors
reldepth predict photo.jpg --model midas_v21_small      `reldepth models` lists the names
python scripts/predict.py …     the same, from a clone

For every photograph, at its own size and as it is displayed: NAME.png (16 bits, larger is farther
unless --polarity says otherwise), NAME_color.png (bright is near), on request NAME.npy and NAME.pfm
(float32), and with --confidence NAME_confidence.png: how sure the order of each pixel and the rest
of the photograph is (gray 0 to 255 is 0.5 to 1). out/predictions.jsonl lists them, a line for each
photograph. After a kill the same command continues. Exit code 1 if a file could not be predicted, 2
if nothing was predicted, 6 if the output folder is full or cannot be written to.

reldepth predict photo.jpg --nearer 120,80,300,200   which of two points is nearer; no files
"""

import argparse
import dataclasses
import math
import pathlib
from typing import TYPE_CHECKING

from reldepth_jax.cli import command, which_network
from reldepth_jax.config import ConfigError
from reldepth_jax.run_dir import layout

if TYPE_CHECKING:
    from reldepth_jax.inference.order import Point
    from reldepth_jax.inference.predictor import Predictor


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("predict", __doc__)
    options.add_argument("inputs", nargs="+", help="image files and folders")
    which_network.add(options)
    options.add_argument("--output", type=pathlib.Path, default="out", help="default: out/")
    options.add_argument("--npy", action="store_true", help="also write float32 NPY")
    options.add_argument("--pfm", action="store_true", help="also write PFM")
    options.add_argument(
        "--polarity",
        choices=["depth", "disparity"],
        default="depth",
        help="depth: larger is farther (default); disparity: larger is nearer",
    )
    options.add_argument(
        "--image-size",
        type=int,
        default=0,
        help="size of the image that the network sees (shorter side; for converted networks as"
        " `reldepth models` says); default: what it was trained at",
    )
    options.add_argument(
        "--multiple",
        type=int,
        default=0,
        help="of which the sides of that image are multiples; default: what the network needs (32)."
        " For photographs of many sizes, each of which compiles for seconds, 128 makes fewer of"
        " them, and changes the result a little",
    )
    options.add_argument(
        "--max-pixels",
        type=float,
        default=0,
        metavar="MILLIONS",
        help="of the largest photograph that is read; default: 89",
    )
    options.add_argument(
        "--fast",
        action="store_true",
        help="on CPU: Winograd's algorithm, about half the time an image; errors of some 1e-6",
    )
    options.add_argument("--confidence", action="store_true", help="also write a confidence map")
    options.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the confidence; default: that of the file of weights, or what `reldepth evaluate`"
        " fitted on validation images",
    )
    options.add_argument(
        "--nearer",
        type=_two_points,
        metavar="X1,Y1,X2,Y2",
        help="only print which of two points is nearer, and how sure that is: pixels of the"
        " photograph as it is displayed, x to the right and y down from 0",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, predict, return the exit code."""
    options, _ = command.parse(parser(), argv)
    if options.image_size and options.image_size < 32:
        raise ConfigError(f"--image-size must be at least 32, got {options.image_size}")
    if not 0 <= options.max_pixels < 1e6:
        raise ConfigError(f"--max-pixels must be above 0, got {options.max_pixels}")
    origin = which_network.check(options)
    if options.temperature is not None:
        if not (options.confidence or options.nearer):
            raise ConfigError("--temperature belongs to --confidence and --nearer")
        if not 0 < options.temperature < math.inf:
            raise ConfigError(f"--temperature must be above 0, got {options.temperature}")

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.data.images import io
    from reldepth_jax.inference import files
    from reldepth_jax.run_dir.temperature import load_temperature

    runtime.set_up()
    runtime.keep_compiled()
    model = which_network.load(options)
    if options.fast:
        model = dataclasses.replace(model, fast=True)
    known = options.temperature or model.temperature
    predictor = model.predictor(options.image_size, options.multiple)
    max_pixels = round(options.max_pixels * 1e6) or io.MAX_PIXELS
    if options.nearer:
        return _answer(predictor, options.inputs, options.nearer, known, max_pixels)
    temperature = known if options.confidence else None
    if options.confidence and temperature is None:
        folder = layout.evaluation_folder(pathlib.Path(origin))
        temperature = load_temperature(folder / layout.TEMPERATURE, model.step)
    writer = files.Writer(
        output=options.output,
        npy=options.npy,
        pfm=options.pfm,
        polarity=options.polarity,
        temperature=temperature,
        run=origin,
        step=model.step,
        made_by={
            "weights": model.digest,
            "preprocessing": predictor.preprocessing.to_dict(),
            "fast": model.fast,
        },
    )
    with command.progress_bar("photographs") as progress:
        counts = files.predict_files(predictor, options.inputs, writer, progress, max_pixels)
    there = f", {counts.there} there already" if counts.there else ""
    failed = f"; {counts.failed} failed" if counts.failed else ""
    print(f"{counts.done} predicted{there}, see {io.printable(options.output)}{failed}")
    return 1 if counts.failed else 0


def _two_points(text: str) -> "tuple[Point, Point]":
    """Return the two points that `--nearer` names."""
    try:
        x1, y1, x2, y2 = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"takes four numbers, X1,Y1,X2,Y2 in pixels; got {text!r}"
        ) from None
    return (x1, y1), (x2, y2)


def _answer(
    predictor: "Predictor",
    inputs: list[str],
    points: "tuple[Point, Point]",
    temperature: float | None,
    max_pixels: int,
) -> int:
    """Print for each photograph which point is nearer; return the exit code."""
    from reldepth_jax.data.images import io
    from reldepth_jax.inference.order import order

    (x1, y1), (x2, y2) = points
    for path in inputs:
        answer = order(predictor(io.read_image(path, max_pixels)), *points, temperature)
        first, second = f"({x1:g}, {y1:g})", f"({x2:g}, {y2:g})"
        if answer.nearer is None:
            said = f"{first} and {second} have the same score"
        elif answer.nearer == "first":
            said = f"{first} is nearer than {second}"
        else:
            said = f"{second} is nearer than {first}"
        sure = "no temperature fitted, so not how sure"
        if answer.confidence is not None:
            sure = f"probability {answer.confidence:.2f}"
        print(f"{io.printable(path)}: {said} ({sure})")
    return 0
