"""Predict relative depth for photographs and folders of photographs.

python scripts/predict.py photo.jpg holiday/ --workdir runs/ranking --output out/

For every photograph, at its own size and as it is displayed: NAME.png (16 bits, larger is farther
unless --polarity says otherwise), NAME_color.png (bright is near), on request NAME.npy and NAME.pfm
(float32), and with --confidence NAME_confidence.png: how sure the order of each pixel and the rest
of the photograph is (gray 0 to 255 is 0.5 to 1). out/predictions.json lists them. Exit code 1 if a
file could not be predicted, 2 if nothing could be begun.
"""

import argparse
import dataclasses
import math
import pathlib

from reldepth_jax.cli import command


def main(argv: list[str] | None = None) -> int:
    """Read the command line, predict, return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", help="image files and folders")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--workdir", help="run directory of a trained network")
    network.add_argument("--weights", help="file that scripts/convert_weights.py wrote")
    parser.add_argument(
        "--checkpoint",
        type=command.checkpoint,
        metavar="STEP",
        help="of the run, or best; default: the newest",
    )
    parser.add_argument("--output", type=pathlib.Path, default="out", help="default: out/")
    parser.add_argument("--npy", action="store_true", help="also write float32 NPY")
    parser.add_argument("--pfm", action="store_true", help="also write PFM")
    parser.add_argument(
        "--polarity",
        choices=["depth", "disparity"],
        default="depth",
        help="depth: larger is farther (default); disparity: larger is nearer",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        default=0,
        help="size of the image that the network sees (shorter side; for converted networks as"
        " scripts/list_models.py says); default: what it was trained at",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="on CPU: Winograd's algorithm, about half the time an image; errors of some 1e-6",
    )
    parser.add_argument("--confidence", action="store_true", help="also write a confidence map")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the confidence; default: what scripts/evaluate.py fitted on validation images",
    )
    options, _ = command.parse(parser, argv)
    if options.image_size and options.image_size < 32:
        parser.error(f"argument --image-size: must be at least 32, got {options.image_size}")
    if options.weights is not None and options.checkpoint is not None:
        parser.error("argument --checkpoint: belongs to --workdir; a file of weights has one state")
    if options.temperature is not None:
        if not options.confidence:
            parser.error("argument --temperature: belongs to --confidence")
        if not 0 < options.temperature < math.inf:
            parser.error(f"argument --temperature: must be above 0, got {options.temperature}")

    # Only now, because importing JAX takes longer than telling a mistake.
    from reldepth_jax import runtime
    from reldepth_jax.data.images import io
    from reldepth_jax.inference import files, networks
    from reldepth_jax.metrics.confidence import load_temperature

    runtime.set_up()
    runtime.keep_compiled()
    origin = str(options.workdir or options.weights)
    if options.weights is None:
        model = networks.from_run(origin, options.checkpoint)
    else:
        model = networks.load_model(origin)
    if options.fast:
        model = dataclasses.replace(model, fast=True)
    temperature = options.temperature
    if options.confidence and temperature is None:
        place = pathlib.Path(origin)
        folder = place / "eval" if place.is_dir() else place.with_name(f"{place.stem}_eval")
        temperature = load_temperature(folder / "temperature.json", model.step)
    writer = files.Writer(
        output=options.output,
        npy=options.npy,
        pfm=options.pfm,
        polarity=options.polarity,
        temperature=temperature,
        run=origin,
        step=model.step,
    )
    predictor = model.predictor(options.image_size)
    counts = files.predict_files(predictor, options.inputs, writer)
    failed = f"; {counts.failed} failed" if counts.failed else ""
    print(f"{counts.done} predicted, see {io.printable(options.output)}{failed}")
    return 1 if counts.failed else 0
