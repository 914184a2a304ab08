"""Batches that do not come: file systems that hang, data that cannot be opened."""

import gc
import pathlib
import threading
import time

import pytest

from reldepth_jax.training import prefetch
from reldepth_jax.training.preemption import Interrupt
from tests.fixtures.training import Child, newest, step_of

pytestmark = pytest.mark.usefixtures("strides_encoder")


def test_a_source_that_hangs_is_named_after_the_time_out():
    release = threading.Event()

    def hang(step: int):
        release.wait(30)
        yield {}

    fetcher = prefetch.Fetcher(
        hang, 7, timeout=0.5, interrupt=Interrupt(), warn=lambda line: None,
        reading=lambda: "sample 3 of source 0 (a/b.png)",
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(
        prefetch.DataStopped, match=r"step 7: no batch for 0.5 s.*\(a/b.png\)"
    ) as stop:
        next(fetcher)
    assert 0.4 < time.monotonic() - began < 5
    assert "data.timeout" in str(stop.value)
    assert "\n" not in str(stop.value)
    fetcher.close()
    release.set()


def test_data_that_cannot_be_opened_are_told_at_once():
    def broken(step: int):
        raise prefetch.DataStopped("nothing here")

    fetcher = prefetch.Fetcher(
        broken, 0, timeout=30.0, interrupt=Interrupt(), warn=lambda line: None
    )
    with pytest.raises(prefetch.DataStopped, match="nothing here"):
        next(fetcher)


def test_a_hanging_file_system_ends_the_process_with_its_code(tmp_path: pathlib.Path):
    child = Child(
        tmp_path / "run", "--config.data.timeout=1.5", "--config.train.checkpoint_every=100",
        MARKED_BLOCK="0",
    )  # fmt: skip
    code, output, _ = child.end()
    assert code == 3
    assert "Traceback" not in output
    last = output.strip().splitlines()[-1]
    reached = newest(tmp_path / "run")
    assert last.startswith(f"error: step {reached}: no batch for 1.5 seconds, reading sample 0 of")
    assert "(train/0.png)" in last
    assert reached >= 1
    assert step_of(tmp_path / "run") == reached


def test_what_reads_is_dropped_by_who_closes_and_not_by_the_thread():
    # Grain ends its workers then, and at the end of the process: both at once is an error there.
    dropped = []

    class Batches:
        def __iter__(self):
            return self

        def __next__(self):
            return {}

        def __del__(self):
            dropped.append(threading.current_thread().name)

    fetcher = prefetch.Fetcher(
        lambda step: Batches(), 0, timeout=9.0, interrupt=Interrupt(), warn=lambda line: None
    )
    next(fetcher)
    fetcher.close()
    assert dropped == []
    del fetcher
    gc.collect()
    assert dropped == [threading.current_thread().name]
