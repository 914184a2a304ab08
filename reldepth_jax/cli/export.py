"""Export a network for programs that do not have this package.

reldepth export --output depth.onnx                        the network that comes with the package
reldepth export --model midas_v21_small --output midas.onnx
reldepth export --workdir runs/ranking --output ranking.onnx --float16

The file takes images of any batch, height and width (multiples that its metadata name), says what
it is, and is compared with this package's own output before it is written: docs/export.md.
To PyTorch: reldepth convert IN OUT.safetensors --to torch.
"""

import argparse
import pathlib

from reldepth_jax.cli import command, which_network
from reldepth_jax.config import ConfigError

ENDINGS = {".onnx": "onnx"}


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("export", __doc__)
    which_network.add(options)
    options.add_argument(
        "--output", metavar="FILE", type=pathlib.Path, required=True, help="ends in .onnx"
    )
    options.add_argument(
        "--float16",
        action="store_true",
        help="store weights in half the size, with 3 digits; computed is in float32",
    )
    options.add_argument("--name", help="what the file calls the network; default: as it is named")
    options.add_argument("--force", action="store_true", help="replace the file if it exists")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, export, compare, write, print the error."""
    options, _ = command.parse(parser(), argv)
    name = which_network.check(options)
    output: pathlib.Path = options.output
    if output.suffix not in ENDINGS:
        raise ConfigError(f"{output}: the output's name must end in {' or '.join(ENDINGS)}")
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; give the name of a file")
    if output.exists() and not options.force:
        raise ConfigError(f"{output} exists; choose another name, or --force")

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime
    from reldepth_jax.data.images.io import atomic_write
    from reldepth_jax.export import contract, onnx_file

    runtime.set_up()
    runtime.keep_compiled()
    model = which_network.load(options)
    name = options.name or name
    data, error = onnx_file.export(model, name, half=options.float16)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as file:
        file.write(data)
    told = contract.facts(model, name)
    print(f"{told['architecture']}; larger is {told['larger_is']}; licence: {told['licence']}")
    print(f"largest difference to this package: {error:.1e} of the output's standard deviation")
    print(f"written: {output} ({len(data) / 1e6:.1f} MB)")
    return 0
