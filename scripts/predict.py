"""Predict relative depth for photographs and folders of photographs.

    python scripts/predict.py photo.jpg holiday/ --workdir runs/ranking --output out/

For every photograph, at its own size and as it is displayed: NAME.png (16 bits, larger is farther
unless --polarity says otherwise), NAME_color.png (bright is near), on request NAME.npy and NAME.pfm
(float32). out/predictions.json lists them. Exit code 1 if a file could not be predicted, 2 if
nothing could be begun.
"""

import argparse
import pathlib
import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", help="image files and folders")
    parser.add_argument("--workdir", required=True, help="run directory of a trained network")
    parser.add_argument("--checkpoint", type=int, help="training step; default: the newest")
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
        help="shorter side of the image that the network sees; default: as the run evaluates",
    )
    arguments = parser.parse_args(argv)
    if arguments.image_size and arguments.image_size < 32:
        parser.error(f"argument --image-size: must be at least 32, got {arguments.image_size}")

    from reldepth_jax import predict, runs

    try:
        run = runs.load_run(arguments.workdir, arguments.checkpoint)
        size = arguments.image_size or run.config.eval.image_size or min(run.config.data.crop)
        writer = predict.Writer(
            output=arguments.output,
            npy=arguments.npy,
            pfm=arguments.pfm,
            polarity=arguments.polarity,
            run=arguments.workdir,
            step=run.step,
        )
        counts = predict.predict_files(
            predict.Predictor(run.model_fn, size), arguments.inputs, writer
        )
    except (runs.RunError, predict.PredictError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    failed = f"; {counts.failed} failed" if counts.failed else ""
    print(f"{counts.done} predicted, see {arguments.output}{failed}")
    return 1 if counts.failed else 0


if __name__ == "__main__":
    sys.exit(main())
