import threading
import time

import numpy as np
import pytest

from reldepth_jax.data import survey
from reldepth_jax.data.selection import Subset
from reldepth_jax.data.survey import Survey
from reldepth_jax.errors import UserError
from reldepth_jax.registry import SOURCES
from tests.fixtures import diw
from tests.fixtures.scenes import save


def folder(root, maps, **options):
    for number, values in enumerate(maps):
        save(root / f"rgb/{number:02}.png", np.zeros((*values.shape, 3), np.uint8))
        (root / "depth").mkdir(exist_ok=True)
        np.save(root / f"depth/{number:02}.npy", values)
    return SOURCES.create("folder", split="test", size=(1, 1), root=str(root), test=":", **options)


def test_shares_and_reasons_are_means_over_a_few_samples(tmp_path):
    maps = [np.full((4, 5), 2.0, np.float32) for _ in range(29)]
    # Of 29 samples those at 0, 4, 8, … are read.
    maps[4][:2], maps[8][0] = 0, 100
    maps[5][:] = 0
    source = folder(tmp_path, maps, invalid=(0.0,), max_depth=80.0)
    (line,) = Survey([source]).lines()
    assert line == (
        f"{tmp_path}: ground truth at 91% of the pixels of 8 samples (50% to 100%);"
        " 6% declared invalid, 3% beyond max_depth=80"
    )
    assert Survey([Subset(source, 3)]).lines() == [line]


def test_values_that_may_be_marks_are_told(tmp_path):
    maps = [np.array([[65535, 65535, 9, 9]], np.uint16)] * 2
    (line,) = Survey([folder(tmp_path, maps)]).lines()
    assert "at 100% of the pixels of 2 samples" in line
    assert line.endswith(
        "; 50% have the value 65535: if that is a mark, set --config.data.source.invalid or"
        " infinity to 65535"
    )


def test_a_meaning_that_nobody_declared_ends_the_start(tmp_path):
    source = folder(tmp_path, [np.array([[-1.0, 1, 2, 3]], np.float32)])
    with pytest.raises(UserError, match=r"25% of its depth map is -1.*polarity=ordinal"):
        Survey([source]).lines()


def test_what_cannot_be_read_or_has_no_maps_is_passed_over(tmp_path):
    source = folder(tmp_path / "folder", [np.ones((2, 2))] * 3)
    (tmp_path / "folder/depth/01.npy").write_bytes(b"oops")
    diw.write(tmp_path / "diw")
    pairs = SOURCES.create("diw", split="train", size=(1, 1), root=str(tmp_path / "diw"))
    scenes = SOURCES.create("synthetic", split="train", size=(8, 8))
    (line,) = Survey([pairs, scenes, source]).lines()
    assert "at 100% of the pixels of 2 samples" in line


def test_a_slow_disk_delays_the_start_by_a_fixed_time(tmp_path, monkeypatch):
    source = folder(tmp_path, [np.ones((2, 2))])
    held = threading.Event()
    monkeypatch.setattr(type(source), "record", lambda *_: held.wait(9))
    monkeypatch.setattr(survey, "SECONDS", 0.2)
    began = time.monotonic()
    assert Survey([source]).lines() == []
    assert time.monotonic() - began < 2
    held.set()
