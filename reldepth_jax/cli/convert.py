r"""Convert weights, also from and to PyTorch.

reldepth convert model-f6b98070.pt midas.safetensors --arch midas_v21
reldepth convert resnet50-0676ba61.pth resnet50.safetensors
reldepth convert pretrained:efficientnet_lite0 lite0.safetensors
reldepth convert runs/ranking ranking.safetensors --checkpoint best
reldepth convert midas.safetensors for_midas_code.safetensors --to torch
python scripts/convert_weights.py …     the same, from a clone

IN is a .pt, .pth, .pth.tar or .safetensors file, a run directory, a folder or hub:USER/REPOSITORY
of the Hugging Face hub, or pretrained:NAME (extra `pretrained`). The content of torch files is
never executed. The output says what it is: architecture, preprocessing, sign of the output, where
it came from. `reldepth models` lists the architectures and where users get their weights.
"""

import argparse
import dataclasses
import math
import pathlib

from reldepth_jax import config
from reldepth_jax.cli import command
from reldepth_jax.registry import ENCODERS, PRESETS, did_you_mean


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("convert", __doc__)
    options.add_argument("input", metavar="IN", help="file, run, hub:… or pretrained:NAME")
    options.add_argument("output", metavar="OUT.safetensors", type=pathlib.Path)
    options.add_argument("--arch", metavar="NAME", help="what IN holds; default: by its keys")
    options.add_argument(
        "--to",
        choices=["reldepth", "torch"],
        default="reldepth",
        help="torch: keys that the original's PyTorch code loads; default: reldepth",
    )
    options.add_argument(
        "--checkpoint",
        type=command.checkpoint,
        metavar="STEP",
        help="of a run; default: the newest",
    )
    options.add_argument("--float16", action="store_true", help="half the size, 3 digits")
    options.add_argument(
        "--image-size",
        type=int,
        metavar="N",
        help="shorter side at which a run's network sees photographs; default: that of its crops",
    )
    options.add_argument(
        "--mirrored",
        action="store_true",
        help="the network's output shall be the mean over image and mirror image; twice the time",
    )
    options.add_argument("--licence", metavar="TEXT", help="of a run's weights; the file states it")
    options.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the confidence, which the file states; default: that of IN; of a run, what"
        " `reldepth evaluate` fitted",
    )
    options.add_argument("--force", action="store_true", help="replace OUT if it exists")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, convert, say what was written."""
    options, _ = command.parse(parser(), argv)
    known = [*PRESETS.entries, *ENCODERS.entries]
    if options.arch is not None and options.arch not in known:
        hint = did_you_mean(options.arch, known)
        raise config.ConfigError(
            f"--arch: unknown network {options.arch!r}.{hint} Available: {', '.join(known)}"
        )
    if options.output.suffix != ".safetensors":
        raise config.ConfigError(f"{options.output}: the output's name must end in .safetensors")
    if options.output.is_dir():
        raise config.ConfigError(f"{options.output} is a folder; give the name of a file")
    if options.output.exists() and not options.force:
        raise config.ConfigError(f"{options.output} exists; choose another name, or --force")
    # Without JAX, but not light enough for --help.
    from reldepth_jax.weights import hub

    options.input = hub.located(options.input)
    source = pathlib.Path(options.input)
    if options.output.exists() and source.exists() and options.output.samefile(source):
        raise config.ConfigError(f"{options.output} is IN itself; choose another name")
    if options.checkpoint is not None and not source.is_dir():
        raise config.ConfigError("--checkpoint belongs to a run directory; a file has one state")

    for name in ("image_size", "licence"):
        if getattr(options, name) is not None and not source.is_dir():
            flag = "--" + name.replace("_", "-")
            raise config.ConfigError(f"{flag} belongs to a run directory; a file has its own")
    if options.float16 and options.to == "torch":
        raise config.ConfigError("--float16 belongs to --to reldepth")
    if options.mirrored and options.to == "torch":
        raise config.ConfigError("--mirrored belongs to --to reldepth")
    if options.image_size is not None and options.image_size < 32:
        raise config.ConfigError(f"--image-size must be at least 32, got {options.image_size}")
    command.require_place(options.output)
    if options.temperature is not None:
        if options.to == "torch":
            raise config.ConfigError("--temperature belongs to --to reldepth")
        if not 0 < options.temperature < math.inf:
            raise config.ConfigError(f"--temperature must be above 0, got {options.temperature}")

    # Imported late: a mistake is reported before JAX is loaded.
    import safetensors.numpy

    from reldepth_jax.data.images.io import atomic_write
    from reldepth_jax.inference import networks
    from reldepth_jax.weights import convert, file

    if source.is_dir():
        weights = networks.from_run(options.input, options.checkpoint).weights()
    elif file.is_ours(options.input):
        weights = file.read(options.input)
    else:
        weights = convert.from_file(options.input, options.arch)
    if options.arch not in (None, weights.architecture):
        raise config.ConfigError(
            f"{options.input} holds {weights.architecture}, not {options.arch}; leave --arch out"
        )
    held = weights
    if options.image_size is not None:
        seen = dataclasses.replace(weights.preprocessing, size=options.image_size)
        weights = dataclasses.replace(weights, preprocessing=seen)
    if options.licence is not None:
        told = {**weights.provenance, "licence": options.licence}
        weights = dataclasses.replace(weights, provenance=told)
    for name in ("mirrored", "temperature"):
        if getattr(options, name) and weights.part == "encoder":
            raise config.ConfigError(f"--{name} belongs to a network, not to an encoder alone")
    if options.mirrored:
        twice = dataclasses.replace(weights.model, mirrored=True)
        weights = dataclasses.replace(weights, model=twice)
    if options.temperature is not None:
        weights = dataclasses.replace(weights, temperature=options.temperature)
    elif weights.temperature is not None and (weights.model, weights.preprocessing) != (
        held.model,
        held.preprocessing,
    ):
        print(
            f"without the temperature {weights.temperature:.4g}, which was fitted to other scores;"
            f" `reldepth evaluate --weights {options.output}` fits one, for --temperature"
        )
        weights = dataclasses.replace(weights, temperature=None)
    if options.to == "torch":
        tensors = convert.to_torch(weights)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(options.output) as opened:
            opened.write(safetensors.numpy.save(tensors, convert.torch_metadata(weights)))
    else:
        file.write(options.output, weights, half=options.float16)
    count = sum(array.size for key, array in weights.arrays.items() if ".running_" not in key)
    dead = weights.dead_parameters
    idle = f" and {dead:,} that its code never uses" if dead else ""
    print(f"{weights.architecture} ({weights.part}), {count:,} parameters{idle}; {weights.meaning}")
    if weights.provenance.get("told_by"):
        print(
            f"that it is {weights.architecture} is told by {weights.provenance['told_by']} alone;"
            " --arch says it for sure"
        )
    if weights.model.mirrored:
        alone = "; its code in PyTorch does without" if options.to == "torch" else ""
        print(f"output: mean over image and mirror image{alone}")
    if weights.provenance.get("licence"):
        print(f"licence of the weights: {weights.provenance['licence']}")
    if weights.provenance.get("started_from"):
        print(f"started from {weights.provenance['started_from']}, whose licence may bind this too")
    print(f"written: {options.output}")
    return 0
