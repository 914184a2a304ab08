"""Measure what a stop signal costs: real processes, real SIGTERMs, at random moments.

    python -m tests.kills.stops [--signals 20] [--config configs/smoke.py] [--tries 8] [--seed 0]

The first part trains CONFIG again and again from the beginning and stops each run in a phase of its
own turn, at a random moment of it. It fails if a run lost a completed step or did not exit with
143 (stopped) or 0 (it was done). Exit codes are those that a shell reports.

The second part measures the time from the signal to the durable checkpoint for the state of
configs/ranking_resnet50.py with AdamW. On a CPU its steps would take minutes, so a stand-in that
changes every array takes their place; a real run adds the rest of the step that is under way.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from unittest import mock

import jax
from rich.console import Console

from reldepth_jax import config as configs
from reldepth_jax.run_dir.history import History, metrics
from reldepth_jax.training import run as training_run
from reldepth_jax.training.preemption import Stopped
from reldepth_jax.training.state import new_state
from tests.fixtures.training import Child, newest

PHASES = ("start", "compile", "step", "save", "evaluation", "final")
"""A save is in the background: of the loop it is a part only while the state is copied."""
_AFTER = {
    "start": ("", 0, 3.0),
    "compile": ("compile", 1, 2.0),
    "step": ("step", 3, 0.3),
    "save": ("save.arrays", 2, 0.1),
    "evaluation": ("evaluation", 2, 0.2),
    "final": ("final", 1, 0.3),
}
"""The point of `reldepth_jax.failpoints` after which a phase is hit, at which of its passes at
most, and how many seconds later at most."""


@dataclasses.dataclass(frozen=True)
class Stop:
    """What one signal did."""

    phase: str
    """The last named point of the loop before the signal, and whether a save was in flight."""
    seconds: float
    """From the signal to the end of the process."""
    code: int
    """As a shell reports it."""
    reached: int
    """Completed steps."""
    saved: int
    """Newest saved step, 0 if there is none."""
    output: str

    @property
    def lost(self) -> int:
        """Steps that were completed and are not saved."""
        return self.reached - self.saved


def stop_once(
    config: str,
    folder: pathlib.Path,
    phase: str,
    draw: random.Random,
    environment: Mapping[str, str],
) -> Stop:
    """Train CONFIG in a process, send SIGTERM at a random moment of `phase`, wait for the end."""
    point, most, delay = _AFTER[phase]
    wanted, delay = draw.randint(min(1, most), most), draw.uniform(0, delay)
    run = folder / "run"
    run.parent.mkdir(parents=True)
    child = Child(run, "--config", config, "--config.train.log_every=1", **environment)
    child.wait_for(point, wanted)
    time.sleep(delay)
    points = child.points()
    child.send(signal.SIGTERM)
    code, output, seconds = child.end(timeout=300)
    return Stop(
        _phase(points),
        seconds,
        code if code >= 0 else 128 - code,
        max((line["step"] for line in metrics(run, "train")), default=0),
        newest(run),
        output,
    )


def _phase(points: Sequence[str]) -> str:
    loop = [point for point in points if point in (*PHASES, "restore")]
    saving = points.count("save.arrays") > points.count("commit.done")
    return (loop[-1] if loop else "import") + (", saving" if saving else "")


def problems(stops: Sequence[Stop]) -> list[str]:
    """Return what went wrong, one line for each stop."""
    return [
        f"{stop.phase}: exit code {stop.code}, {stop.lost} steps lost\n{stop.output[-2000:]}"
        for stop in stops
        if stop.lost > 0 or stop.code not in (0, 143)
    ]


def table(stops: Sequence[Stop]) -> str:
    """Return the stops as lines of a table."""
    lines = ["signal after point     code  seconds  reached  saved  lost"]
    lines += [
        f"{stop.phase:<22}{stop.code:>5}{stop.seconds:>9.2f}{stop.reached:>9}{stop.saved:>7}"
        f"{stop.lost:>6}"
        for stop in stops
    ]
    return "\n".join(lines)


def time_to_durable(folder: pathlib.Path, tries: int) -> tuple[float, list[float]]:
    """Return the MB of a ResNet-50 state, and the seconds from SIGTERM to its manifest.

    In this process: all is as in a training but the step, and the validation, which is left out.
    """
    config = configs.load("configs/ranking_resnet50.py")
    never = dict.fromkeys(("steps", "log_every", "checkpoint_every"), 10**6)
    config = dataclasses.replace(
        config,
        # The images are not looked at: small ones are made faster.
        data=dataclasses.replace(config.data, crop=(32, 64), batch_size=1, threads=1),
        train=dataclasses.replace(config.train, checkpoint_minutes=1e6, **never),
    )
    like = new_state(config, abstract=True)[1]
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like)) / 1e6

    def stand_in(state, batch):
        old = state.params, state.opt_state
        params, opt_state = jax.tree.map(lambda leaf: (leaf * 0.999).astype(leaf.dtype), old)
        zero = 0.0 * batch["depth"][0, 0, 0]
        names = ("loss", "whdr", "grad_norm", "skipped", "skipped_in_a_row")
        metrics = dict.fromkeys(names, zero) | {"finite": zero + 1}
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), metrics

    def one(run: pathlib.Path) -> float:
        sent: list[float] = []

        def stop() -> None:
            sent.append(time.time())
            os.kill(os.getpid(), signal.SIGTERM)

        timer = threading.Timer(1.0, stop)

        def reach(point: str) -> None:
            # When compiling is over; then at any moment of a step.
            if point == "step" and not timer.ident:
                timer.start()

        with (
            mock.patch.object(training_run, "step_function", return_value=stand_in),
            mock.patch.object(training_run, "evaluate_state", side_effect=Stopped),
            mock.patch.object(training_run.failpoints, "reach", reach),
        ):
            code = training_run.train(config, run, Console(quiet=True))
        if code != 143:
            raise RuntimeError(f"exit code {code}, not 143")
        saved = [event for event in History(run).events() if event["event"] == "saved"]
        shutil.rmtree(run)
        return saved[-1]["time"] - sent[0]

    return size, [one(folder / f"resnet50-{number}") for number in range(tries)]


def main() -> int:
    """Send the signals, print what they did."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=20, help="processes stopped (default: 20)")
    parser.add_argument("--config", default="configs/smoke.py", help="what they train")
    parser.add_argument("--tries", type=int, default=8, help="of the second part (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    stops: list[Stop] = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = {"JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
        for number in range(options.signals):
            phase = PHASES[number % len(PHASES)]
            stops.append(stop_once(options.config, folder / str(number), phase, draw, environment))
            print(table(stops[-1:]).splitlines()[-1], flush=True)
        if stops:
            print(table(stops))
            slowest = max(stop.seconds for stop in stops)
            lost = sum(stop.lost for stop in stops)
            print(f"{len(stops)} signals, {lost} steps lost, at most {slowest:.2f} s to the exit")
        for line in problems(stops):
            print(line, file=sys.stderr)
        if options.tries:
            size, seconds = time_to_durable(folder, options.tries)
            print(
                f"ResNet-50 state of {size:.0f} MB, {len(seconds)} tries, signal to durable"
                f" checkpoint: median {statistics.median(seconds):.2f} s, maximum"
                f" {max(seconds):.2f} s ({', '.join(f'{value:.2f}' for value in seconds)})"
            )
    return 1 if problems(stops) else 0


if __name__ == "__main__":
    sys.exit(main())
