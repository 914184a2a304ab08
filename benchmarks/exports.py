"""What exported networks are worth: error, size and speed beside our own forward pass.

python -m benchmarks.exports                                  all networks, smallest of each family
python -m benchmarks.exports midas_v21_small sgrl --rounds 5

Prints the table of docs/export.md. Networks get random weights, but the one of the package, so that
nothing is fetched: neither error nor time depends on what they have learnt. One photograph of the
network's own size as a square; CPU time of all threads, runtimes in turn.
"""

import argparse
import dataclasses
import sys

import numpy as np

from reldepth_jax import processor, runtime
from reldepth_jax.cli.timing import Call, interleave, spread
from reldepth_jax.export import onnx_file, stablehlo_file, verification
from reldepth_jax.inference import networks
from reldepth_jax.public_files import SHIPPED
from reldepth_jax.weights import arrays, presets

NAMES = (
    SHIPPED, "midas_v21_small", "midas_v1", "redweb", "sgrl", "midas_v21", "dpt_hybrid",
    "depth_anything_v2_vits", "depth_anything_v2_metric_hypersim_vits",
)  # fmt: skip


def with_random_weights(name: str, *, fast: bool = False) -> networks.Model:
    """Return a published network whose activations stay of order one, the same every time."""
    preset, rng = presets.get(name), np.random.default_rng(0)
    held = {}
    for key, shape in arrays.shapes(preset.model, "network").items():
        if key.endswith("running_var") or (len(shape) == 1 and not key.endswith("bias")):
            held[key] = rng.uniform(0.2, 0.6, shape) + key.endswith("running_var")
            if key.endswith("norm3.weight"):
                # Branches of DPT-Hybrid as strong as what they are added to magnify rounding.
                held[key] *= 0.3
        else:
            fan = np.prod(shape[1:]) if len(shape) > 1 else 100
            held[key] = rng.normal(size=shape) * fan**-0.5
        held[key] = held[key].astype(np.float32)
    last = max(key for key in held if key.startswith("head.conv") and key.endswith("bias"))
    held[last] += 1
    return networks.Model(preset.model, arrays.variables(held), preset.preprocessing, {}, fast)


def row(name: str, rounds: int) -> str:
    """Return one line of the table."""
    model = networks.load_model() if name == SHIPPED else with_random_weights(name)
    data, error = onnx_file.export(model, name)
    half, half_error = onnx_file.export(model, name, half=True)
    _, hlo_error = stablehlo_file.export(model)
    _, (_, height, width) = verification.sizes(model)
    image = np.random.default_rng(0).uniform(size=(1, height, width, 3)).astype(np.float32)
    first = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    fast = dataclasses.replace(model, fast=True)
    in_onnxruntime = onnx_file.runner(data)
    calls = {
        "ours": Call(lambda: np.asarray(model(image))),
        "fast": Call(lambda: np.asarray(fast(image))),
        "onnx": Call(lambda: in_onnxruntime(first)),
    }
    for call in calls.values():
        call.run()
    taken = interleave(calls, rounds)
    told = []
    for seconds in taken.values():
        found = spread([1e3 * value for value in seconds.cpu])
        told.append(f"{found.median:.0f} ({found.low:.0f}–{found.high:.0f})")
    sizes = f"{len(data) / 1e6:.0f} / {len(half) / 1e6:.0f}"
    errors = f"{error:.1e} | {half_error:.1e} | {hlo_error:.1e}"
    return f"| `{name}` | {height}x{width} | {errors} | {sizes} | {' | '.join(told)} |"


def main() -> int:
    """Read the command line, print the table line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    runtime.set_up()
    runtime.keep_compiled()
    print(f"{processor.cores()} cores")
    print(
        "| network | size | ONNX | ONNX, float16 | StableHLO | MB | ours, ms | `--fast` | ONNX"
        " Runtime |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name in options.names:
        print(row(name, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
