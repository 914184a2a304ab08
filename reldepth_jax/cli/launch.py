"""Train one run in several processes of this machine.

reldepth launch --processes 2 -- train --config ranking …
python scripts/launch.py --processes 2 -- scripts/train.py --config configs/ranking.py …

One process uses all devices of a machine: this is for trying out several, and for machines without
Slurm that set the same variables themselves (docs/multi_process.md). Signals go to all processes.
The exit code is the first one that is not 0; then the others have a minute to end by themselves.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time

from reldepth_jax.cli import command
from reldepth_jax.errors import UserError
from reldepth_jax.training.preemption import heard

_PATIENCE = 60.0
"""Seconds that the others have to save and end."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("launch", __doc__)
    options.add_argument("--processes", type=int, required=True, help="how many")
    options.add_argument(
        "command",
        nargs="+",
        help="command of reldepth, or a Python script, with its options, after --",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Start the processes, pass signals on, wait."""
    options = parser().parse_args(argv)
    if options.processes < 1:
        raise UserError(f"--processes must be at least 1, got {options.processes}")
    program = [sys.executable]
    if not options.command[0].endswith(".py"):
        program += ["-m", "reldepth_jax"]
    address = f"127.0.0.1:{_free_port()}"
    children: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, _frame: object = None) -> None:
        received.append(number)
        for child in children:
            child.send_signal(number)

    for number in heard():
        signal.signal(number, pass_on)
    for index in range(options.processes):
        environment = os.environ | {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(options.processes),
            "JAX_PROCESS_ID": str(index),
            # One GPU each, as under Slurm; nothing on CPU.
            "JAX_LOCAL_DEVICE_IDS": str(index),
        }
        # A session of its own: Ctrl-C in a terminal would reach it twice, which means "at once".
        children.append(
            subprocess.Popen([*program, *options.command], env=environment, start_new_session=True)
        )
        if received:
            children[-1].send_signal(received[0])
    return _wait(children)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    code, deadline, alive = 0, float("inf"), True
    while alive:
        time.sleep(0.05)
        alive = any([child.poll() is None for child in children])
        failed = [child.returncode for child in children if child.returncode]
        if failed and not code:
            # Killed ones, below 0, before those that have noticed it.
            code, deadline = min(failed), time.monotonic() + _PATIENCE
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
