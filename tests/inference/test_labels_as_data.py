"""A folder of predictions is training data: pseudo-labels, as docs/scale_out.md says."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import Choice
from reldepth_jax.data.sources.folder import Folder
from reldepth_jax.inference.files import Writer, predict_files
from reldepth_jax.training import run as training_run
from reldepth_jax.types import Polarity
from tests.fixtures.training import QUIET, TINY

pytestmark = pytest.mark.usefixtures("strides_encoder")


def predicted(root: pathlib.Path, polarity: Polarity) -> list[np.ndarray]:
    """Write photographs and, below another folder, what was predicted; return the scores."""
    rng = np.random.default_rng(0)
    for number in range(5):
        pixels = rng.integers(0, 256, (6, 12, 3), dtype=np.uint8)
        path = root / f"photos/day{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((96, 48), Image.Resampling.BICUBIC).save(path)
    scores = []

    def score(image: np.ndarray) -> np.ndarray:
        # Of any sign, as those of a ranking network.
        scores.append(image[..., 0].astype(np.float32) / 10 - 12)
        return scores[-1]

    writer = Writer(output=root / "labels", npy=True, polarity=polarity)
    assert predict_files(score, [root / "photos"], writer) == (5, 0, 0)
    return scores


def choice(root: pathlib.Path, polarity: str) -> Choice:
    parts = {"train": "0:4", "val": "4:5", "test": "4:5"}
    places = {"images": "photos/*", "maps": "labels/*.npy"}
    return Choice("folder", root=str(root), polarity=polarity, **places, **parts)


@pytest.mark.parametrize(
    ("written", "read"), [("depth", "ordinal"), ("disparity", "inverse_ordinal")]
)
def test_labels_have_the_order_of_the_scores(tmp_path, written, read):
    scores = predicted(tmp_path, written)
    source = Folder("train", (48, 96), **choice(tmp_path, read).options)
    # The listing goes through the folders: 0, 2, 4, then 1, 3; the source sorts names as well.
    for number in range(4):
        truth = source[number]["depth"]
        assert truth.shape == (48, 96)
        assert (truth > 0).all()
        ranks = [np.unique(values, return_inverse=True)[1] for values in (truth, scores[number])]
        np.testing.assert_array_equal(ranks[0], ranks[1])


def test_a_network_is_trained_from_labels(tmp_path):
    predicted(tmp_path, "depth")
    data = dataclasses.replace(TINY.data, source=choice(tmp_path, "ordinal"))
    steps = dataclasses.replace(TINY.train, steps=1, eval_images=1, checkpoint_every=1)
    config = dataclasses.replace(TINY, data=data, train=steps)
    assert training_run.train(config, tmp_path / "run", QUIET) == 0
    assert list((tmp_path / "run/checkpoints").glob("*1.json"))
