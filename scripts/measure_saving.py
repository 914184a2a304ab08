"""Measure what saving costs: how long a step waits for it, and until the state is durable.

python scripts/measure_saving.py

The state is that of configs/ranking_resnet50.py: parameters, BatchNorm statistics and AdamW's two
moments. Training is stood in for by a compiled step that keeps the CPU busy and replaces the whole
state, in turn without and with a save in flight. Prints a table in Markdown: median and range.
"""

import argparse
import os
import pathlib
import platform
import statistics
import tempfile
import time

from reldepth_jax import config
from reldepth_jax.cli import command


def main() -> int:
    """Save, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/ranking_resnet50.py")
    parser.add_argument("--rounds", type=int, default=15, help="default: 15")
    parser.add_argument("--where", help="directory to save in, default: the temporary one")
    options, _ = command.parse(parser)
    settings = config.load(options.config)
    every = config.Config().train.checkpoint_every

    # Only now, because importing JAX takes longer than telling a mistake.
    import jax
    import jax.numpy as jnp
    import numpy as np
    import orbax.checkpoint

    from reldepth_jax.run_dir.checkpoints import Checkpoints
    from reldepth_jax.training.state import new_state

    # Random values: what does not compress takes longest.
    rng = np.random.default_rng(0)
    state = jax.device_put(
        jax.tree.map(
            lambda leaf: rng.standard_normal(leaf.shape, np.float32).astype(leaf.dtype),
            new_state(settings, abstract=True)[1],
        )
    )
    megabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6

    def work(operands: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 10, lambda _, x: jnp.tanh(x @ operands), operands)

    work = jax.jit(work)
    operands = jnp.asarray(rng.standard_normal((1024, 1024), np.float32))
    work(operands).block_until_ready()

    def steps(until: float) -> list[float]:
        """Return the seconds of each step until `until`, at least one."""
        seconds = []
        while not seconds or time.perf_counter() < until:
            began = time.perf_counter()
            work(operands).block_until_ready()
            seconds.append(time.perf_counter() - began)
        return seconds

    blocking, idle, durable, added, restoring = [], [], [], [], []
    with tempfile.TemporaryDirectory(dir=options.where) as place:
        checkpoints = Checkpoints(pathlib.Path(place) / "c", keep=2)
        number = 0
        for turn in range(options.rounds + 1):
            # Nothing else runs: what a stop signal waits for.
            number += 1
            began = time.perf_counter()
            checkpoints.save(number, state, {})
            checkpoints.wait()
            quiet = time.perf_counter() - began
            # In turn: steps without, steps with a save in flight.
            without = statistics.median(steps(time.perf_counter() + quiet))
            number += 1
            began = time.perf_counter()
            checkpoints.save(number, state, {})
            waited = time.perf_counter() - began
            slowed = []
            while checkpoints.busy:
                slowed += steps(0)
            checkpoints.wait()
            loaded = time.perf_counter() - began
            began = time.perf_counter()
            checkpoints.restore(jax.tree.map(jnp.empty_like, state))
            restored = time.perf_counter() - began
            if turn:  # the first warms up
                blocking.append(waited)
                idle.append(quiet)
                durable.append(loaded)
                added.append(waited + sum(slowed) - len(slowed) * without)
                restoring.append(restored)
        checkpoints.close()

    def row(what: str, values: list[float]) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"| {what} | {middle:.3f} | {low:.3f} to {high:.3f} |"

    print(f"| {megabytes:.0f} MB, seconds | median | range |\n| --- | --- | --- |")
    print(row("the step waits (copy)", blocking))
    print(row("until durable, nothing else running", idle))
    print(row("until durable, beside training on all cores", durable))
    print(row("training lost to one save, waiting included", added))
    print(row("restoring and verifying", restoring))
    print(f"\nShare of the time at a save every {every} steps:\n")
    print("| step takes | waiting alone | everything, median | range |\n| --- | --- | --- | --- |")
    for step in (0.1, 0.3, 1.0):
        wait, *lost = (
            f"{100 * seconds / (every * step):.2f} %"
            for seconds in (
                statistics.median(blocking), statistics.median(added), min(added), max(added),
            )
        )  # fmt: skip
        print(f"| {step} s | {wait} | {lost[0]} | {lost[1]} to {lost[2]} |")
    print(
        f"\n{options.rounds} rounds, in turn. {len(os.sched_getaffinity(0))} cores, load"
        f" {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, jax {jax.__version__},"
        f" orbax {orbax.checkpoint.__version__}, {jax.devices()[0].device_kind}."
    )
    return 0


if __name__ == "__main__":
    command.run(main)
