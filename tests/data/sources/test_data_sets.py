"""Every data set from the files of its authors to a number: two steps of training, evaluation.

The numbers are computed again in the test, from the files of the fixture (read with Pillow, not
with the readers) and the maps that the trained network predicts.
"""

import dataclasses
import pathlib
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image
from rich.console import Console

from reldepth_jax.config import Choice, Config, ModelConfig, TrainConfig, load
from reldepth_jax.data.pipeline import make_source
from reldepth_jax.data.selection import held_out
from reldepth_jax.evaluation.heldout import evaluate
from reldepth_jax.evaluation.protocols.report import Estimate
from reldepth_jax.inference import networks
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.metrics.ordinal import heldout_pairs
from reldepth_jax.registry import PROTOCOLS
from reldepth_jax.training import run as training_run
from tests.fixtures import diw, hr_wsi, nyu_depth_v2, nyu_pairs, redweb

# All train the smallest network, and those with annotated pairs one to an image: two programs.
pytestmark = pytest.mark.usefixtures("strides_encoder")


def config_of(name: str, root: pathlib.Path, **options: Any) -> Config:
    smoke = load("configs/smoke.py")
    return dataclasses.replace(
        smoke,
        model=ModelConfig(encoder=Choice("strides"), decoder_width=2, init="he"),
        data=dataclasses.replace(smoke.data, source=Choice(name, root=str(root), **options)),
        train=TrainConfig(steps=2, log_every=1, eval_every=2, eval_images=0),
        eval=dataclasses.replace(smoke.eval, num_images=0),
    )


def trained(config: Config, workdir: pathlib.Path) -> Predictor:
    """Train two steps and return the network that the run directory holds."""
    assert training_run.train(config, workdir, Console(quiet=True)) == 0
    model = networks.from_run(workdir)
    assert model.step == 2
    return model.predictor()


def pooled_whdr(
    predict: Predictor, config: Config, images: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> float:
    """WHDR of the held-out pairs of (image, depth-like values, mask), one pair after another."""
    wrong = total = 0
    for index, (image, values, mask) in enumerate(images):
        score, flat = predict(image).ravel(), values.ravel()
        pairs = heldout_pairs(
            mask, seed=config.eval.seed, index=index, count=config.eval.pairs_per_image
        )
        for i, j in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            farther = flat[i] > 1.02 * flat[j]
            nearer = flat[j] > 1.02 * flat[i]
            if farther or nearer:
                total += 1
                wrong += not (score[i] > score[j] if farther else score[i] < score[j])
    assert 0 < wrong < total
    return wrong / total


def read(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_redweb_from_files_to_whdr(tmp_path: pathlib.Path):
    redweb.write(tmp_path / "data", 6)
    config = config_of("redweb", tmp_path / "data", validation=2)
    predict = trained(config, tmp_path / "run")
    folder = tmp_path / "data/ReDWeb_V1"
    images = []
    for number in held_out(6, 2).tolist():
        rd = read(folder / f"RDs/{number:04}.png").astype(float)
        rd = rd[..., 0] if rd.ndim == 3 else rd
        values = np.where(rd == 255, np.inf, rd)
        images.append((read(folder / f"Imgs/{number:04}.jpg"), values, np.ones(rd.shape, bool)))
    found = evaluate(predict, make_source(config, "val"), config.eval).summary()["whdr"]
    assert found == pooled_whdr(predict, config, images)


def test_hr_wsi_from_files_to_whdr(tmp_path: pathlib.Path):
    hr_wsi.write(tmp_path / "data")
    config = config_of("hr_wsi", tmp_path / "data")
    predict = trained(config, tmp_path / "run")
    (folder,) = tmp_path.glob("data/**/val")
    images = []
    for path in sorted(folder.glob("imgs/*.jpg")):
        # In float32, as samples are: at a ratio of exactly 1.02 its rounding decides.
        gt = read(folder / f"gts/{path.stem}.png")
        disparity = (gt[..., 0] if gt.ndim == 3 else gt).astype(np.float32) / np.float32(255)
        mask = read(folder / f"valid_masks/{path.stem}.png") > 0
        with np.errstate(divide="ignore"):
            images.append((read(path), (1 / disparity).astype(float), mask))
    found = evaluate(predict, make_source(config, "val"), config.eval).summary()["whdr"]
    assert found == pooled_whdr(predict, config, images)


def test_nyu_depth_v2_from_files_to_whdr(tmp_path: pathlib.Path):
    nyu_depth_v2.write(tmp_path / "data")
    config = config_of("nyu_depth_v2", tmp_path / "data", validation=1)
    predict = trained(config, tmp_path / "run")
    source = make_source(config, "test")
    with h5py.File(tmp_path / "data/nyu_depth_v2_labeled.mat") as file:
        pictures, depths = np.asarray(file["images"]), np.asarray(file["depths"])
    numbers = scipy.io.loadmat(tmp_path / "data/splits.mat")["testNdxs"].ravel() - 1
    images = [
        (
            np.ascontiguousarray(pictures[n].transpose(2, 1, 0)),
            depths[n].T.astype(float),
            depths[n].T > 0,
        )
        for n in sorted(int(number) for number in numbers)
    ]
    found = evaluate(predict, source, config.eval).summary()["whdr"]
    assert found == pooled_whdr(predict, config, images)


def at_aligned(score: np.ndarray, size: tuple[int, int], row: int, column: int) -> float:
    """Corner-aligned bilinear value of a pixel of an image of `size`, counted from 0."""
    y = row * (score.shape[0] - 1) / (size[0] - 1)
    x = column * (score.shape[1] - 1) / (size[1] - 1)
    upper, lower = (
        np.interp(x, np.arange(score.shape[1]), score[min(int(y) + k, len(score) - 1)])
        for k in (0, 1)
    )
    return float(upper + (y - int(y)) * (lower - upper))


def test_diw_from_files_to_the_official_whdr(tmp_path: pathlib.Path):
    diw.write(tmp_path / "data")
    config = config_of("diw", tmp_path / "data")
    predict = trained(config, tmp_path / "run")
    (listing,) = tmp_path.glob("data/**/DIW_test.csv")
    lines = listing.read_text().splitlines()
    wrong = 0
    for path, pair in zip(lines[::2], lines[1::2], strict=True):
        y1, x1, y2, x2, relation, width, height = pair.split(",")
        with Image.open(tmp_path / "data" / path) as image:
            score = predict.unresized(np.asarray(image.convert("RGB"))).astype(float)
        size = (int(height), int(width))
        first = at_aligned(score, size, int(y1) - 1, int(x1) - 1)
        second = at_aligned(score, size, int(y2) - 1, int(x2) - 1)
        wrong += not (first > second if relation == ">" else first < second)
    report = PROTOCOLS.create("diw")(
        predict.unresized, str(tmp_path / "data"), num_images=0, progress=lambda *_: None
    )
    value = report.rows[0].values["WHDR %"]
    assert isinstance(value, Estimate)
    np.testing.assert_allclose(value.value, 100 * wrong / (len(lines) / 2), rtol=1e-12)


def test_nyu_pairs_from_files_to_wkdr(tmp_path: pathlib.Path):
    nyu_pairs.write(tmp_path / "data")
    config = config_of("nyu_pairs", tmp_path / "data", pairs_per_image=1)
    predict = trained(config, tmp_path / "run")
    report = PROTOCOLS.create("nyu")(
        predict.unresized, str(tmp_path / "data"), num_images=0, progress=lambda *_: None
    )
    # The threshold that was chosen on the validation images stands in the note.
    (exact,) = (row for row in report.rows if row.name == "exact tau")
    tau = float(exact.note.split(";")[0].removeprefix("tau = "))
    wrong = total = close = 0
    listing = tmp_path / f"data/data/{nyu_pairs.LISTS['test']}.csv"
    score = np.zeros((0, 0))
    for line in listing.read_text().splitlines()[1:]:
        fields = line.split(",")
        if fields[0].endswith(".png"):
            image = read(tmp_path / "data/data" / fields[0].removeprefix("../../data/"))
            score = predict.unresized(np.ascontiguousarray(image[9:470, 9:630])).astype(float)
            continue
        y1, x1, y2, x2 = (int(field) - 1 for field in fields[:4])
        first, second = (
            at_aligned(score, (461, 621), min(max(y - 9, 0), 460), min(max(x - 9, 0), 620))
            for y, x in ((y1, x1), (y2, x2))
        )
        difference = first - second
        close += abs(abs(difference) - tau) <= 1e-3 * tau
        said = "=" if abs(difference) <= tau else ">" if difference > 0 else "<"
        total += 1
        wrong += said != fields[4]
    value = exact.values["WKDR %"]
    assert isinstance(value, Estimate)
    # The note rounds tau to four digits: pairs that close to it may fall on either side.
    assert abs(value.value - 100 * wrong / total) <= 100 * close / total + 1e-9
    assert close < total / 4
