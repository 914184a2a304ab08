"""Grids of runs: what is compared, what is kept over a stop, what is written."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.data.pipeline import make_source
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.ablation import grid as grids
from reldepth_jax.evaluation.ablation import report, run
from reldepth_jax.evaluation.ablation.grid import Grid, Heldout
from reldepth_jax.inference import networks
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.metrics import ordinal
from reldepth_jax.samplers.uniform import UniformPairs
from reldepth_jax.training import optimizer
from reldepth_jax.training import run as training_run
from reldepth_jax.training import step as step_module
from reldepth_jax.training.distributed.devices import Devices
from reldepth_jax.training.state import new_state
from reldepth_jax.training.step import make_train_step

pytestmark = pytest.mark.usefixtures("strides_encoder")
BASE = Config(
    data=DataConfig(
        source=Choice("synthetic", length=8),
        crop=(32, 64),
        batch_size=2,
        prefetch=1,
    ),
    model=ModelConfig(encoder=Choice("strides"), decoder_width=4, init="he"),
    pairs=Choice("uniform", num_pairs=50, padded_to=60),
    optim=OptimConfig(name="adamw", learning_rate=1e-3),
    train=TrainConfig(steps=2, eval_every=1, eval_images=2, checkpoint_every=2, keep=1),
)
FEW = Choice("uniform", num_pairs=5, padded_to=60)
# Two arms of one compiled step.
ARMS = {"many": BASE, "few": dataclasses.replace(BASE, pairs=FEW)}


def a_grid(arms: Mapping[str, Config] = ARMS, seeds: tuple[int, ...] = (0, 1)) -> Grid:
    heldout = {"scenes": Heldout(source=BASE.data.source)}
    return Grid(arms={"clean": arms}, seeds=seeds, heldout=heldout, num_images=3, pictures=1)


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[str]]:
    """Return where a grid was trained, stopped after its second run and continued; what began."""
    workdir, began, real = tmp_path_factory.mktemp("grid"), [], training_run.train

    def train(config: Config, folder: pathlib.Path, *rest: object) -> int:
        began.append(f"{folder.parent.name} {folder.name}")
        if len(began) == 3:
            return 143
        return real(config, folder, *rest)  # pyright: ignore[reportArgumentType]: as given

    step_module._compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "train", train)
        assert run.train(a_grid(), workdir, quiet) == 143
        assert run.train(a_grid(), workdir, quiet) == 0
        assert run.train(a_grid(), workdir, quiet) == 0
    return workdir, began


def test_a_stopped_grid_goes_on_with_the_run_it_was_at(finished: tuple[pathlib.Path, list[str]]):
    assert finished[1] == [
        "many seed_0", "few seed_0", "many seed_1", "many seed_1", "few seed_1",
    ]  # fmt: skip


def test_results_hold_numbers_configurations_curves_and_pictures(
    finished: tuple[pathlib.Path, list[str]],
):
    workdir, grid = finished[0], a_grid()
    results = run.judge(grid, workdir, quiet)
    learning = run.curves(grid, workdir)
    text = report.write(grid, results, learning, workdir, 61.0)
    facts = json.loads((workdir / "results.json").read_text())
    assert (workdir / "results.md").read_text() == text
    assert facts["seeds"] == [0, 1]
    assert facts["seconds"] == 61
    assert facts["configurations"]["clean"]["few"]["pairs"]["num_pairs"] == 5
    judged = facts["results"]["scenes"]["clean"]
    assert judged["images"] == 3
    assert judged["difference_to"] == "many"
    for arm, group in judged["groups"].items():
        rates = [experiment_result(workdir, arm, seed, grid) for seed in grid.seeds]
        assert group["whdr"]["rates"] == pytest.approx(rates, abs=1e-12)
    # Validation at steps 0, 1 and 2, of two seeds.
    for arm in ARMS:
        points = facts["validation_whdr"]["clean"][arm]
        assert {step: len(values) for step, values in points.items()} == {"0": 2, "1": 2, "2": 2}
    for name in ("comparison_scenes_clean.png", "curves_clean.png"):
        with Image.open(workdir / name) as picture:
            assert min(picture.size) > 100
    assert "wkdr" not in judged["groups"]["many"]
    errors = json.loads((workdir / "evaluations.json").read_text())["scenes"]["clean"]
    for arm, group in judged["groups"].items():
        for rate, each in zip(group["whdr"]["rates"], errors[arm], strict=True):
            counts = each["model"]["whdr"]
            assert sum(counts["wrong"]) / sum(counts["total"]) == pytest.approx(rate)
            assert len(counts["wrong"]) == 3
    assert "| lower is nearer" in text
    assert ", 2 seeds (p = " in text


def test_three_way_errors_have_their_threshold_from_validation_images(
    finished: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
):
    heldout = {"scenes": Heldout(source=BASE.data.source, three_way=True)}
    grid = dataclasses.replace(a_grid(), heldout=heldout, seeds=(0,))
    results = run.judge(grid, finished[0], quiet)
    text = report.write(grid, results, {}, tmp_path, 1.0)
    assert "| WKDR | minus many |" in text
    loaded = networks.from_run(run.folder_of(finished[0], "clean", "few", 0))
    pooled = {}
    for split in ("val", "test"):
        source, differences, relations = make_source(BASE, split), [], []
        for index in range(grid.num_images):
            sample = source[index]
            score, depth = np.asarray(loaded(sample["image"][None]))[0].ravel(), sample["depth"]
            pairs = ordinal.heldout_pairs(
                sample["mask"], seed=0, index=index, count=BASE.eval.pairs_per_image, same_row=False
            )
            near, far = (depth.ravel()[each] for each in (pairs.first, pairs.second))
            unequal = np.maximum(near, far) > 1.02 * np.minimum(near, far)
            differences.append(score[pairs.first] - score[pairs.second])
            relations.append(np.where(unequal, np.where(near > far, 1, -1), 0))
        pooled[split] = np.concatenate(differences), np.concatenate(relations)
    difference, relation = pooled["val"]
    equal = relation == 0
    taus = np.unique(np.abs(difference))
    said = np.where(np.abs(difference) <= taus[:, None], 0, np.sign(difference))
    wrong = said != relation
    worst = np.maximum(wrong[:, equal].mean(axis=1), wrong[:, ~equal].mean(axis=1))
    tau = taus[np.argmin(worst)]
    difference, relation = pooled["test"]
    want = (np.where(np.abs(difference) <= tau, 0, np.sign(difference)) != relation).mean()
    found = results["scenes"]["clean"]["few"][0].model["wkdr"].rate
    assert found == pytest.approx(want, abs=2e-3)


def experiment_result(workdir: pathlib.Path, arm: str, seed: int, grid: Grid) -> float:
    """Count the wrong pairs of one run again, in loops."""
    loaded = networks.from_run(run.folder_of(workdir, "clean", arm, seed))
    source = make_source(BASE, "test")
    wrong = total = 0
    for index in range(grid.num_images):
        sample = source[index]
        score = np.asarray(loaded(sample["image"][None]))[0].reshape(-1)
        depth = sample["depth"].reshape(-1)
        pairs = ordinal.heldout_pairs(
            sample["mask"], seed=0, index=index, count=BASE.eval.pairs_per_image, same_row=False
        )
        for i, j in zip(pairs.first, pairs.second, strict=True):
            if max(depth[i], depth[j]) > 1.02 * min(depth[i], depth[j]):
                total += 1
                wrong += (score[i] - score[j]) * (depth[i] - depth[j]) <= 0
    return wrong / total


def test_arms_of_a_seed_begin_with_the_same_weights_and_seeds_do_not():
    first = {}
    for _, arm, seed, config in a_grid().runs():
        _, state = new_state(config)
        first[arm, seed] = jax.tree.leaves(state.params)
    for one, other in zip(first["many", 0], first["few", 0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((a != b).any() for a, b in zip(first["few", 0], first["few", 1], strict=True))


def test_a_mistake_in_the_last_arm_is_told_before_the_first_run(tmp_path: pathlib.Path):
    needy = dataclasses.replace(BASE, pairs=Choice("instance_guided"))
    with pytest.raises(UserError, match=r"^clean, needy: .*instance"):
        run.train(a_grid({**ARMS, "needy": needy}), tmp_path, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("Grid(arms={'c': {'a b': Config()}}, heldout={})", r"'a b' must be letters"),
        ("Grid(arms={'..': {'a': Config()}}, heldout={})", r"'\.\.' must be letters"),
        (
            "Grid(arms={'c': {'a': Config(), 'b': Config(train=TrainConfig(steps=7))}},"
            " heldout={})",
            "as many steps",
        ),
        ("Grid(arms={'c': {'a': Config(data=DataConfig(batch_size=0))}}, heldout={})", "c, a: "),
        ("Config()", "expected an ablation Grid, got Config"),
    ],
)
def test_wrong_grids_are_refused_in_one_line(body: str, message: str, tmp_path: pathlib.Path):
    path = tmp_path / "grid.py"
    path.write_text(
        "from reldepth_jax.evaluation.ablation.grid import Grid\n"
        "from reldepth_jax.config import Config, DataConfig, TrainConfig\n"
        f"def get_grid():\n    return {body}\n"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        grids.load(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variant", ["quick", "table3", "figure5a", "figure5b"])
def test_the_shipped_grids_load_and_differ_in_one_thing(variant: str):
    grid = grids.load(f"configs/ablation.py:{variant}")
    changed = {"figure5a": "pairs", "figure5b": "data"}.get(variant, "loss")
    for arms in grid.arms.values():
        first, *others = arms.values()
        for other in others:
            assert dataclasses.replace(other, **{changed: getattr(first, changed)}) == first
            assert other != first


def test_budgets_of_pairs_share_one_compiled_step(finished: tuple[pathlib.Path, list[str]]):
    """Over all runs of the grid, and here."""
    rng = np.random.default_rng(0)
    batch: Any = {
        "image": rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8),
        "depth": rng.uniform(1, 9, (2, 32, 64)).astype(np.float32),
        "mask": np.ones((2, 32, 64), bool),
    }
    devices = Devices(2, 1)
    losses = {}
    for budget in (5, 40):
        pairs = Choice("uniform", num_pairs=budget, padded_to=60)
        config = dataclasses.replace(BASE, pairs=pairs)
        step = step_module.step_function(config)
        state = devices.replicate(new_state(config)[1])
        losses[budget] = float(step(state, devices.shard(batch))[1]["loss"])
    assert step_module._compiled.cache_info().misses == 1
    model, state = new_state(BASE)
    for budget, loss in losses.items():
        step = make_train_step(
            model,
            RankingLoss(),
            UniformPairs(num_pairs=budget, padded_to=60),
            optimizer.make_optimizer(BASE.optim, 2),
            seed=0,
            sigma=0.02,
        )
        # The loss alone: its gradient need not be compiled.
        expected = jax.jit(lambda *inputs, step=step: step(*inputs)[1]["loss"])(state, batch)
        assert float(expected) == pytest.approx(loss, rel=1e-5)
    assert losses[5] != pytest.approx(losses[40], rel=1e-3)
