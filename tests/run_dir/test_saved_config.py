"""What may change between the sessions of a run, and what may not."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import Choice, Config
from reldepth_jax.run_dir.saved_config import RunError, differences, save_config
from tests.fixtures.training import as_script, config, newest, train


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.workers", "2"), ("data.threads", "3"), ("data.prefetch", "5"),
        ("data.timeout", "9"), ("data.max_unreadable", "0.5"), ("train.steps", "9"),
        ("train.epochs", "3"), ("train.max_minutes", "9"), ("train.grace_seconds", "9"),
        ("train.max_skipped", "9"), ("train.log_every", "9"), ("train.eval_every", "9"),
        ("train.eval_images", "2"), ("train.checkpoint_every", "9"),
        ("train.checkpoint_minutes", "9"), ("train.keep", "9"), ("eval.num_images", "2"),
        ("init_from", "runs/other"),
    ],
)  # fmt: skip
def test_harmless_fields_are_free(field: str, value: str):
    assert differences(config(), config(**{field: value})) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data.subset", "5"), ("data.crop", "64,64"), ("data.zoom", "1.0,1.5"),
        ("data.flip", "False"), ("data.color_jitter", "0.5"), ("data.batch_size", "2"),
        ("data.source.count", "22"), ("model.decoder_width", "4"), ("model.dtype", "bfloat16"),
        ("model.encoder.name", "resnet18"), ("model.init", "gaussian"), ("loss.name", "mae"),
        ("loss.sigma", "0.5"), ("pairs.num_pairs", "51"), ("optim.name", "sgd"),
        ("optim.learning_rate", "0.5"), ("optim.warmup_steps", "2"), ("optim.schedule", "cosine"),
        ("optim.max_grad_norm", "1.0"), ("optim.weight_decay", "0.5"), ("train.seed", "1"),
    ],
)  # fmt: skip
def test_what_makes_a_run_what_it_is_must_stay(field: str, value: str):
    lines = differences(config(), config(**{field: value}))
    assert any(re.match(rf"{re.escape(field)}: .* -> ", line) for line in lines), lines


def folder_of(root: pathlib.Path, names: str) -> Config:
    """Write photographs with depth, of which the first 60 % are for training."""
    for kind in ("rgb", "depth"):
        (root / kind).mkdir(parents=True)
    for name in names:
        rng = np.random.default_rng(ord(name))
        np.save(root / f"depth/{name}.npy", rng.uniform(1, 9, (32, 64)))
        picture = rng.integers(0, 256, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"rgb/{name}.png")
    parts = {"train": "0%:60%", "val": "60%:80%", "test": "80%:100%"}
    source = Choice("folder", root=str(root), **parts)
    return dataclasses.replace(config(), data=dataclasses.replace(config().data, source=source))


def test_data_may_lie_elsewhere_but_must_be_the_same(tmp_path: pathlib.Path):
    run = tmp_path / "run"
    short = {"steps": 2, "checkpoint_every": 1}

    def train_on(name: str, files: str) -> int:
        settings = folder_of(tmp_path / name, files)
        times = dataclasses.replace(settings.train, **short)
        return train(dataclasses.replace(settings, train=times), run)[0]

    assert train_on("here", "abcde") == 0
    short["steps"] = 3
    assert train_on("there", "abcde") == 0
    assert newest(run) == 3
    for name, files, told in (
        ("more", "abcdefghij", r"3 samples, names \w+ -> 6 samples, names \w+"),
        ("renamed", "abxyz", r"3 samples, names \w+ -> 3 samples, names \w+"),
    ):
        with pytest.raises(RunError, match=rf"training data: {told}\. Choose another"):
            train_on(name, files)
    # What stands behind the training part is not looked at.
    short["steps"] = 4
    assert train_on("other test images", "abcxy") == 0


def test_a_changed_run_is_refused_with_the_difference(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    save_config(tmp_path, config())
    changed = config(loss__sigma=0.5, train__seed=3)
    code, error = as_script(lambda: train(changed, tmp_path), capsys)
    assert code == 2
    (line,) = error.splitlines()
    assert "loss.sigma: 0.02 -> 0.5; train.seed: 0 -> 3" in line
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]
