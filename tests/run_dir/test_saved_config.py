"""What a continued run may change."""

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    LabelNoise,
    LayerGroup,
    MixedSource,
    OptimConfig,
    override,
)
from reldepth_jax.run_dir.saved_config import RunError, differences, save_config
from tests.fixtures.training import as_script, config, newest, train

FREE = {
    "data.workers", "data.threads", "data.prefetch", "data.timeout", "data.max_unreadable",
    "train.steps", "train.epochs", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "train.max_minutes",
    "train.grace_seconds", "train.max_skipped", "init_from", "init_part",
    "eval.num_images", "eval.pairs_per_image", "eval.seed", "eval.sigma", "eval.image_size",
}  # fmt: skip
BASE = Config(
    data=DataConfig(
        source=Choice("redweb", root="a"),
        mix=(MixedSource(source=Choice("hr_wsi", root="b"), share=0.5),),
    ),
    optim=OptimConfig(groups=(LayerGroup(prefix="head", lr_scale=0.5),)),
    loss=Choice("sum"),
)


def leaves() -> list[str]:
    found = []
    for name, group in vars(Config()).items():
        if dataclasses.is_dataclass(group):
            found += [f"{name}.{field.name}" for field in dataclasses.fields(group)]
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("path", leaves())
def test_exactly_these_fields_are_free(path: str):
    *group, name = path.split(".")
    before = getattr(Config(), group[0]) if group else Config()
    # No legal value for most; only whether it is the same matters.
    values = {
        "source": Choice("redweb"),
        "validation": Choice("redweb"),
        "encoder": Choice("resnet18"),
        "loss": Choice("mae"),
        "pairs": Choice("annotated"),
        "label_noise": LabelNoise(gain=0.5),
    }
    value = values.get(name)
    after = dataclasses.replace(before, **{name: value})
    if group:
        after = dataclasses.replace(Config(), **{group[0]: after})
    lines = differences(Config(), after)
    assert all(line.startswith(path) for line in lines)
    assert (not lines) == (path in FREE)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ({"data.source.root": "elsewhere", "data.source.prepared": "here"}, []),
        ({"data.mix.0.source.root": "elsewhere", "data.mix.0.source.prepared": "here"}, []),
        ({"data.mix.0.share": "0.25"}, ["data.mix.0.share: 0.5 -> 0.25"]),
        ({"data.mix.0.source.instances": "true"}, ["data.mix.0.source.instances: False -> True"]),
        ({"data.source.validation": "0"}, ["data.source.validation: 360 -> 0"]),
        ({"data.label_noise.gain": "0.5"}, ["data.label_noise.gain: 0.0 -> 0.5"]),
        ({"optim.groups.0.lr_scale": "0"}, ["optim.groups.0.lr_scale: 0.5 -> 0.0"]),
        ({"loss.weights": "1,1"}, ["loss.weights: [1.0, 0.5] -> [1.0, 1.0]"]),
        # A default that is written out is no change.
        ({"loss.terms.0.trim": "0.2", "loss.terms.1.scales": "4"}, []),
    ],
)
def test_differences_name_the_innermost_field(assignments: dict[str, str], expected: list[str]):
    assert differences(BASE, override(BASE, assignments)) == expected


def test_a_source_more_is_a_difference():
    more = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, mix=BASE.data.mix * 2))
    for one, other in ((BASE, more), (more, BASE), (Config(), BASE)):
        assert any(line.startswith("data.mix: [") for line in differences(one, other))


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
