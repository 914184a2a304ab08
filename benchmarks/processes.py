"""Parts that need fresh processes: compilation with and without a cache, peak memory."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.context import TORCH, Context
from benchmarks.report import OURS, Part, Row

ROOT = pathlib.Path(__file__).parent.parent
CACHES = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
COLD, CACHED = "no cache", "cached"

Outcomes = dict[tuple[str, str, str], list[dict[str, Any]]]
"""What, who, cold or cached -> what `child` printed, round by round."""


def compilation(context: Context) -> Part:
    """Time from the start of a program to its first result, without and with compiled code."""
    rows = []
    for (what, who, cache), found in _outcomes(context).items():
        first = [each["first"] - (each["later"] if who != TORCH else 0) for each in found]
        start = sum(each["start"] for each in found) / len(found)
        note = f"before it: {start:.1f} s for imports and new weights"
        rows.append(Row(f"{what}, {cache}", who, first, "s", [], note, {"rounds_of_child": found}))
    context.say(
        "First call less a later one, each in a process of its own; of eager torch the first call."
        " Cached: JAX_COMPILATION_CACHE_DIR and TORCHINDUCTOR_CACHE_DIR as the process before left"
        " them."
    )
    return Part("compile", f"Compilation: {context.encoder}", rows, context.taken_notes())


def memory(context: Context) -> Part:
    """Take the peak memory of processes that do nothing else."""
    rows = []
    for (what, who, cache), found in _outcomes(context).items():
        device = context.gpu and all(each["device_peak"] for each in found)
        peak = [each["device_peak" if device else "peak"] / 2**20 for each in found]
        before = max(each["before"] for each in found) / 2**20
        note = "of the GPU" if device else f"{before:.0f} MiB before the first call"
        rows.append(Row(f"{what}, {cache}", who, peak, "MiB", [], note))
    context.say("Largest resident set (VmHWM), or what was allocated on the GPU, with compilation.")
    return Part("memory", f"Peak memory: {context.encoder}", rows, context.taken_notes())


def _outcomes(context: Context) -> Outcomes:
    """Return what the processes told; they run once for both parts."""
    if not context.processes:
        context.processes |= _run(context)
    return context.processes


def _run(context: Context) -> Outcomes:
    who = [OURS, *context.programs()]
    batch = context.batches[-1]
    shapes = {"step": (context.step_size, batch), "forward": (context.size, 1)}
    rounds = max(1, context.rounds // 3)
    found: Outcomes = {}
    total = rounds * len(shapes) * len(who) * 2
    with context.bar("processes") as progress:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as caches:
                for cache in (COLD, CACHED):
                    for what, (size, number) in shapes.items():
                        for name in who:
                            progress(sum(map(len, found.values())), total)
                            key = (f"{what}, batch {number}, {size}x{size}", name, cache)
                            told = {"who": name, "what": what, "size": size, "batch": number}
                            with context.trying(f"{name}, {what}"):
                                outcome = _child(context, told, caches)
                                found.setdefault(key, []).append(outcome)
    return _complete(found, rounds)


def _complete(found: Outcomes, rounds: int) -> Outcomes:
    """Drop what failed in a round, and put the programs of each thing side by side."""
    whole = {key: value for key, value in found.items() if len(value) == rounds}
    return dict(sorted(whole.items(), key=lambda item: (item[0][0], item[0][2] == CACHED)))


def _child(context: Context, told: dict[str, Any], caches: str) -> dict[str, Any]:
    told |= {"encoder": context.encoder, "dtype": context.dtype, "gpu": context.gpu}
    # What each of the programs compiled is its own.
    folders = {name: os.path.join(caches, told["who"], told["what"], name) for name in CACHES}
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", json.dumps(told)],
        cwd=ROOT, env=os.environ | folders, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError((result.stderr.strip().splitlines() or ["it failed"])[-1])
    return json.loads(result.stdout.splitlines()[-1])
