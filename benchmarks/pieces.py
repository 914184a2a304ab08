"""Parts beside the networks: resizing on the host, saving."""

import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours
from benchmarks.context import TORCH, Context
from benchmarks.report import OURS, Part, Row, timed
from reldepth_jax.cli.timing import Call, Seconds, interleave
from reldepth_jax.data.images import geometry, resampling
from reldepth_jax.run_dir.checkpoints import Checkpoints

KERNELS = ("linear", "area", "triangle")


def resize(context: Context) -> Part:
    """Time bringing a photograph of twice the size to that of the network, on the host."""
    new = context.size, context.size * 4 // 3 // 32 * 32
    old = 2 * new[0], 2 * new[1]
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    calls: dict[tuple[str, str], Call] = {}
    for kernel in KERNELS:
        calls[kernel, OURS] = Call(functools.partial(_resized, image, new, kernel))
        if context.torch is not None:
            from benchmarks import torch_calls

            calls[kernel, TORCH] = Call(functools.partial(torch_calls.resize, image, new, kernel))
    with context.bar("resize") as progress:
        seconds = interleave(calls, context.rounds, progress=progress)
    context.say(
        "linear and area: data/images/resampling.py, float64, against float32 in torch; triangle:"
        " data/images/geometry.py (Pillow, averaging), against antialiased bilinear in torch; both"
        " uint8."
    )
    title = f"Resize on the host: {old[0]}x{old[1]} to {new[0]}x{new[1]}, RGB"
    rows = [timed(*key, taken) for key, taken in seconds.items()]
    return Part("resize", title, rows, context.taken_notes())


def _resized(image: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    if kernel == "triangle":
        return geometry.resize_image(image, size)
    return resampling.resample(image, size, "linear" if kernel == "linear" else "area")


def checkpoint(context: Context) -> Part:
    """Time how long a step waits for a save, and until the state is durable."""
    config = context.settings()
    state, _ = ours.weights(config)
    blocking, durable, restored, peer = (Seconds([], []) for _ in range(4))
    saved = context.torch and context.torch.training_state(config)
    megabytes = _bytes(state) / 1e6
    with tempfile.TemporaryDirectory() as place, context.bar("checkpoint") as progress:
        checkpoints = Checkpoints(pathlib.Path(place, "ours"), keep=1)
        for turn in range(context.rounds + 1):
            progress(turn, context.rounds + 1)
            began = time.perf_counter(), time.process_time()
            checkpoints.save(turn, state, {})
            waited = _since(*began)
            checkpoints.wait()
            whole = _since(*began)
            empty = jax.tree.map(jnp.empty_like, state)
            loaded = _timed(functools.partial(checkpoints.restore, empty))
            theirs = _timed(_saver(saved, os.path.join(place, "theirs"))) if saved else (0.0, 0.0)
            if turn:  # the first warms up
                for kept, found in (
                    (blocking, waited), (durable, whole), (restored, loaded), (peer, theirs),
                ):  # fmt: skip
                    kept.wall.append(found[0])
                    kept.cpu.append(found[1])
        checkpoints.close()
    rows: list[Row] = []
    for what, taken in (("the step waits", blocking), ("until durable", durable)):
        rows.append(timed(what, OURS, taken, megabytes=megabytes))
        if saved:
            rows.append(timed(what, "torch.save", peer))
    rows.append(timed("restoring and verifying", OURS, restored, megabytes=megabytes))
    context.say(
        "Ours copies, then writes and verifies in the background; torch.save returns when written,"
        " not flushed to the disk."
    )
    title = f"Checkpoint: {megabytes:.0f} MB, {context.encoder} with SGD's momenta"
    return Part("checkpoint", title, rows, context.taken_notes())


def _saver(state: Any, path: str) -> Callable[[], None]:
    import torch

    return functools.partial(torch.save, state, path)


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    began = time.perf_counter(), time.process_time()
    call()
    return _since(*began)


def _since(wall: float, cpu: float) -> tuple[float, float]:
    return time.perf_counter() - wall, time.process_time() - cpu


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
