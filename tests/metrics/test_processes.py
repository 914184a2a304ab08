"""States of metrics over several processes, in two real ones that talk over the loopback."""

import json
import socket
import subprocess
import sys

import numpy as np

from reldepth_jax.metrics.processes import gather, process_block

PROGRAM = """
import json, sys
import jax
import numpy as np
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.evaluation.protocols.base import merge_counts
from reldepth_jax.metrics.processes import process_block
parts = []
for index in process_block(7):
    pairs = np.random.default_rng(index).random(index) < 0.4  # image 0 has no pair
    parts.append({"whdr": ErrorCounts.of_image(pairs)})
counts = merge_counts(parts, ["whdr"])["whdr"]
low, high = counts.interval
print(json.dumps([counts.wrong.tolist(), counts.total.tolist(), counts.rate, low, high]))
"""


def test_two_processes_reach_exactly_what_one_does():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(number)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    assert first == second
    wrong, total, rate, low, high = first
    # By hand, in this process, image by image.
    draws = [np.random.default_rng(index).random(index) < 0.4 for index in range(7)]
    assert wrong == [float(draw.sum()) for draw in draws]
    assert total == [0, 1, 2, 3, 4, 5, 6]
    assert rate == sum(wrong) / 21
    assert low <= rate <= high


def test_one_process_keeps_its_arrays():
    arrays = {"a": np.arange(3)}
    assert gather(arrays)[0] is arrays
    assert process_block(5) == range(5)
