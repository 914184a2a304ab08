"""Parts: training step, forward pass, loss alone."""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import ours, workload
from benchmarks.context import TORCH, Context
from benchmarks.report import OURS, Part, Row, timed
from reldepth_jax.cli.timing import Call, Seconds, interleave, ratios, spread
from reldepth_jax.config import Config

LOSS_BATCH = 8
PAIRS = 3000
FAST, LOOP = f"{OURS}, fast", "torch, loop over pairs"

Timed = dict[tuple[str, str], Call]
"""What is done, by whom."""


def step(context: Context) -> Part:
    """Time the training step for each batch size, beside the loss alone and matrix products."""
    rows: list[Row] = []
    for number in context.batches:
        rows += _step(context, context.settings(batch=number))
    context.say(
        "Utilisation: operations of the convolutions, forward and twice as many backward, against"
        " the faster of the matrix products timed in the same rounds. Ours also gives WHDR and the"
        " gradient's norm and leaves out steps that are not finite; torch's does not."
    )
    side = context.step_size
    title = f"Training step: {context.encoder}, {side}x{side}, {context.dtype}, {PAIRS} pairs"
    return Part("step", title, rows, context.taken_notes())


def _step(context: Context, config: Config) -> list[Row]:
    number, side = config.data.batch_size, 8192 if context.gpu else 2048
    side = side // 2 if context.quick else side
    batch, scores = workload.make_batch(config), workload.make_scores(config)
    state, arrays = ours.weights(config)
    whole, alone, product = f"step, batch {number}", f"its loss, batch {number}", f"{side}³ product"
    peers = context.peers(
        lambda torch, compiled: torch.step(config, arrays, batch, compiled), _finish
    )
    calls: Timed = {(whole, OURS): ours.step(config, state, batch)}
    calls |= {(whole, who): call for who, call in peers.items()}
    first_loss = {who: float(call.run()) for (_, who), call in calls.items()}
    calls[alone, OURS] = ours.loss(config, scores, batch)
    calls[product, OURS] = ours.matmul(side, context.dtype)
    if context.torch is not None and TORCH in peers:
        calls[alone, TORCH] = context.torch.loss(config, scores, batch, False)
        calls[product, TORCH] = context.torch.matmul(side, context.dtype)
    with context.bar(whole) as progress:
        seconds = interleave(calls, context.rounds, progress=progress)

    middle = {key: statistics.median(taken.wall) for key, taken in seconds.items()}
    peak = max(2 * side**3 / middle[key] for key in middle if key[0] == product)
    context.images_per_second[number] = number / middle[whole, OURS]
    flops = ours.step_flops(config)

    def row(what: str, who: str, taken: Seconds) -> Row:
        took = middle[what, who]
        if what == product:
            return timed(what, who, taken, f"{2 * side**3 / took / 1e9:.4g} GFLOP/s")
        if what == alone:
            pairs = zip(taken.wall, seconds[whole, who].wall, strict=True)
            share = spread([loss / step for loss, step in pairs]).median
            return timed(what, who, taken, f"{share:.2%} of the step", share_of_step=share)
        rate, used = number / took, flops / took / peak
        note = f"{rate:.3g} images/s, {flops / took / 1e9:.4g} GFLOP/s, {used:.0%} of the peak"
        return timed(
            what, who, taken, note, images_per_second=rate, flops=flops, utilisation=used,
            peak_flops=peak, first_loss=first_loss[who],
        )  # fmt: skip

    return [row(*key, taken) for key, taken in seconds.items()]


def forward(context: Context) -> Part:
    """Time one image, from bytes on the host to scores on the host."""
    config = context.settings(size=context.size)
    images = workload.make_batch(config)["image"]
    state, arrays = ours.weights(config)
    functions: dict[str, ours.Forward] = {OURS: ours.forward(config, state)}
    if not context.gpu:
        functions[FAST] = ours.forward(config, state, fast=True)

    def module() -> Any:
        assert context.torch is not None
        return context.torch.network(config, arrays)

    def file() -> bytes:
        from benchmarks import peer_runtimes

        return peer_runtimes.exported(module(), images)

    functions |= in_torch(context, module, images) | in_runtimes(context, file, images)
    rows = compared(context, "forward", functions, images)
    title = f"Forward: {context.encoder}, batch 1, {context.size}x{context.size}, {context.dtype}"
    return Part("forward", title, rows, context.taken_notes())


def compared(
    context: Context, what: str, functions: dict[str, ours.Forward], images: np.ndarray
) -> list[Row]:
    """Time functions of images in turn, and how far their outputs are apart."""
    outputs = {who: function(images) for who, function in functions.items()}
    calls = {who: Call(functools.partial(f, images)) for who, f in functions.items()}
    with context.bar(what) as progress:
        seconds = interleave(calls, context.rounds, progress=progress)
    base = TORCH if TORCH in outputs else OURS
    rows = []
    for who, taken in seconds.items():
        error = np.abs(outputs[who] - outputs[base]).max() / np.abs(outputs[base]).max()
        told = [f"differs by {error:.1e}"] if who != base else []
        if FAST in seconds and who not in (OURS, FAST):
            by = [ratios(*pair).median for pair in zip(seconds[FAST], taken, strict=True)]
            told.append(f"fast / this {by[0]:.3g}, in CPU time {by[1]:.3g}")
        rows.append(timed(what, who, taken, ", ".join(told), difference=float(error)))
    if FAST in seconds:
        context.say("Fast: larger tiles of Winograd's (`load_model(…, fast=True)`).")
    context.say(f"Differs: most of all scores from {base}, over the largest score; new weights.")
    return rows


def in_torch(
    context: Context, module: Callable[[], Any], images: np.ndarray
) -> dict[str, ours.Forward]:
    """Return the forward pass of a module for bytes, eager and compiled, as far as they run."""
    return context.peers(
        lambda torch, compiled: torch.forward(module(), context.dtype, compiled),
        lambda function: function(images),
    )


def in_runtimes(
    context: Context,
    file: Callable[[], bytes],
    images: np.ndarray,
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images,
) -> dict[str, ours.Forward]:
    """Return the forward pass of an ONNX file in each runtime, as far as they run.

    Args:
      prepare: makes the input of the file of images; its time belongs to them.
    """
    found: dict[str, ours.Forward] = {}
    if context.torch is None:
        return found
    if context.gpu:
        context.say("ONNX Runtime, OpenVINO: compared on CPU only.")
        return found
    from benchmarks import peer_runtimes

    for who, make in peer_runtimes.RUNTIMES.items():
        with context.trying(who):
            run = make(file(), prepare(images))
            found[who] = functools.partial(_prepared, run, prepare)
            found[who](images)
    return found


def _prepared(
    run: ours.Forward, prepare: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
    return run(prepare(images))


def loss(context: Context) -> Part:
    """Time drawing pairs, loss and gradient by the scores against the number of pairs."""
    config = context.settings(size=context.size, batch=LOSS_BATCH)
    batch, scores = workload.make_batch(config), workload.make_scores(config)
    calls: Timed = {}
    for number in context.pairs:
        changed = context.settings(size=context.size, batch=LOSS_BATCH, pairs=number)
        what = f"{number} pairs"
        calls[what, OURS] = ours.loss(changed, scores, batch)
        peers = context.peers(
            lambda torch, compiled, changed=changed: torch.loss(changed, scores, batch, compiled),
            _finish,
        )
        calls |= {(what, who): call for who, call in peers.items()}
    looped = next((n for n in context.pairs if n >= PAIRS), context.pairs[-1])
    if context.torch is not None and not context.torch.lacks(False):
        calls[f"{looped} pairs", LOOP] = context.torch.loop_loss(scores, batch)
    with context.bar("loss") as progress:
        seconds = interleave(calls, context.rounds, progress=progress)
    rows = []
    for number in context.pairs:
        for (what, who), taken in seconds.items():
            if what != f"{number} pairs":
                continue
            note = ""
            if who == LOOP:
                from benchmarks.torch_calls import LOOP_PAIRS

                factor = LOSS_BATCH * number / LOOP_PAIRS
                taken = Seconds(*([factor * value for value in values] for values in taken))
                note = f"scaled from {LOOP_PAIRS} pairs"
            rows.append(timed(what, who, taken, note, pairs=number))
    context.say("Draws and labels the pairs, drops the easiest quarter, gradient by the scores.")
    side = context.size
    title = f"Ranking loss alone, forward and backward: batch {LOSS_BATCH}, {side}x{side}"
    return Part("loss", title, rows, context.taken_notes())


def _finish(call: Call) -> None:
    call.wait(call.run())
