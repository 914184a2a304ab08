"""One program in a process of its own: start, first call, later ones, memory.

python -m benchmarks.child '{"who": "ours", "what": "step", "encoder": "resnet50", ...}'

Prints one line of JSON. Started by `processes`, which says where compiled code is kept.
"""

import json
import pathlib
import re
import sys
import time
from collections.abc import Callable
from typing import Any

LATER = 3
"""Calls after the first."""


def main() -> int:
    """Do what the argument says, print what it took."""
    began = time.perf_counter()
    told = json.loads(sys.argv[1])
    from benchmarks import workload

    config = workload.settings(
        told["encoder"], size=told["size"], batch=told["batch"], dtype=told["dtype"]
    )
    ours = told["who"] == "ours"
    call, device_peak = (_ours if ours else _torch)(config, told)
    ready, before = time.perf_counter(), _memory("VmRSS")
    call()
    first = time.perf_counter() - ready
    later = []
    for _ in range(LATER):
        start = time.perf_counter()
        call()
        later.append(time.perf_counter() - start)
    found = {
        "start": ready - began,
        "first": first,
        "later": min(later),
        "before": before,
        "peak": _memory("VmHWM"),
        "device_peak": device_peak(),
    }
    print(json.dumps(found))
    return 0


Made = tuple[Callable[[], Any], Callable[[], int]]
"""The call, which waits for its result, and what gives the device's peak memory in bytes."""


def _ours(config: Any, told: dict[str, Any]) -> Made:
    import jax

    from benchmarks import ours, workload
    from reldepth_jax import runtime

    runtime.set_up()
    runtime.keep_compiled()
    batch = workload.make_batch(config)

    def peak() -> int:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    if told["what"] == "forward":
        forward = ours.forward(config, ours.new_state(config))
        return lambda: forward(batch["image"]), peak
    step = ours.step(config, ours.new_state(config), batch)
    return lambda: step.wait(step.run()), peak


def _torch(config: Any, told: dict[str, Any]) -> Made:
    import torch

    from benchmarks import torch_calls, workload
    from reldepth_jax import runtime

    runtime.set_up()
    batch = workload.make_batch(config)
    compiled = told["who"] != "torch"
    peer = torch_calls.Torch(told["gpu"])

    def peak() -> int:
        return torch.cuda.max_memory_allocated() if told["gpu"] else 0

    if told["what"] == "forward":
        forward = peer.forward(peer.network(config, None), config.model.dtype, compiled)
        return lambda: forward(batch["image"]), peak
    step = peer.step(config, None, batch, compiled)
    return lambda: step.wait(step.run()), peak


def _memory(field: str) -> int:
    """Return a field of /proc/self/status in bytes, 0 elsewhere than on Linux."""
    path = pathlib.Path("/proc/self/status")
    match = re.search(rf"{field}:\s*(\d+) kB", path.read_text()) if path.exists() else None
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    sys.exit(main())
