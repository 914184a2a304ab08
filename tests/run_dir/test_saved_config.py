"""What a continued run may change, and which run it is when its files are lost or exchanged."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    Degradation,
    LabelNoise,
    LayerGroup,
    MixedSource,
    OptimConfig,
    override,
)
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import (
    RunError,
    describe,
    differences,
    load_config,
    read_config,
    require_same,
    save_config,
    saved_order,
)
from reldepth_jax.training import run
from tests.fixtures.training import as_script, config, newest, train

FREE = {
    "data.workers", "data.threads", "data.prefetch", "data.timeout", "data.max_unreadable",
    "train.steps", "train.epochs", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "train.max_minutes",
    "train.grace_seconds", "train.max_skipped", "train.writers", "init_from", "init_part",
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
        "degradation": Degradation(blur=0.5),
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
    workdir = tmp_path / "run"
    short = {"steps": 2, "checkpoint_every": 1}

    def train_on(name: str, files: str) -> int:
        settings = folder_of(tmp_path / name, files)
        times = dataclasses.replace(settings.train, **short)
        return train(dataclasses.replace(settings, train=times), workdir)[0]

    assert train_on("here", "abcde") == 0
    short["steps"] = 3
    assert train_on("there", "abcde") == 0
    assert newest(workdir) == 3
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


# Files that are lost or exchanged


def run_of(folder: pathlib.Path, settings: Config, *, sealed: bool = True) -> pathlib.Path:
    """Return a run directory with a checkpoint of step 2, which holds the configuration."""
    facts = {"config": describe(settings)} if sealed else {}
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(2, {"step": np.int32(2)}, facts)
    checkpoints.close()
    save_config(folder, settings)
    return folder / "config.json"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\0" * 512])
def test_a_lost_configuration_is_that_of_the_checkpoint(
    tmp_path: pathlib.Path, content: bytes | None
):
    path = run_of(tmp_path, config(train__seed=5))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    found = load_config(tmp_path)
    assert found is not None
    assert found.train.seed == 5
    what = "missing" if content is None else "empty"
    told = f"config.json is {what}; the checkpoint of step 2 holds it too"
    assert read_config(tmp_path) == (describe(config(train__seed=5)), told)
    require_same(tmp_path, config(train__seed=5), [])
    with pytest.raises(RunError, match=r"another configuration: train\.seed: 5 -> 6"):
        require_same(tmp_path, config(train__seed=6), [])
    assert path.exists() == (content is not None)


def test_a_configuration_of_another_run_is_refused(tmp_path: pathlib.Path):
    path = run_of(tmp_path, config(train__seed=5))
    save_config(tmp_path, config(train__seed=6, train__steps=99))
    told = (
        f"{path} is not the configuration of the checkpoint of step 2: train.seed: 5 -> 6."
        " Delete the file: the checkpoint holds it too"
    )
    with pytest.raises(RunError) as caught:
        require_same(tmp_path, config(train__seed=6), [])
    assert str(caught.value) == told
    # What may change between sessions is no contradiction.
    save_config(tmp_path, config(train__seed=5, train__steps=99))
    require_same(tmp_path, config(train__seed=5), [])


@pytest.mark.parametrize(
    "content",
    [
        "{", "[]", "1", '"\x1b[2J"', '{"a": 1, "a": 2}', "[" * 100_000, '{"\\u001b[2J": 1}',
        '{"data": 5}', '{"data": {"source": 5}}', '{"data": {"source": {}}}', '{"loss": null}',
        '{"data": {"source": {"name": []}}}', '{"loss": {"name": "ranking", "self": 1}}',
        '{"data": {"mix": 5}}', '{"data": {"mix": [5]}}', '{"data_fingerprint": 5}',
        '{"data_fingerprint": [5]}', '{"optim": {"groups": {"a": 1}}}', '{"loss": "ranking"}',
        '{"train": {"seed": "\\u009b"}}', '{"train": {"seed": {}}}', '{"init_from": 1}',
    ],
)  # fmt: skip
def test_a_damaged_configuration_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], content: str
):
    path = run_of(tmp_path, config())
    path.write_text(content)
    code, error = as_script(lambda: train(config(), tmp_path), capsys)
    assert code == 2
    assert error.startswith(f"error: {path} cannot be read: ")
    assert error.isprintable()
    assert len(error) < 1000
    assert path.read_text() == content


def test_an_unchanged_configuration_is_not_written_again(tmp_path: pathlib.Path):
    save_config(tmp_path, config())
    path = tmp_path / "config.json"
    before = path.stat()
    save_config(tmp_path, config())
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    save_config(tmp_path, config(train__steps=99))
    assert json.loads(path.read_text())["train"]["steps"] == 99


def as_before(run: pathlib.Path) -> None:
    """Make the manifests those of a version that did not keep the configuration there."""
    for path in (run / "checkpoints").glob("*.json"):
        values: dict[str, Any] = json.loads(path.read_text().rsplit("\n", 2)[0])
        del values["facts"]["config"]
        content = json.dumps(values, indent=1)
        path.write_text(f"{content}\n{hashlib.sha256(content.encode()).hexdigest()}\n")


def test_a_run_goes_on_when_its_configuration_is_lost_and_with_no_other_seed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    assert train(config(train__steps=2), tmp_path)[0] == 0
    path = tmp_path / "config.json"
    content = path.read_text()
    path.write_text("")
    code, error = as_script(lambda: train(config(train__steps=2, train__seed=3), tmp_path), capsys)
    assert code == 2
    assert "another configuration: train.seed: 0 -> 3" in error
    assert path.read_text() == ""
    code, said = train(config(train__steps=2), tmp_path)
    assert code == 0
    assert "config.json is empty; the checkpoint of step 2 holds it too\n" in said
    assert "continuing at step 2" in said
    assert path.read_text() == content
    assert "config.json" not in train(config(train__steps=2), tmp_path)[1]


def test_a_run_of_an_earlier_version_goes_on_with_what_may_change(tmp_path: pathlib.Path):
    assert train(config(train__steps=2), tmp_path)[0] == 0
    as_before(tmp_path)
    with pytest.raises(RunError, match=r"loss\.sigma: 0\.02 -> 0\.5"):
        train(config(train__steps=3, loss__sigma=0.5), tmp_path)
    code, said = train(config(train__steps=3, train__keep=5), tmp_path)
    assert code == 0
    assert "continuing at step 2" in said
    # From now on the checkpoints hold it.
    (tmp_path / "config.json").unlink()
    found = load_config(tmp_path)
    assert found is not None
    assert found.train == config(train__steps=3, train__keep=5).train
    for number in (2, 3):
        facts = json.loads(
            (tmp_path / f"checkpoints/0000000{number}.json").read_text().rsplit("\n", 2)[0]
        )["facts"]
        assert ("config" in facts) == (number == 3)


def test_a_lost_configuration_that_no_checkpoint_holds_is_told(tmp_path: pathlib.Path):
    assert train(config(train__steps=2), tmp_path)[0] == 0
    as_before(tmp_path)
    (tmp_path / "config.json").unlink()
    code, said = train(config(train__steps=3), tmp_path)
    assert code == 0
    assert (
        "config.json is missing, and no checkpoint holds it: it is not known what the run began"
        " with\ncontinuing at step 2"
    ) in said


def test_a_run_keeps_the_order_that_it_began_with(tmp_path: pathlib.Path):
    assert saved_order(tmp_path) == 2
    save_config(tmp_path, config())
    path = tmp_path / "config.json"
    held = json.loads(path.read_text())
    assert held.pop("order") == saved_order(tmp_path) == 2
    # As versions before this one wrote it; a start writes it again.
    path.write_text(json.dumps(held))
    assert saved_order(tmp_path) == 1
    save_config(tmp_path, config())
    assert json.loads(path.read_text())["order"] == saved_order(tmp_path) == 1
    held_config = load_config(tmp_path)
    assert held_config is not None
    assert not differences(held_config, config())
    for order, said in ((3, "this version knows 1 to 2; update"), ("2", "order: "), (0, "order: ")):
        path.write_text(json.dumps(held | {"order": order}))
        with pytest.raises(RunError, match=said):
            saved_order(tmp_path)


def test_the_order_of_a_lost_configuration_is_that_of_the_checkpoint(tmp_path: pathlib.Path):
    path = run_of(tmp_path / "new", config())
    path.unlink()
    assert saved_order(tmp_path / "new") == 2
    # Checkpoints that do not hold the configuration are older than the second order.
    path = run_of(tmp_path / "old", config(), sealed=False)
    path.unlink()
    assert saved_order(tmp_path / "old") == 1


def test_an_old_run_is_continued_in_its_order(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    asked, real = [], run.train_batches

    def train_batches(*arguments: Any, **rest: Any) -> Any:
        asked.append(rest["order"])
        return real(*arguments, **rest)

    monkeypatch.setattr(run, "train_batches", train_batches)
    assert train(config(train__steps=1), tmp_path)[0] == 0
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": 1}))
    assert train(config(train__steps=2), tmp_path)[0] == 0
    assert asked == [2, 1]
    assert saved_order(tmp_path) == 1
