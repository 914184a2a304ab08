"""The one real photograph: depth, mask and the errors; the right image is the witness."""

import importlib.machinery
import importlib.util
import pathlib
import pickle
import socket

import numpy as np
import pytest
import skimage

from reldepth_jax.config import EvalConfig
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.evaluation import heldout, heldout_report
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Source

DATA = pathlib.Path(skimage.__file__).parent / "data"


def create(split: str = "test") -> Source:
    return SOURCES.create("motorcycle", split=split, size=(32, 32))


def test_there_is_one_photograph_with_a_mask_for_what_was_not_measured():
    source = pickle.loads(pickle.dumps(create()))
    sample = source[0]
    image, depth, mask = sample["image"], sample["depth"], sample["mask"]
    assert len(list(source)) == len(source) == 1
    assert image.shape == (500, 741, 3)
    assert depth.shape == mask.shape == (500, 741)
    assert (image.dtype, depth.dtype, mask.dtype) == (np.uint8, np.float32, bool)
    with np.load(DATA / "motorcycle_disp.npz") as arrays:
        unmeasured = ~np.isfinite(arrays["arr_0"])
    assert 0 < unmeasured.sum() < 0.1 * unmeasured.size
    np.testing.assert_array_equal(mask, ~unmeasured)
    assert (depth[~mask] == 0).all()
    # A room: metres, and nothing in it 30 m away, as it would be without the offset.
    assert 2 < depth[mask].min() < depth[mask].max() < 6


@pytest.mark.parametrize(("doffs", "fits"), [(31.086, True), (0, False), (-31.086, False)])
def test_depth_leads_to_the_same_point_in_the_right_image(doffs: float, fits: bool):
    """Published calibration, in millimetres: a point at depth z is at x - (f b / z - doffs)."""
    sample = create()[0]
    right = io.read_image(DATA / "motorcycle_right.png").astype(int)
    rows, columns = np.nonzero(sample["mask"])
    millimetres = 1000 * sample["depth"][rows, columns].astype(float)
    there = np.rint(columns - (994.978 * 193.001 / millimetres - doffs)).astype(int)
    inside = (there >= 0) & (there < 741)
    left = sample["image"][rows, columns][inside].astype(int)
    difference = np.abs(left - right[rows[inside], there[inside]]).mean(axis=1)
    assert (np.median(difference) < 5) == fits


def test_it_is_judged_beside_the_rule_and_shown():
    source = create()
    truth = source[0]["depth"]
    right, wrong = (
        heldout.evaluate(lambda image, sign=sign: sign * truth, source, EvalConfig(), keep=8)
        for sign in (np.float32(1), np.float32(-1))
    )
    assert right.num_images == 1
    assert right.summary()["whdr"] == right.summary()["same_row"] == 0
    assert wrong.summary()["whdr"] == wrong.summary()["same_row"] == 1
    # The floor comes nearer downwards; in one row the rule knows little.
    assert 0.1 < right.summary()["rule_whdr"] < 0.3
    assert 0.35 < right.summary()["rule_same_row"] < 0.6
    assert heldout_report.contact_sheet({"": right.pictures}).shape[2] == 3


@pytest.mark.parametrize("split", ["train", "val"])
def test_it_is_for_testing_only(split: str):
    with pytest.raises(DataError, match=f"motorcycle has no {split} split; it is one photograph"):
        create(split)


def test_nothing_is_imported_and_no_connection_is_opened(monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(skimage, "data", None)
    assert create()[0]["mask"].any()


def test_missing_scikit_image_and_missing_files_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    found: list[importlib.machinery.ModuleSpec | None] = [None]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found[0])
    with pytest.raises(DataError, match=r'needs scikit-image.*pip install "reldepth-jax\[photo\]"'):
        create()
    found[0] = importlib.machinery.ModuleSpec("skimage", None)
    found[0].submodule_search_locations = [str(tmp_path)]
    with pytest.raises(DataError, match="comes without .*data/motorcycle_left.png; pip install"):
        create()
