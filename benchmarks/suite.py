"""The parts of `reldepth benchmark --parts`, alone or with `--against torch` beside PyTorch.

  step        training step: images/s, utilisation, share of the loss
  forward     one image, from bytes to scores on the host
  transformer Depth Anything V2 with ViT-S, the same, at 252x336 and 518x518
  layers      attention, LayerNorm, GELU and transposed convolutions alone
  loss        ranking loss alone, forward and backward, against the number of pairs
  resize      a photograph to the size of the network, on the host
  prepare     shards, in this process and by workers
  input       decoding, augmentation, batching, whole pipeline: folder and prepared shards
  checkpoint  how long a step waits for a save, until it is durable, restoring
  compile     first call in a new process, without and with a cache of compiled code
  memory      peak memory of the step and of the forward pass
  kernels     where the step spends its time, by JAX's profiler

What is compared runs in turn, round by round, in one process where that is possible; freed
memory is kept, for all alike. Tables are in Markdown: median and range over the
rounds. In `first / this` below 1 the first of the group is faster than this one. On a machine that
is shared read the CPU time, best on one core, where threads do not wait for one another: put
`taskset -c 0` before the command. The JSON file has every round.

With `--against torch` (to be installed): the same network, loss and batch in eager PyTorch,
channels-last, and compiled, if there is a compiler; ONNX Runtime and OpenVINO if they are installed
(pip install onnx onnxruntime openvino). On a GPU ours computes convolutions in bfloat16, torch with
autocast. Most of the time of such a run goes into torch.compile.
"""

import argparse
import importlib.util
import json
import os
from typing import TYPE_CHECKING

from reldepth_jax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.torch_calls import Torch

PARTS = (
    "step", "forward", "transformer", "layers", "loss", "resize", "prepare", "input", "checkpoint",
    "compile", "memory", "kernels",
)  # fmt: skip
ENCODERS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def run(options: argparse.Namespace) -> int:
    """Measure the parts that the options of `reldepth benchmark` ask for, print, write."""
    check(options)

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax import runtime

    runtime.set_up()
    # Ours and torch share a GPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    from benchmarks import (
        kernels,
        machine,
        networks,
        pieces,
        preparing,
        processes,
        reading,
        report,
        transformers,
    )
    from benchmarks.context import Context

    gpu = jax.devices()[0].platform == "gpu"
    context = Context(
        gpu=gpu,
        encoder=options.encoder,
        dtype=options.dtype or ("bfloat16" if gpu else "float32"),
        step_size=options.size or (384 if gpu else 256),
        size=options.size or 384,
        batches=options.batch or ([32] if gpu else [4]),
        pairs=options.pairs,
        rounds=options.rounds,
        quick=options.quick,
        torch=_torch(gpu) if options.against else None,
    )
    measure = {
        "step": networks.step,
        "forward": networks.forward,
        "transformer": transformers.transformer,
        "layers": transformers.layers,
        "loss": networks.loss,
        "resize": pieces.resize,
        "prepare": preparing.preparing,
        "input": reading.reading,
        "checkpoint": pieces.checkpoint,
        "compile": processes.compilation,
        "memory": processes.memory,
        "kernels": kernels.kernels,
    }
    facts = {"device": jax.devices()[0].device_kind, **machine.facts()}
    about = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(f"{about}.\n\nFreed memory is kept, for all alike (runtime.set_up).", end="")
    print(" JAX takes the GPU's memory as it needs it." if gpu else "")
    print(f"{options.rounds} rounds, in turn: median (range).\n", flush=True)
    found = {}
    for name in options.parts:
        part = measure[name](context)
        print(f"{report.markdown(part)}\n", flush=True)
        found[name] = report.as_json(part)
    if options.json is not None:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        whole = {"machine": facts, "options": settings, "parts": found}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


def _torch(gpu: bool) -> "Torch":
    from benchmarks.torch_calls import Torch

    return Torch(gpu)


def check(options: argparse.Namespace) -> None:
    """Set what depends on other options; raise UserError for what cannot be measured."""
    options.encoder = options.encoder or "resnet50"
    options.parts = [name for name in (options.parts or ",".join(PARTS)).split(",") if name]
    for name in options.parts:
        if name not in PARTS:
            raise UserError(f"--parts: no part {name!r}; there are {', '.join(PARTS)}")
    if options.encoder not in ENCODERS:
        raise UserError(f"--encoder: {options.encoder!r} is not one of {', '.join(ENCODERS)}")
    if options.size is not None and (options.size < 32 or options.size % 32):
        raise UserError(f"--size must be a multiple of 32, got {options.size}")
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.pairs = options.pairs or ([100, 3000] if options.quick else [100, 1000, 3000, 10000])
    if options.against == "torch" and importlib.util.find_spec("torch") is None:
        raise UserError("--against torch needs PyTorch: pip install torch")
