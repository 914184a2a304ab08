r"""Evaluate a trained run on held-out images.

python scripts/evaluate.py --workdir runs/ranking
python scripts/evaluate.py --workdir runs/ranking \
    --config.data.source.name=folder --config.data.source.root=photos

Prints the ordinal errors with 95 % intervals, beside the rule "lower in the image is nearer", and
writes WORKDIR/eval/SPLIT.json and a contact sheet, SPLIT.png; an overridden source and an explicit
checkpoint become part of the name. The thresholds of the three-way errors (WKDR) are fitted on the
validation split. --config.data.… and --config.eval.… change what the run is evaluated on.
"""

import argparse
import json
import pathlib
import sys

from reldepth_jax import cli, config


def main() -> int:
    """Read the command line, evaluate, print the table and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="run directory")
    parser.add_argument("--split", choices=["test", "val"], default="test", help="default: test")
    parser.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
    parser.add_argument("--num-images", metavar="N", help="the same as --config.eval.num_images=N")
    parser.add_argument("--pictures", type=int, default=8, help="rows of the sheet, default: 8")
    options, assignments = cli.parse(parser, overrides=True)
    for path in assignments:
        if path.split(".")[0] not in ("data", "eval"):
            raise config.ConfigError(
                f"{path} belongs to the trained run; only data and eval can be overridden here"
            )
    if options.num_images is not None:
        assignments["eval.num_images"] = options.num_images

    # Only now, because importing JAX takes longer than telling a mistake.
    from rich.console import Console
    from rich.progress import Progress

    from reldepth_jax import evaluate, experiment, runs, visualise
    from reldepth_jax.data.pipeline import make_source
    from reldepth_jax.predict import Predictor

    run = runs.load_run(options.workdir, options.checkpoint)
    settings = config.override(run.config, assignments)
    config.validate(settings)
    source = make_source(settings, options.split)
    try:
        validation = make_source(settings, "val")
    except ValueError as error:
        print(f"no validation images, WKDR is left out: {error}", file=sys.stderr)
        validation = None
    predict = Predictor(run.model_fn, experiment.image_size(settings))

    with Progress(console=Console(stderr=True), transient=True) as bars:

        def shown(what: str) -> evaluate.Progress:
            bar = bars.add_task(what)
            return lambda done, total: bars.update(bar, completed=done, total=total)

        tau = None
        if validation is not None:
            tau = evaluate.fit_tau(
                predict, validation, settings.eval, progress=shown("fitting tau")
            )
        result = evaluate.evaluate(
            predict,
            source,
            settings.eval,
            tau=tau,
            progress=shown(f"{options.split} images"),
            keep=options.pictures,
        )

    name = options.split
    if settings.data.source != run.config.data.source:
        name += f"_{settings.data.source.name}"
    if options.checkpoint is not None:
        name += f"_{options.checkpoint}"
    report = {
        "run": {"workdir": str(options.workdir), "step": run.step, "split": options.split},
        "source": config.to_dict(settings)["data"]["source"],
        **result.to_json(),
    }
    output = options.workdir / "eval" / f"{name}.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    if result.pictures:
        picture = evaluate.contact_sheet(result.pictures)
        visualise.save_picture(output.with_suffix(".png"), picture)

    console = Console()
    console.print(result.table(f"{options.workdir}, step {run.step}, {options.split} images"))
    console.print(result.protocol(), highlight=False, markup=False)
    console.print(f"written: {output}", highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    cli.run(main)
