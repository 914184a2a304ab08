r"""Evaluate a network on held-out images or as published.

reldepth evaluate --workdir runs/ranking
reldepth evaluate --workdir runs/ranking \
    --config.data.source.name=folder --config.data.source.root=photos
reldepth evaluate --workdir runs/ranking --dataset diw --data-dir DIW
reldepth evaluate --weights midas.safetensors --dataset diw --data-dir DIW
reldepth evaluate --model midas_v21_small --dataset diw --data-dir DIW
python scripts/evaluate.py …     the same, from a clone

Prints the ordinal errors with 95 % intervals, beside the rule "lower in the image is nearer", and
writes WORKDIR/eval/SPLIT.json and a contact sheet, SPLIT.png; an overridden source and an explicit
checkpoint become part of the name. The thresholds of the three-way errors (WKDR) and the
temperature of the confidence are fitted on the validation split. The report says how well the
confidence is calibrated, SPLIT_reliability.png shows it, and `reldepth predict --confidence` takes
the temperature from WORKDIR/eval/temperature.json. Further sources of training (data.mix) are
reported one by one. --config.data.… and --config.eval.… change what the run is evaluated on.

With --dataset: the published protocol of that data set (docs/evaluation.md), our numbers with 95 %
intervals beside the published ones; WORKDIR/eval/DATASET.json and .png. --config.dataset.OPTION=…
sets an option of the protocol.
"""

import argparse
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any

from reldepth_jax import config
from reldepth_jax.cli import command, which_network
from reldepth_jax.registry import PROTOCOLS

if TYPE_CHECKING:
    from reldepth_jax.inference.networks import Model


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
        "--model", metavar="NAME", help="in place of a run: public weights that are fetched once"
    )
    command.add_offline(options)
    options.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder; default: WORKDIR/eval, WEIGHTS_eval beside it, NAME_eval",
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
    options.add_argument("--pictures", type=int, help="rows of the sheet, default: 8")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, evaluate, print the table and write the files."""
    options, assignments = command.parse(parser(), argv, overrides=True)
    # Without JAX, but not light enough for --help.
    from reldepth_jax.weights import hub, presets

    if options.weights is not None and options.weights.is_dir():
        if not (options.weights / hub.FILE).is_file():
            raise config.ConfigError(
                f"--weights {options.weights} is a folder; give it as --workdir"
            )
    if options.model is not None and not options.model.startswith(hub.PREFIX):
        presets.published(options.model)
    named = options.weights or options.model
    if named is None:
        options.workdir = options.workdir or pathlib.Path("runs/ranking")
    elif options.workdir is not None or options.checkpoint is not None:
        option = "--weights" if options.weights else "--model"
        raise config.ConfigError(f"{option} takes the place of --workdir and --checkpoint")
    elif options.weights is not None and options.model is not None:
        raise config.ConfigError("--weights and --model are two networks; give one")
    options.output = options.output or which_network.evaluation(options)
    for path in assignments:
        if path.startswith("dataset."):
            if options.dataset is None:
                raise config.ConfigError(f"{path} belongs to --dataset, which is not given")
        elif path.split(".")[0] not in ("data", "eval"):
            raise config.ConfigError(
                f"{path} belongs to the trained run; only data and eval can be overridden here"
            )
    if options.num_images is not None:
        assignments["eval.num_images"] = options.num_images
    if (options.dataset is None) != (options.data_dir is None):
        raise config.ConfigError("--dataset and --data-dir belong together; give both")
    if options.pictures is not None and options.dataset is not None:
        raise config.ConfigError("--pictures does not go with --dataset, whose sheet is fixed")
    if options.pictures is not None and options.pictures < 0:
        raise config.ConfigError(f"--pictures must be at least 0, got {options.pictures}")
    if options.dataset is not None:
        return _evaluate_published(options, assignments)
    return _evaluate_heldout(options, assignments)


def _evaluate_published(options: argparse.Namespace, assignments: dict[str, str]) -> int:
    """Run the protocol of a public data set."""
    config.lookup(PROTOCOLS, options.dataset, "--dataset")
    own = {path: text for path, text in assignments.items() if path.startswith("dataset.")}
    choice = config.override_choice(config.Choice(options.dataset), PROTOCOLS, own, "dataset")
    assignments = {path: text for path, text in assignments.items() if path not in own}
    others = [path for path in assignments if path not in ("eval.num_images", "eval.image_size")]
    if others or options.split != "test":
        raise config.ConfigError(
            f"{others[0] if others else '--split'} does not go with --dataset: its protocol fixes"
            " what is evaluated; only eval.num_images, eval.image_size and the protocol's own"
            " options (dataset.…) can be set"
        )
    # All images by default: how many the run validates on does not matter.
    assignments = {"eval.num_images": "0"} | assignments
    known_early = {path: text for path, text in assignments.items() if path != "eval.image_size"}
    config.validate(config.override(config.Config(), known_early))

    # Imported late: a mistake is reported before JAX is loaded.
    from rich.console import Console

    from reldepth_jax.data.images import pictures
    from reldepth_jax.evaluation.run_evaluation import write_json

    model, _ = _network(options)
    settings = config.override(settings_for(model.config), assignments)
    config.validate(settings)
    protocol = PROTOCOLS.create(choice.name, **choice.options)
    predictor, adapted = protocol.adapted(model.predictor(settings.eval.image_size))
    with command.progress_bar(f"{options.dataset} images") as progress:
        report = protocol(
            predictor.unresized,
            options.data_dir,
            num_images=settings.eval.num_images,
            progress=progress,
        )
    if adapted:
        report = dataclasses.replace(report, notes=[*report.notes, adapted])
    output = options.output / f"{options.dataset}.json"
    facts = {
        **_origin(options, model),
        "image_size": predictor.preprocessing.size,
        "fit": predictor.preprocessing.fit,
        "fast": options.fast,
        **({"options": choice.options} if choice.options else {}),
    }
    write_json(output, {"run": facts, "data_dir": options.data_dir, **report.to_json()})
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

    from reldepth_jax.evaluation import heldout_report
    from reldepth_jax.evaluation.run_evaluation import evaluate_run

    model, own = _network(options)
    settings = config.override(own, assignments)
    config.validate(settings)
    size = settings.eval.image_size if options.workdir is None else settings.prediction_size
    judged = evaluate_run(
        model.predictor(size),
        settings,
        own,
        options.split,
        keep=8 if options.pictures is None else options.pictures,
        bars=command.progress_bar,
    )
    name = options.split
    if settings.data.source != own.data.source:
        name += f"_{settings.data.source.name}"
    if options.checkpoint is not None:
        name += f"_{options.checkpoint}"
    origin = _origin(options, model)
    facts = {**origin, "split": options.split, "fast": options.fast}
    output = judged.write(options.output, name, facts)
    seen = model.preprocessing.size
    fitted = judged.write_temperature(options.output, own, seen, {"step": model.step, **origin})

    console = Console(highlight=False)
    network = ", step ".join(str(value) for value in origin.values())
    results = {title: result for title, (_, result) in judged.results.items()}
    several = len(results) > 1
    named = {
        f"{title}\n{result.num_images} images" if several else "model": result
        for title, result in results.items()
    }
    console.print(heldout_report.table(f"{network}, {options.split} images", named))
    for title, lines in judged.remarks.items():
        for line in lines:
            console.print(f"{title}: {line}", markup=False, soft_wrap=True)
    for choice, reason in judged.left_out:
        console.print(f"left out: {choice.name}: {reason}", markup=False)
    console.print(heldout_report.protocol_text(judged.main), markup=False)
    for title, result in results.items() if judged.fit else ():
        text = heldout_report.confidence_text(result)
        console.print(text if result is judged.main else f"{title}: {text}", markup=False)
    # What a file states of itself goes before.
    if fitted is not None and (options.workdir is not None or model.temperature is None):
        count = settings.eval.num_images
        console.print(
            f"T is that of `reldepth predict --confidence` from now on: {fitted}"
            f" ({f'the first {count}' if count else 'all'} validation images)",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"written: {output}", markup=False, soft_wrap=True)
    return 0


def _network(options: argparse.Namespace) -> tuple["Model", config.Config]:
    """Return the network, and the configuration whose data and eval it is judged by."""
    from reldepth_jax import runtime
    from reldepth_jax.inference import networks
    from reldepth_jax.run_dir.saved_config import load_config

    runtime.set_up()
    runtime.keep_compiled()
    if options.model is not None:
        model = networks.load_public(options.model)
        own = settings_for(model.config)
    elif options.weights is not None:
        model = networks.load_model(options.weights)
        own = settings_for(model.config)
    else:
        model = networks.from_run(options.workdir, options.checkpoint)
        own = load_config(options.workdir)
    assert own is not None
    return dataclasses.replace(model, fast=True) if options.fast else model, own


def settings_for(model: config.ModelConfig) -> config.Config:
    """Return the default settings, with sizes of images that the network can have."""
    side = 384 // model.multiple * model.multiple or model.multiple
    return config.Config(model=model, data=config.DataConfig(crop=(side, side)))


def _origin(options: argparse.Namespace, model: "Model") -> dict[str, Any]:
    """Return what the report says of the network."""
    if options.model is not None:
        return {"model": options.model}
    if options.weights is not None:
        return {"weights": str(options.weights)}
    return {"workdir": str(options.workdir), "step": model.step}
