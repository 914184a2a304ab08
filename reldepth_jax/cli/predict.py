"""Predict relative depth for photographs, folders of them, and films.

reldepth predict photo.jpg holiday/ --output out/       the network that comes with the package
reldepth predict photo.jpg --workdir runs/ranking
reldepth predict photo.jpg --weights midas.safetensors
reldepth predict photo.jpg --model midas_v21_small      `reldepth models` lists the names
python scripts/predict.py …     the same, from a clone

For every photograph, at its own size and as it is displayed: NAME.png (16 bits, larger is farther
unless --polarity says otherwise), NAME_color.png (bright is near), on request NAME.npy and NAME.pfm
(float32), NAME.ply and NAME.glb (meshes, docs/three_dimensions.md), and with --confidence
NAME_confidence.png: how sure the order of each pixel and the rest of the photograph is (gray 0 to
255 is 0.5 to 1). out/predictions.jsonl lists them, a line for each photograph. After a kill the
same command continues. Exit code 1 if a file could not be predicted, 2 if nothing was predicted, 6
if the output folder is full or cannot be written to.

reldepth predict --list photos.txt --shard 3/8   the fourth of eight jobs; docs/scale_out.md
reldepth predict photos/ --ray 16                by 16 workers of a Ray cluster, or of this machine

reldepth predict film.mp4              NAME_depth.mp4: film and maps side by side
reldepth predict photo.jpg --nearer 120,80,300,200   which of two points is nearer; no files
"""

import argparse
import dataclasses
import math
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from reldepth_jax.cli import command, which_network
from reldepth_jax.config import ConfigError
from reldepth_jax.errors import UserError, require
from reldepth_jax.run_dir import layout

if TYPE_CHECKING:
    from reldepth_jax.inference.networks import Model
    from reldepth_jax.inference.order import Point
    from reldepth_jax.inference.predictor import Predictor
    from reldepth_jax.inference.space import Space
    from reldepth_jax.inference.writer import Writer


_OF_FILES = ("output", "npy", "pfm", "ply", "glb", "polarity", "confidence")
"""Options that say what is written."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("predict", __doc__)
    options.add_argument("inputs", nargs="*", help="image files and folders")
    options.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="text file with the path of a photograph a line, relative to the folder of FILE; - is"
        " standard input, relative to the working directory",
    )
    options.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="take every N-th photograph and film, from number I (0 to N - 1), in one of N jobs",
    )
    options.add_argument(
        "--ray",
        type=int,
        default=0,
        metavar="WORKERS",
        help="predict photographs by so many workers of the Ray cluster of RAY_ADDRESS or, without"
        " one, of this machine (extra `ray`)",
    )
    which_network.add(options)
    options.add_argument("--output", type=pathlib.Path, default="out", help="default: out/")
    options.add_argument("--npy", action="store_true", help="also write float32 NPY")
    options.add_argument("--pfm", action="store_true", help="also write PFM")
    options.add_argument("--ply", action="store_true", help="also write a mesh in space, as PLY")
    options.add_argument("--glb", action="store_true", help="the same as GLB, with texture")
    options.add_argument("--cloud", action="store_true", help="points in place of the mesh")
    options.add_argument(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="horizontal field of view of the photographs, for --ply and --glb; default: 60",
    )
    options.add_argument(
        "--affine",
        type=_scale_and_shift,
        metavar="SCALE,SHIFT",
        help="what makes inverse depth of a network's output, for --ply and --glb; default: the"
        " nearest pixel is at 1 and the farthest at 10",
    )
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
        "--standard-shapes",
        action="store_true",
        help="stretch what the network sees to the nearest of 17 shapes. For photographs of many"
        " sizes, each of which compiles for seconds; changes the result a little (docs/models.md)",
    )
    options.add_argument(
        "--max-pixels",
        type=float,
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
        "--alone", action="store_true", help="of films: the maps without the original beside them"
    )
    options.add_argument(
        "--frames",
        choices=["png", "npz"],
        help="of films: also write the map of each frame, 16-bit PNG or float32 NPZ",
    )
    options.add_argument(
        "--no-smooth", action="store_true", help="of films: each frame by itself; it flickers"
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
    options_of = parser()
    options, _ = command.parse(options_of, argv)
    # Without JAX, but not light enough for --help.
    from reldepth_jax.data.images import io

    if options.image_size and options.image_size < 32:
        raise ConfigError(f"--image-size must be at least 32, got {options.image_size}")
    if options.max_pixels is not None and not 1e-6 <= options.max_pixels < 1e6:
        raise ConfigError(
            f"--max-pixels must be from 0.000001 to 1e6 millions, got {options.max_pixels}"
        )
    max_pixels = io.MAX_PIXELS if options.max_pixels is None else round(options.max_pixels * 1e6)
    if not options.inputs and not options.list:
        raise ConfigError("name photographs or folders, or a --list of photographs")
    if options.nearer and (options.list or options.shard or options.ray):
        raise ConfigError("--nearer takes photographs by name, without --list, --shard and --ray")
    for name in _OF_FILES if options.nearer else ():
        if str(getattr(options, name)) != str(options_of.get_default(name)):
            raise ConfigError(f"--{name} is about files that are written; --nearer writes none")
    if options.ray < 0:
        raise ConfigError(f"--ray must be at least 1, got {options.ray}")
    if options.ray:
        require("ray", "ray", "pyarrow", "pandas")
    origin = which_network.check(options)
    if options.temperature is not None:
        if not (options.confidence or options.nearer):
            raise ConfigError("--temperature belongs to --confidence and --nearer")
        if not 0 < options.temperature < math.inf:
            raise ConfigError(f"--temperature must be above 0, got {options.temperature}")

    films = [
        path
        for path in options.inputs
        if os.path.splitext(path)[1].lower() in io.FILM_SUFFIXES and not os.path.isdir(path)
    ]
    if films and options.ray:
        raise ConfigError(f"--ray takes photographs, {films[0]} is a film")
    for name in ("alone", "frames", "no_smooth"):
        if getattr(options, name) and not films:
            raise ConfigError(f"--{name.replace('_', '-')} belongs to films; none is named")
    for name in ("npy", "pfm", "ply", "glb", "confidence", "nearer"):
        if getattr(options, name) and films:
            raise ConfigError(
                f"--{name} belongs to photographs, {films[0]} is a film (--frames writes its maps)"
            )
    in_space = options.ply or options.glb
    for name in ("cloud", "fov", "affine"):
        if getattr(options, name) != options_of.get_default(name) and not in_space:
            raise ConfigError(f"--{name} belongs to --ply and --glb")

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.inference import files, inputs, on_ray
    from reldepth_jax.run_dir.temperature import load_temperature

    runtime.set_up()
    runtime.keep_compiled()
    if options.ray:
        on_ray.leave_devices_to_workers()
    model = which_network.load(options)
    if options.fast:
        model = dataclasses.replace(model, fast=True)
    known = options.temperature or model.temperature
    predictor = model.predictor(options.image_size, standard_shapes=options.standard_shapes)
    if options.nearer:
        return _answer(predictor, options.inputs, options.nearer, known, max_pixels)
    temperature = known if options.confidence else None
    if options.confidence and temperature is None:
        path = which_network.evaluation(options) / layout.TEMPERATURE
        temperature = load_temperature(path, model.step, model.preprocessing.size)
    space = _space(model, options) if in_space else None
    writer = files.Writer(
        output=options.output,
        npy=options.npy,
        pfm=options.pfm,
        ply=options.ply,
        glb=options.glb,
        cloud=options.cloud,
        space=space,
        polarity=options.polarity,
        unit=model.unit,
        temperature=temperature,
        run=origin,
        step=model.step,
        made_by={
            "weights": model.digest,
            "preprocessing": predictor.preprocessing.to_dict(),
            "fast": model.fast,
        },
    )
    if space is not None:
        print(f"in space: {space.assumed}")
    named = [path for path in options.inputs if path not in films]
    shard = inputs.Shard(*options.shard) if options.shard else inputs.WHOLE
    failed = 0
    if named or options.list:
        chosen = inputs.photographs(named, options.list, writer, shard)
        with command.progress_bar("photographs") as progress:
            if options.ray:
                counts = on_ray.predict(
                    predictor, chosen, writer, options.ray, progress, max_pixels
                )
            else:
                counts = files.predict_chosen(predictor, chosen, writer, progress, max_pixels)
        there = f", {counts.there} there already" if counts.there else ""
        told = f"; {counts.failed} failed" if counts.failed else ""
        print(f"{counts.done} predicted{there}, see {io.printable(options.output)}{told}")
        failed = counts.failed
    if films:
        films = films[shard.index :: shard.count]
        if not films:
            print(f"no films in shard {shard.index}/{shard.count}")
        failed += _predict_films(films, predictor, options, model, writer, max_pixels)
    return 1 if failed else 0


def _predict_films(
    films: list[str],
    predictor: "Predictor",
    options: argparse.Namespace,
    model: "Model",
    writer: "Writer",
    max_pixels: int,
) -> int:
    """Predict films, one line on each; return how many failed."""
    from reldepth_jax.data.images import io
    from reldepth_jax.film.predicting import FilmWriter, predict_film

    film_writer = FilmWriter(
        output=options.output,
        alone=options.alone,
        smooth=not options.no_smooth,
        frames=options.frames,
        polarity=options.polarity,
        largest=model.config.max_depth if model.unit else 0.0,
        made_by={"run": io.printable(writer.run), "step": writer.step, **writer.made_by},
    )
    failed = 0
    for path in films:
        try:
            with command.progress_bar("frames") as progress:
                done = predict_film(predictor, path, film_writer, progress, max_pixels)
        except io.UnreadableFile as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        output = io.printable(done.output)
        if done.there:
            print(f"{output} is there already")
            continue
        cuts = f", {done.cuts} cut{'s' * (done.cuts != 1)}" if film_writer.smooth else ""
        damaged = f", {done.undecodable} damaged packets left out" if done.undecodable else ""
        print(f"{output}: {done.frames} frames{cuts}{damaged}, {done.rate:.1f} frames/s")
    return failed


def _shard(text: str) -> tuple[int, int]:
    """Return what `--shard` says: the number of a job, and how many there are."""
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        index, count = 0, 0
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(
            f"takes I/N with I from 0 to N - 1, as 0/8 to 7/8; got {text!r}"
        )
    return index, count


def _two_points(text: str) -> "tuple[Point, Point]":
    """Return the two points that `--nearer` names."""
    try:
        x1, y1, x2, y2 = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"takes four numbers, X1,Y1,X2,Y2 in pixels; got {text!r}"
        ) from None
    return (x1, y1), (x2, y2)


def _scale_and_shift(text: str) -> tuple[float, float]:
    """Return the two numbers that `--affine` names."""
    try:
        scale, shift = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes two numbers, SCALE,SHIFT; got {text!r}") from None
    return scale, shift


def _space(model: "Model", options: argparse.Namespace) -> "Space":
    from reldepth_jax.inference.space import Space, values_of

    given = {"fov": options.fov, "affine": options.affine}
    given = {name: value for name, value in given.items() if value is not None}
    return Space(values=values_of(model), **given)


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
    code = 0
    for path in inputs:
        try:
            image = io.read_image(path, max_pixels)
            answer = order(predictor(image), *points, temperature)
        except UserError as error:
            named = isinstance(error, io.UnreadableFile)
            print(error if named else f"{io.printable(path)}: {error}", file=sys.stderr)
            code = 1
            continue
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
    return code
