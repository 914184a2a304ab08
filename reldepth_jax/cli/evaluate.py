r"""Evaluate a network on held-out images, or as published.

reldepth evaluate --workdir runs/ranking
reldepth evaluate --workdir runs/ranking \
    --config.data.source.name=folder --config.data.source.root=photos
reldepth evaluate --workdir runs/ranking --dataset diw --data-dir DIW
reldepth evaluate --weights midas.safetensors --dataset diw --data-dir DIW
python scripts/evaluate.py …     the same, from a clone

Prints the ordinal errors with 95 % intervals, beside the rule "lower in the image is nearer", and
writes WORKDIR/eval/SPLIT.json and a contact sheet, SPLIT.png; an overridden source and an explicit
checkpoint become part of the name. The thresholds of the three-way errors (WKDR) and the
temperature of the confidence are fitted on the validation split. The report says how well the
confidence is calibrated, SPLIT_reliability.png shows it, and `reldepth predict --confidence` takes
the temperature from WORKDIR/eval/temperature.json. Further sources of training (data.mix) are
reported one by one. --config.data.… and --config.eval.… change what the run is evaluated on.

With --dataset: the published protocol of that data set (docs/evaluation.md), our numbers with 95 %
intervals beside the published ones; WORKDIR/eval/DATASET.json and .png.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.run_dir import layout

if TYPE_CHECKING:
    from reldepth_jax.inference.networks import Model
    from reldepth_jax.types import Source, Split


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("evaluate", __doc__)
    options.add_argument(
        "--workdir",
        type=pathlib.Path,
        help="run directory, default: runs/ranking",
    )
    options.add_argument(
        "--weights",
        type=pathlib.Path,
        help="in place of a run: file that `reldepth convert` wrote",
    )
    options.add_argument(
        "--output", type=pathlib.Path, help="folder; default: WORKDIR/eval, WEIGHTS_eval beside it"
    )
    options.add_argument("--dataset", help=f"one of: {', '.join(PROTOCOLS.entries)}")
    options.add_argument("--data-dir", help="folder of that data set as its authors distribute it")
    options.add_argument("--split", choices=["test", "val"], default="test", help="default: test")
    options.add_argument(
        "--checkpoint", type=command.checkpoint, metavar="STEP", help="or best; default: the newest"
    )
    options.add_argument(
        "--num-images", metavar="N", help="first N images; the same as --config.eval.num_images=N"
    )
    options.add_argument(
        "--fast",
        action="store_true",
        help="on CPU: Winograd's algorithm, about half the time an image; errors of some 1e-6",
    )
    options.add_argument("--pictures", type=int, default=8, help="rows of the sheet, default: 8")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, evaluate, print the table and write the files."""
    options, assignments = command.parse(parser(), argv, overrides=True)
    if options.weights is not None and options.weights.is_dir():
        raise config.ConfigError(f"--weights {options.weights} is a folder; give it as --workdir")
    if options.weights is None:
        options.workdir = options.workdir or pathlib.Path("runs/ranking")
        options.output = options.output or layout.evaluation_folder(options.workdir)
    elif options.workdir is not None or options.checkpoint is not None:
        raise config.ConfigError("--weights takes the place of --workdir and --checkpoint")
    else:
        options.output = options.output or layout.evaluation_folder(options.weights)
    for path in assignments:
        if path.split(".")[0] not in ("data", "eval"):
            raise config.ConfigError(
                f"{path} belongs to the trained run; only data and eval can be overridden here"
            )
    if options.num_images is not None:
        assignments["eval.num_images"] = options.num_images
    if (options.dataset is None) != (options.data_dir is None):
        raise config.ConfigError("--dataset and --data-dir belong together; give both")
    if options.dataset is not None:
        return _evaluate_published(options, assignments)
    return _evaluate_heldout(options, assignments)


def _evaluate_published(options: argparse.Namespace, assignments: dict[str, str]) -> int:
    """Run the protocol of a public data set."""
    config.lookup(PROTOCOLS, options.dataset, "--dataset")
    others = [path for path in assignments if path not in ("eval.num_images", "eval.image_size")]
    if others or options.split != "test":
        raise config.ConfigError(
            f"{others[0] if others else '--split'} does not go with --dataset: its protocol fixes"
            " what is evaluated; only eval.num_images and eval.image_size can be set"
        )
    # All images, unless told otherwise: what the run would do for its own validation is no matter.
    settings = config.override(config.Config(), {"eval.num_images": "0"} | assignments)
    config.validate(settings)

    # Imported late: a mistake is reported before JAX is loaded.
    from rich.console import Console

    from reldepth_jax.data.images import pictures

    model, _ = _network(options)
    predictor = model.predictor(settings.eval.image_size)
    protocol = PROTOCOLS.create(options.dataset)
    with command.progress_bar(f"{options.dataset} images") as progress:
        report = protocol(
            predictor.unresized,
            options.data_dir,
            num_images=settings.eval.num_images,
            progress=progress,
        )
    output = options.output / f"{options.dataset}.json"
    facts = {
        **_origin(options, model),
        "image_size": predictor.preprocessing.size,
        "fast": options.fast,
    }
    _write(output, {"run": facts, "data_dir": options.data_dir, **report.to_json()})
    if report.picture is not None:
        pictures.save_picture(output.with_suffix(".png"), report.picture)
    console = Console(highlight=False)
    console.print(report.render(), soft_wrap=True)
    console.print(f"written: {output}", markup=False, soft_wrap=True)
    return 0


def _evaluate_heldout(options: argparse.Namespace, assignments: dict[str, str]) -> int:
    """Judge the run on random pairs of its own data, or of another source."""
    # Imported late: a mistake is reported before JAX is loaded.
    from rich.console import Console

    from reldepth_jax.data.images import pictures
    from reldepth_jax.data.pipeline import make_source
    from reldepth_jax.evaluation import heldout

    model, own = _network(options)
    settings = config.override(own, assignments)
    config.validate(settings)
    source = make_source(settings, options.split)
    try:
        validation = make_source(settings, "val")
    except ValueError as error:
        print(f"no validation images, WKDR is left out: {error}", file=sys.stderr)
        validation = None
    size = settings.prediction_size if options.weights is None else settings.eval.image_size
    predict = model.predictor(size)

    fit = None
    if validation is not None:
        with command.progress_bar("fitting tau") as progress:
            fit = heldout.fit(predict, validation, settings.eval, progress=progress)

    def judge(source: "Source", name: str, keep: int) -> heldout.Evaluation:
        with command.progress_bar(f"{options.split} images{name}") as progress:
            return heldout.evaluate(
                predict,
                source,
                settings.eval,
                tau=fit and fit.tau,
                temperature=fit and fit.temperature,
                progress=progress,
                keep=keep,
            )

    result = judge(source, "", options.pictures)
    others, left_out = _further_sources(settings, own, options.split)
    results = {_title(settings.data.source, []): result}
    choices = {next(iter(results)): settings.data.source}
    for choice, other in others:
        title = _title(choice, list(results))
        results[title], choices[title] = judge(other, f" of {title}", 0), choice

    name = options.split
    if settings.data.source != own.data.source:
        name += f"_{settings.data.source.name}"
    if options.checkpoint is not None:
        name += f"_{options.checkpoint}"
    report = {
        "run": {**_origin(options, model), "split": options.split, "fast": options.fast},
        "source": config.to_dict(settings)["data"]["source"],
        **result.to_json(),
        "sources": [
            {"name": title, "source": _plain(choices[title]), **each.to_json()}
            for title, each in results.items()
        ],
        "left_out": [{"source": _plain(choice), "because": reason} for choice, reason in left_out],
    }
    output = options.output / f"{name}.json"
    _write(output, report)
    if result.pictures:
        picture = heldout.contact_sheet(result.pictures)
        pictures.save_picture(output.with_suffix(".png"), picture)
    if fit is not None:
        diagram = heldout.reliability_diagram(result)
        pictures.save_picture(layout.reliability_diagram(options.output, name), diagram)
    # That of the run's own data: what another source would have it say is in its report.
    if fit is not None and _own_validation(settings) == _own_validation(own):
        facts = {
            "temperature": fit.temperature.model,
            "step": model.step,
            **_origin(options, model),
            "source": _plain(_own_validation(settings)),
            "image_size": predict.preprocessing.size,
        }
        _write(options.output / layout.TEMPERATURE, facts)

    console = Console()
    network = ", step ".join(str(value) for value in _origin(options, model).values())
    title = f"{network}, {options.split} images"
    named = {f"{key}\n{each.num_images} images": each for key, each in results.items()}
    console.print(heldout.table(title, named) if len(results) > 1 else result.table(title))
    for choice, reason in left_out:
        console.print(f"left out: {choice.name}: {reason}", highlight=False, markup=False)
    lines = [result.protocol(), result.confidence()]
    if len(results) > 1:
        lines += [f"{key}: {each.confidence()}" for key, each in list(results.items())[1:] if fit]
    for line in filter(None, lines):
        console.print(line, highlight=False, markup=False)
    console.print(f"written: {output}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _further_sources(
    settings: config.Config, own: config.Config, split: "Split"
) -> tuple[list[tuple[config.Choice, "Source"]], list[tuple[config.Choice, str]]]:
    """Return the split of the sources of `data.mix`, and those that have none with the reason.

    None of either where another source is judged than that of the run.
    """
    from reldepth_jax.data.pipeline import make_source

    found, left_out = [], []
    mixed = settings.data.mix if settings.data.source == own.data.source else ()
    for each in mixed:
        data = dataclasses.replace(settings.data, source=each.source, validation=None, mix=())
        try:
            source = make_source(dataclasses.replace(settings, data=data), split)
        except ValueError as error:
            left_out.append((each.source, str(error)))
        else:
            found.append((each.source, source))
    return found, left_out


def _title(choice: config.Choice, taken: list[str]) -> str:
    """Return the name of a source, with a number where it occurs again."""
    again = sum(name.split(" ")[0] == choice.name for name in taken)
    return f"{choice.name} {again + 1}" if again else choice.name


def _plain(choice: config.Choice) -> dict[str, Any]:
    return {"name": choice.name, **choice.options}


def _own_validation(settings: config.Config) -> config.Choice:
    return settings.data.validation or settings.data.source


def _network(options: argparse.Namespace) -> tuple["Model", config.Config]:
    """Return the network, and the configuration whose data and eval it is judged by."""
    from reldepth_jax import runtime
    from reldepth_jax.inference import networks
    from reldepth_jax.run_dir.saved_config import load_config

    runtime.set_up()
    runtime.keep_compiled()
    if options.weights is not None:
        model, own = networks.load_model(options.weights), config.Config()
    else:
        model = networks.from_run(options.workdir, options.checkpoint)
        own = load_config(options.workdir)
    assert own is not None
    return dataclasses.replace(model, fast=True) if options.fast else model, own


def _origin(options: argparse.Namespace, model: "Model") -> dict[str, Any]:
    """Return what the report says of the network."""
    if options.weights is not None:
        return {"weights": str(options.weights)}
    return {"workdir": str(options.workdir), "step": model.step}


def _write(path: pathlib.Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
