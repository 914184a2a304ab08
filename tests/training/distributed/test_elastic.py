"""A run on another number of devices or workers: the same samples, crops and mirrorings."""

import dataclasses
import itertools
import json
import pathlib
from concurrent import futures

import jax
import numpy as np
import pytest

from reldepth_jax.config import Config
from reldepth_jax.data.pipeline import train_batches
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import load_config
from reldepth_jax.training.distributed.devices import Devices
from reldepth_jax.training.state import new_state
from tests.fixtures import marked
from tests.fixtures.training import Child, config, train, with_devices

STEPS, MIDDLE = 50, 20
RATE = 0.01
OPTIONS = (
    "--config.train.eval_every=100", "--config.train.checkpoint_every=100",
    "--config.optim.name=sgd", f"--config.optim.learning_rate={RATE}",
)  # fmt: skip
BOUND = 50 * RATE * 1e-4
"""Largest difference of a parameter: on another number of devices the sums over a batch are added
in another order, which moves a gradient of size one by about 1e-6, times the rate, times 50 steps,
and a hundred times that for what the differences do to later steps. With SGD: AdamW makes whole
steps of a gradient that is zero but for rounding, as those of biases before BatchNorm are and that
of the last bias, which shifts all depths alike."""

RECORDER = """
    import json, os, runpy
    import jax
    import numpy as np
    from reldepth_jax.training.distributed.devices import Devices
    from tests.fixtures import marked

    shard = Devices.shard

    def recorded(devices, batch):
        found = shard(devices, batch)
        assert len(found["image"].sharding.device_set) == jax.local_device_count()
        seen = [marked.what_is_seen(image) for image in np.asarray(found["image"])]
        with open(os.environ["SEEN"], "a") as file:
            file.write(json.dumps(seen, default=int) + chr(10))
        return found

    Devices.shard = recorded
    runpy.run_path("scripts/train.py", run_name="__main__")
"""

Seen = list[list[tuple[int, tuple[int, int], bool]]]
"""For each step and place in the batch: sample, corner of the crop, mirrored."""


def expected(steps: int, settings: Config | None = None) -> Seen:
    """Return what one process without workers reads, straight from the pipeline."""
    source = marked.Marked(split="train", size=(32, 64))
    batches = train_batches(settings or config(), [source], start=0)
    return [
        [marked.what_is_seen(image) for image in batch["image"]]
        for batch in itertools.islice(batches, steps)
    ]


def run(folder: pathlib.Path, name: str, *, devices: int, workers: int) -> str:
    """Train in a process with so many devices and workers; return what it said."""
    child = Child(
        folder / name, *OPTIONS, f"--config.train.steps={STEPS}",
        f"--config.data.workers={workers}",
        program=RECORDER, SEEN=str(folder / f"{name}.seen"),
        **with_devices(devices),
    )  # fmt: skip
    code, output, _ = child.end(timeout=300)
    assert code == 0, output
    return output


def seen(folder: pathlib.Path, name: str) -> Seen:
    """Return what was on the devices, step by step."""
    lines = map(json.loads, (folder / f"{name}.seen").read_text().splitlines())
    return [[(sample, tuple(crop), bool(flip)) for sample, crop, flip in line] for line in lines]


def parameters(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(workdir / "checkpoints")
    settings = load_config(workdir)
    assert settings is not None
    restored = checkpoints.restore(new_state(settings, abstract=True)[1])
    checkpoints.close()
    assert restored.manifest.step == STEPS
    state = (restored.state.params, restored.state.stats)
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Runs on one device without workers, on four with two, on one and then on two with one."""
    folder = tmp_path_factory.mktemp("elastic")
    settings = config(
        train__eval_every=100, train__checkpoint_every=100, train__steps=MIDDLE,
        optim__name="sgd", optim__learning_rate=RATE,
    )  # fmt: skip
    assert jax.local_device_count() == 1
    assert train(settings, folder / "two")[0] == 0
    with futures.ThreadPoolExecutor(2) as pool:
        two = pool.submit(run, folder, "two", devices=2, workers=1)
        four = pool.submit(run, folder, "four", devices=4, workers=2)
        whole = dataclasses.replace(settings.train, steps=STEPS)
        train(dataclasses.replace(settings, train=whole), folder / "one")
        four.result()
        said = two.result()
    assert f"continuing at step {MIDDLE}" in said
    assert "results may differ in bits: devices 1 cpu -> 2 cpu" in said
    return folder


def test_samples_crops_and_mirrorings_do_not_depend_on_devices_and_workers(folder: pathlib.Path):
    wanted = expected(STEPS)
    assert seen(folder, "four") == wanted
    assert seen(folder, "two") == wanted[MIDDLE:]
    # The list tells: every sample, many crops, both ways, in an order that the seed decides.
    flat = [entry for step in wanted for entry in step]
    assert {sample for sample, _, _ in flat} == set(range(23))
    assert len({crop for _, crop, _ in flat}) > 30
    assert 70 < sum(mirrored for _, _, mirrored in flat) < 130
    assert expected(STEPS, config(train__seed=1)) != wanted


def test_parameters_differ_by_rounding_only(folder: pathlib.Path):
    one = parameters(folder / "one")
    found = {name: difference(one, parameters(folder / name)) for name in ("two", "four")}
    print("largest difference after 50 steps from one device:", found)
    assert max(found.values()) < BOUND
    # They have moved far more than that, or the bound would say nothing.
    _, start = new_state(config())
    first = jax.tree_util.tree_flatten_with_path((start.params, start.stats))[0]
    moved = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in first}
    assert difference(one, moved) > 100 * BOUND


EIGHT = """
    import itertools, json
    import jax
    from reldepth_jax.training import step as step_module
    from reldepth_jax.training.state import new_state
    from reldepth_jax.data.pipeline import train_batches
    from reldepth_jax.training.distributed.devices import Devices
    from tests.fixtures import marked
    from tests.fixtures.training import config

    settings = config(data__batch_size=8, optim__name="sgd", optim__learning_rate=0.01)
    source = marked.Marked(split="train", size=(32, 64))
    batches = [*itertools.islice(train_batches(settings, [source], start=0), 12)]
    step, (_, begin) = step_module.step_function(settings), new_state(settings)
    begin, present = jax.device_get(begin), jax.devices()
    for count in (1, 8):
        jax.devices, jax.local_device_count = lambda: present[:count], lambda: count
        devices = Devices(8)
        state, losses = devices.replicate(begin), []
        for batch in batches:
            state, metrics = step(state, devices.shard(batch))
            losses.append(float(metrics["loss"]))
        assert len(metrics["loss"].sharding.device_set) == count
        print("losses", json.dumps(losses))
"""


def test_losses_on_8_devices_are_those_of_one(tmp_path: pathlib.Path):
    child = Child(tmp_path / "run", program=EIGHT, **with_devices(8))
    code, output, _ = child.end(timeout=300)
    assert code == 0, output
    lines = [line for line in output.splitlines() if line.startswith("losses")]
    one, eight = (json.loads(line.removeprefix("losses")) for line in lines)
    assert len(one) == 12
    assert eight == pytest.approx(one, rel=1e-5)
    assert max(one) > 1.02 * min(one)


@pytest.mark.parametrize(("batch", "devices", "nearest"), [(6, 4, 4), (3, 2, 2), (1, 4, 4)])
def test_a_batch_that_cannot_be_split_is_one_line(
    monkeypatch: pytest.MonkeyPatch, batch: int, devices: int, nearest: int
):
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    with pytest.raises(UserError) as error:
        Devices(batch)
    (line,) = str(error.value).splitlines()
    assert f"a multiple of the {devices} devices, got {batch}; nearest: {nearest}" in line


def test_it_is_told_before_anything_is_computed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jax, "local_device_count", lambda: 3)
    with pytest.raises(UserError, match="multiple of the 3 devices"):
        train(config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_part_of_an_accumulated_batch_must_be_split_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    with pytest.raises(UserError) as error:
        Devices(12, 2)
    assert str(error.value) == (
        "data.batch_size must be a multiple of the 4 devices times train.accumulate=2, got 12;"
        " nearest: 8"
    )
