"""Export a network for programs that do not have this package.

reldepth export --output depth.onnx                        the network that comes with the package
reldepth export --model midas_v21_small --output midas.onnx
reldepth export --workdir runs/ranking --output ranking.onnx --float16
reldepth export --workdir runs/ranking --output ranking.stablehlo
reldepth export --workdir runs/ranking --output ranking --format hub

.onnx and .stablehlo files take images of any batch, height and width (multiples that they name),
and are compared with this package's own output before they are written. `hub` writes a folder as
the Hugging Face hub has it. All say how they are to be used: docs/export.md.
To PyTorch: reldepth convert IN OUT.safetensors --to torch.
"""

import argparse
import contextlib
import json
import pathlib

from reldepth_jax.cli import command, which_network
from reldepth_jax.config import ConfigError

FORMATS = ("onnx", "stablehlo", "hub")


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("export", __doc__)
    which_network.add(options)
    options.add_argument(
        "--output", metavar="PATH", type=pathlib.Path, required=True, help="file, or new folder"
    )
    options.add_argument("--format", choices=FORMATS, help="default: as the file's name ends")
    options.add_argument(
        "--float16",
        action="store_true",
        help="store weights in half the size, with 3 digits; computed is in float32",
    )
    options.add_argument("--name", help="what the network is called there; default: as it is named")
    options.add_argument("--force", action="store_true", help="replace a file that exists")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, export, compare, write, print the error."""
    options, _ = command.parse(parser(), argv)
    name = which_network.check(options)
    output: pathlib.Path = options.output
    form = _format(options)
    if form == "hub" and output.exists():
        raise ConfigError(f"{output} exists; name a new folder")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; give the name of a file")
    about_it = output.with_name(output.name + ".json")
    for path in (output, about_it) if form == "stablehlo" else (output,):
        if path.exists() and not options.force:
            raise ConfigError(f"{path} exists; choose another name, or --force")
    command.require_place(output)

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.data.images.io import atomic_write
    from reldepth_jax.export import verification
    from reldepth_jax.weights import hub
    from reldepth_jax.weights.facts import facts

    runtime.set_up()
    runtime.keep_compiled()
    model = which_network.load(options)
    name = options.name or name
    about = facts(model.weights(), name)
    print(f"{about['architecture']}; larger is {about['larger_is']}; licence: {about['licence']}")
    if form == "hub":
        hub.write_folder(output, model.weights(), name, half=options.float16)
        print(f"written: {output}/")
        return 0
    if form == "onnx":
        from reldepth_jax.export import onnx_file

        data, error = onnx_file.export(model, name, half=options.float16)
    else:
        from reldepth_jax.export import stablehlo_file

        data, error = stablehlo_file.export(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as both:
        if form == "stablehlo":
            # A file of StableHLO has no room for it.
            text = json.dumps(about, indent=1).encode()
            both.enter_context(atomic_write(about_it)).write(text)
        both.enter_context(atomic_write(output)).write(data)
    print(f"largest difference to this package: {error:.1e} of the output's standard deviation")
    if error > verification.BOUND and not options.float16:
        print("which is rounding: this network magnifies that of its input as much")
    print(f"written: {output} ({len(data) / 1e6:.1f} MB)")
    return 0


def _format(options: argparse.Namespace) -> str:
    """Return the format that is asked for, by its name or by the end of the file's."""
    ending = options.output.suffix.removeprefix(".")
    form = options.format or (ending if ending in FORMATS else None)
    if form is None:
        raise ConfigError(
            f"{options.output}: ends in neither .onnx nor .stablehlo; --format names another"
        )
    if form == "stablehlo" and options.float16:
        raise ConfigError("--float16 belongs to the formats onnx and hub")
    return form
