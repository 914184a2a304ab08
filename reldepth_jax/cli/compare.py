r"""Compare trained runs on the same held-out images.

reldepth compare runs/mae runs/ranking
reldepth compare --group mae=runs/mae_0,runs/mae_1 --group ranking=runs/ranking_0,runs/ranking_1
python scripts/compare.py …     the same, from a clone

A group is one recipe with one run for each seed; a run given by itself is a group of its own. The
table has the mean error over the runs of a group, its standard deviation over them, its 95 %
bootstrap interval over images, and the difference to the first group, with an interval over seeds
and images. Writes compare.json, compare.md and compare.png, where each group is shown by its first
run.
"""

import argparse
import json
import pathlib

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.cli.groups import add_groups, groups_of


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("compare", __doc__)
    add_groups(options)
    options.add_argument("--split", choices=["test", "val"], default="test", help="default: test")
    options.add_argument("--num-images", metavar="N", help="instead of the runs' eval.num_images")
    options.add_argument("--pictures", type=int, default=6, help="rows of the picture, default: 6")
    options.add_argument(
        "--output", type=pathlib.Path, default="runs/compare", help="default: runs/compare"
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, evaluate every run, print the table and write the files."""
    options, _ = command.parse(parser(), argv)
    workdirs = groups_of(options)
    if len(workdirs) < 2:
        raise config.ConfigError("give at least two runs, or --group NAME=RUN,RUN,… twice")

    # Imported late: a mistake is reported before JAX is loaded.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from reldepth_jax.data.images import io, pictures
    from reldepth_jax.data.pipeline import make_source
    from reldepth_jax.evaluation import compare, heldout, heldout_report
    from reldepth_jax.inference import networks
    from reldepth_jax.run_dir.saved_config import load_config
    from reldepth_jax.weights.from_run import load_run

    members = [workdir for group in workdirs.values() for workdir in group]
    # Of a directory without a configuration, `load_run` says what is wrong.
    found = {each: load_config(pathlib.Path(each)) or load_run(each).config for each in members}
    settings = compare.common_settings(found)
    if options.num_images is not None:
        settings = config.override(settings, {"eval.num_images": options.num_images})
        config.validate(settings)
    source = make_source(settings, options.split)

    steps: dict[str, int] = {}

    def evaluation(workdir: str) -> heldout.Evaluation:
        model = networks.from_run(workdir)
        steps[workdir] = model.step
        with command.progress_bar(workdir) as progress:
            return heldout.evaluate(
                model.predictor(settings.prediction_size),
                source,
                settings.eval,
                progress=progress,
                keep=options.pictures,
            )

    groups = {name: [evaluation(each) for each in group] for name, group in workdirs.items()}
    anyone = next(iter(groups.values()))[0]
    report = {
        "split": options.split,
        "source": config.to_dict(settings)["data"]["source"],
        "protocol": anyone.protocol(),
        "steps": {name: {each: steps[each] for each in group} for name, group in workdirs.items()},
        **compare.report(groups),
    }
    rows = compare.rows(report)
    claims = compare.statements(report)
    notes = (
        "Errors in percent: mean over the seeds ± standard deviation over them [95 % bootstrap"
        " interval over images]. Differences: [95 % interval over seeds and images], of one seed"
        f" over images. {heldout_report.protocol_text(anyone)}"
    )
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    table = compare.markdown(rows, "\n\n".join([*claims, notes]))
    for name, content in (("compare.json", text), ("compare.md", table)):
        with io.atomic_write(output / name) as file:
            file.write(content.encode("utf-8"))
    if anyone.pictures:
        pictures.save_picture(output / "compare.png", compare.contact_sheet(groups))

    printed = Table(*rows[0], box=box.SIMPLE_HEAD)
    for row in rows[1:]:
        printed.add_row(*(cell.replace(" [", "\n[") for cell in row))
    console = Console(markup=False)
    console.print(printed)
    for claim in claims:
        console.print(claim, highlight=False)
    console.print(notes, highlight=False)
    console.print(f"written: {output}/compare.json, .md, .png", highlight=False)
    return 0
