"""The benchmark: that it times in turn, compares the same computation, and tells all of it."""

import dataclasses
import json
import pathlib
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks import (
    context,
    exports,
    kernels,
    ours,
    peer_torch,
    preparing,
    processes,
    reading,
    report,
    suite,
    torch_calls,
    transformers,
    workload,
)
from reldepth_jax.cli import benchmark, timing
from reldepth_jax.cli.timing import Call, Seconds, interleave, ratios, spread
from reldepth_jax.config import Config, ConfigError
from reldepth_jax.data.images.resampling import resample
from reldepth_jax.errors import UserError
from reldepth_jax.inference.networks import Model
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.training import optimizer, state
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Pairs
from reldepth_jax.weights import arrays
from tests.references.numpy_losses import ranking_of_maps

CPU = torch.device("cpu")
PEER = torch_calls.Torch(gpu=False)


class Clock:
    """Time that passes only when something is done."""

    def __init__(self):
        self.now = 0.0
        self.done: list[str] = []

    def call(self, name: str, takes: Iterator[float]) -> Call:
        def run() -> None:
            self.now += next(takes)
            self.done.append(name)

        return Call(run, lambda result: self.done.append("wait"))


def test_calls_follow_one_another_and_each_is_repeated_to_fill_its_window():
    clock = Clock()
    # Two calls to warm up, then the rounds, each with as many calls as fit into the window.
    a = clock.call("a", iter([9.0, 0.4, 0.4, 0.6, 0.1, 0.1, 0.7, 0.7]))
    b = clock.call("b", iter([9.0, 1.0, 1.0, 2.0, 6.0]))
    told = []
    taken = interleave(
        {"a": a, "b": b}, 3, window=1.0, wall=lambda: clock.now, cpu=lambda: 2 * clock.now,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    names = [name for name in clock.done if name != "wait"]
    assert names == [*"aabb", *"aab" * 3]
    assert clock.done.count("wait") == 2 * 2 + 2 * 3
    np.testing.assert_allclose(taken["a"].wall, [0.5, 0.1, 0.7])
    np.testing.assert_allclose(taken["b"].wall, [1.0, 2.0, 6.0])
    np.testing.assert_allclose(taken["b"].cpu, [2.0, 4.0, 12.0])
    assert told[0] == (0, 8)
    assert told[-1] == (8, 8)


def test_waiting_belongs_to_the_time():
    clock = Clock()

    def wait(result: str) -> None:
        assert result == "last"
        clock.now += 3.0

    taken = interleave({1: Call(lambda: "last", wait)}, 1, wall=lambda: clock.now, cpu=lambda: 0.0)
    assert taken[1].wall == [3.0]


def test_median_range_and_ratios_are_round_by_round():
    assert spread([3.0, 1.0, 2.0, 10.0]) == (2.5, 1.0, 10.0)
    # The quotient of the medians would be 2 / 4.
    assert ratios([1.0, 2.0, 8.0], [4.0, 8.0, 2.0]) == (0.25, 0.25, 4.0)


def rows() -> list[report.Row]:
    return [
        report.timed("b", "ours", Seconds([2e-3, 4e-3], [1.0, 1.0])),
        report.timed("a", "ours", Seconds([5.0, 5.0], [1.0, 1.0]), "noted", count=7),
        report.timed("b", "peer", Seconds([1e-3, 8e-3], [2.0, 4.0])),
        report.Row("a", "peer", [10.0, 20.0]),
    ]


def test_table_and_json_tell_the_same_group_by_group():
    part = report.Part("p", "Title", rows(), ["A note."])
    assert [row.what for row in part.rows] == ["b", "b", "a", "a"]
    text = report.markdown(part)
    assert "| b | ours | 3 ms (2–4) | 1 s (1–1) | - | - | - |" in text
    assert "| b | peer | 4.5 ms (1–8) | 3 s (2–4) | 1.25 (0.5–2) | 0.375 (0.25–0.5) | - |" in text
    assert "| a | peer | 15 s (10–20) | - | 0.375 (0.25–0.5) | - | - |" in text
    assert text.endswith("A note.")
    found = report.as_json(part)["rows"]
    assert found[1]["rounds"] == [1e-3, 8e-3]
    assert found[1]["first_over_this"] == {"median": 1.25, "low": 0.5, "high": 2.0}
    assert found[0]["first_over_this"] is None
    assert found[2]["count"] == 7


def config(**options: Any) -> Config:
    return workload.settings("resnet18", size=64, batch=2, **options)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Weights and statistics that leave no term of the network without effect."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in arrays.shapes(config().model, "network").items():
        array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else 0.1, shape)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            array = rng.uniform(0.5, 1.5, shape)
        if name.endswith(("bn2.weight", "head.conv2.weight")):
            # Scores of order one.
            array *= 0.3
        found[name] = array.astype(np.float32)
    return found


def filled(settings: Config, weights: dict[str, np.ndarray]) -> TrainState:
    """Return the state before the first step with these weights."""
    rule = optimizer.make_optimizer(settings.optim, settings.train.steps)
    params, stats = arrays.to_states(settings.model, "network", weights)
    return state.create(params, stats, rule, optimizer.trainable(settings.optim))


def test_the_network_is_the_same(weights: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch):
    settings = config()
    monkeypatch.setattr(ours, "new_state", lambda settings: filled(settings, weights))
    images = workload.make_batch(settings)["image"]
    expected = PEER.forward(PEER.network(settings, weights), "float32", False)(images)
    assert expected.shape == (2, 64, 64)
    assert expected.std() > 0.1
    got = ours.forward(settings, ours.new_state(settings))(images)
    np.testing.assert_allclose(got, expected, atol=2e-5 * np.abs(expected).max())


def test_the_transformer_is_the_same():
    model = exports.with_random_weights(transformers.NAME)
    images = np.random.default_rng(0).integers(0, 256, (1, 28, 42, 3), np.uint8)
    expected = PEER.forward(transformers._module(model), "float32", False)(images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(model(images), expected, atol=2e-4 * expected.std())


def test_the_loss_is_the_same():
    settings = config()
    batch, scores = workload.make_batch(settings), workload.make_scores(settings)
    batch["depth"][:, :20] = np.inf
    rng = np.random.default_rng(2)
    first, second = rng.integers(0, 64 * 64, (2, 2, 300), np.int32)
    valid = rng.uniform(size=first.shape) > 0.2
    expected, gradient = ranking_of_maps(
        scores, batch["depth"], batch["mask"], first, second, valid, sigma=0.02, drop_easiest=0.25
    )
    leaf = torch.tensor(scores, requires_grad=True)
    pairs = peer_torch.Pairs(*map(torch.tensor, (first.astype(int), second.astype(int), valid)))
    value = peer_torch.ranking_loss(
        leaf, torch.tensor(batch["depth"]), torch.tensor(batch["mask"]), pairs
    )
    value.backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(value.detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(leaf.grad, gradient, atol=1e-5 * np.abs(gradient).max())
    # A plain dict stands for the typed one.
    ours_too = RankingLoss()(
        jnp.asarray(scores), {k: jnp.asarray(v) for k, v in batch.items()},  # type: ignore[arg-type]
        Pairs(jnp.asarray(first), jnp.asarray(second), jnp.asarray(valid)),
    )  # fmt: skip
    np.testing.assert_allclose(ours_too, expected, rtol=1e-5)


def test_the_loop_is_the_loss_without_dropping():
    settings = config()
    batch, scores = workload.make_batch(settings), torch.tensor(workload.make_scores(settings))
    depth, mask = torch.tensor(batch["depth"]), torch.ones((2, 64, 64), dtype=torch.bool)
    pairs = peer_torch.draw(mask, 40)
    whole = peer_torch.ranking_loss(scores, depth, mask, pairs, drop_easiest=0.0)
    np.testing.assert_allclose(peer_torch.loop_loss(scores, depth, pairs), whole, rtol=1e-5)


def test_the_peer_draws_uniformly_two_different_valid_pixels():
    mask = torch.zeros((2, 4, 8), dtype=torch.bool)
    mask[0, 1, ::2] = True
    mask[1, 0, 0] = True
    pairs = peer_torch.draw(mask, 4000)
    assert pairs.valid[0].all()
    assert not pairs.valid[1].any()
    assert (pairs.first[0] != pairs.second[0]).all()
    for points in (pairs.first[0], pairs.second[0]):
        values, counts = points.unique(return_counts=True)
        assert values.tolist() == [8, 10, 12, 14]
        assert counts.min() > 850


def test_steps_of_both_give_the_same_losses(weights: dict[str, np.ndarray]):
    # As much decay as shows within a few steps.
    strong = dataclasses.replace(config().optim, weight_decay=50.0)
    settings = dataclasses.replace(config(pairs=50), optim=strong)
    batch = workload.make_batch(settings)
    # Two valid pixels an image: whatever is drawn, the loss is that of the same pair.
    batch["mask"][:] = False
    batch["mask"][:, 10, 20] = batch["mask"][:, 50, 33] = True
    mine = ours.step(settings, filled(settings, weights), batch)
    theirs = PEER.step(settings, weights, batch, False)
    expected = [float(theirs.run()) for _ in range(4)]
    assert min(np.abs(np.diff(expected))) > 0.01
    np.testing.assert_allclose([float(mine.run()) for _ in range(4)], expected, rtol=1e-3)


@pytest.mark.parametrize("kernel", ["linear", "area"])
def test_resizing_is_the_same(kernel: Any):
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    expected = resample(image, (24, 32), kernel)
    np.testing.assert_allclose(torch_calls.resize(image, (24, 32), kernel), expected, atol=1e-4)


def test_a_peer_that_cannot_run_is_a_note():
    made = context.Context(
        gpu=False, encoder="resnet18", dtype="float32", step_size=32, size=32, batches=[1],
        pairs=[1], rounds=1, quick=True, torch=PEER,
    )  # fmt: skip

    def fail(torch: torch_calls.Torch, compiled: bool) -> int:
        if compiled:
            raise RuntimeError("no such compiler\nsecond line")
        return 3

    assert set(made.peers(fail, lambda found: None)) == {"torch"}
    (note,) = made.taken_notes()
    assert note.startswith("torch.compile: not measured, ")
    assert "second" not in note


def outcome(told: dict[str, Any]) -> dict[str, Any]:
    compiled = told["who"] != "torch"
    return {"start": 1.0, "first": 5.0 if compiled else 0.5, "later": 0.5, "before": 2**20,
            "peak": 2**21, "device_peak": 0}  # fmt: skip


def forward_by_peer(weights: dict[str, np.ndarray]) -> Any:
    """Return what stands in for `ours.forward`; the fast one is wrong by a half."""

    def forward(settings: Config, state: object, *, fast: bool = False) -> ours.Forward:
        function = PEER.forward(PEER.network(settings, weights), "float32", False)
        return lambda images: function(images) * np.float32(0.5 if fast else 1)

    return forward


def map_by_peer(model: Model, images: np.ndarray) -> np.ndarray:
    """Stand in for `transformers._map`, as `forward_by_peer`."""
    found = PEER.forward(transformers._module(model), "float32", False)(images)
    return found * np.float32(0.5 if model.fast else 1)


def test_all_parts_are_told_in_table_and_json(
    weights: dict[str, np.ndarray],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    # What takes long and is tested above, or is compiled for a minute.
    monkeypatch.setattr(ours, "new_state", lambda settings: filled(settings, weights))
    logarithm = jax.jit(jnp.log)
    step_of_ours = Call(lambda: logarithm(np.float32(2)), jax.block_until_ready)
    monkeypatch.setattr(ours, "step", lambda *given: step_of_ours)
    monkeypatch.setattr(ours, "forward", forward_by_peer(weights))
    monkeypatch.setattr(transformers, "SIZES", ((28, 42),))
    monkeypatch.setattr(transformers, "_map", map_by_peer)
    monkeypatch.setattr(torch_calls.shutil, "which", lambda name: None)
    monkeypatch.setattr(processes, "_child", lambda context, told, caches: outcome(told))
    monkeypatch.setattr(timing, "WINDOW", 0.01)
    monkeypatch.setattr(preparing, "WORKERS", {"this process": 0})
    monkeypatch.setattr(reading, "PHOTO", (48, 64))
    monkeypatch.setattr(reading, "LARGE", (96, 128))
    path = tmp_path / "new" / "benchmark.json"
    arguments = ["--against", "torch", "--encoder", "resnet18", "--size", "32", "--batch", "2",
                 "--rounds", "2", "--quick", "--pairs", "10,30", "--json", path]  # fmt: skip
    assert benchmark.main([*map(str, arguments)]) == 0
    out = capsys.readouterr().out
    found = json.loads(path.read_text())
    assert list(found["parts"]) == list(suite.PARTS)
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["cpu"]
    programs = {name: {row["who"] for row in part["rows"]} for name, part in found["parts"].items()}
    for name in set(suite.PARTS) - {"input", "prepare", "checkpoint", "kernels"}:
        assert {"ours", "torch"} <= programs[name], name
    assert programs["input"] == {"folder", "shards"}
    assert programs["checkpoint"] == {"ours", "torch.save"}
    for name, part in found["parts"].items():
        assert part["title"] in out
        for row in part["rows"]:
            assert len(row["rounds"]) == (1 if name in ("compile", "memory") else 2), row
            assert row["low"] > 0, row
            assert row["low"] <= row["median"] <= row["high"]
    for name in ("step", "forward", "transformer", "loss"):
        assert "torch.compile: not measured, no C++ compiler." in found["parts"][name]["notes"]
    step = {(row["what"], row["who"]): row for row in found["parts"]["step"]["rows"]}
    mine, theirs = step["step, batch 2", "ours"], step["step, batch 2", "torch"]
    np.testing.assert_allclose(mine["images_per_second"], 2 / mine["median"])
    np.testing.assert_allclose(mine["first_loss"], np.log(2), rtol=1e-6)
    assert theirs["first_loss"] > 0
    np.testing.assert_allclose(
        mine["utilisation"], mine["flops"] / mine["median"] / mine["peak_flops"]
    )
    for name in ("forward", "transformer"):
        forward = {row["who"]: row for row in found["parts"][name]["rows"]}
        assert set(forward) >= {"ours", "ours, fast", "torch"}
        assert forward["ours"]["difference"] == 0
        np.testing.assert_allclose(forward["ours, fast"]["difference"], 0.5, rtol=1e-6)
        assert "fast / this" in forward["torch"]["note"]
    assert {row["median"] for row in found["parts"]["compile"]["rows"]} == {4.5, 0.5}
    assert {row["median"] for row in found["parts"]["memory"]["rows"]} == {2.0}
    whole, kind, single = found["parts"]["kernels"]["rows"]
    assert [row["what"].split()[0] for row in (whole, kind, single)] == ["all", "all", "kernel"]
    assert "log" in single["what"]
    assert whole["rounds"] == kind["rounds"] == single["rounds"]
    assert "scaled from 60 pairs" in {row["note"] for row in found["parts"]["loss"]["rows"]}


def profile(**planes: dict[str, list[tuple[str, dict[str, Any], float]]]) -> Any:
    """Return what stands in for a profile: planes of lines of events (name, facts, ms)."""

    def event(name: str, facts: dict[str, Any], milliseconds: float) -> types.SimpleNamespace:
        stats = list(facts.items())
        return types.SimpleNamespace(name=name, stats=stats, duration_ns=milliseconds * 1e6)

    return types.SimpleNamespace(
        planes=[
            types.SimpleNamespace(
                name=PLANES[name],
                lines=[
                    types.SimpleNamespace(name=line, events=[event(*each) for each in events])
                    for line, events in lines.items()
                ],
            )
            for name, lines in planes.items()
        ]
    )


PLANES = {"host": "/host:CPU", "gpu": "/device:GPU:0"}


def test_kernels_of_the_host_are_added_over_threads_without_what_holds_them():
    threads = {
        "python": [
            ("run", {}, 90.0),
            ("a", {"hlo_op": "dot.1"}, 3.0),
            ("b", {"hlo_op": "while.7"}, 50.0),
        ],
        "worker": [("c", {"hlo_op": "dot.1"}, 4.0), ("d", {"hlo_op": "add_fusion.2.1"}, 2.0)],
    }
    seconds = kernels._seconds(profile(host=threads))
    assert dict(seconds) == pytest.approx({"dot.1": 0.007, "add_fusion.2.1": 0.002})
    assert dict(kernels._by_kind({**seconds, "dot.5": 1.0})) == pytest.approx(
        {"dot": 1.007, "add_fusion": 0.002}
    )


def test_of_a_gpu_only_its_streams_count():
    host = {"python": [("a", {"hlo_op": "dot.1"}, 9.0)]}
    gpu = {
        "Stream #13(compute)": [("gemm", {"hlo_op": "dot.1"}, 3.0), ("memcpy", {}, 1.0)],
        "XLA Ops": [("dot.1", {"hlo_op": "dot.1"}, 3.0)],
    }
    seconds = kernels._seconds(profile(host=host, gpu=gpu))
    assert dict(seconds) == pytest.approx({"dot.1": 0.003, "memcpy": 0.001})


def test_a_process_of_its_own_tells_what_it_took(tmp_path: pathlib.Path):
    made = context.Context(
        gpu=False, encoder="resnet18", dtype="float32", step_size=32, size=32, batches=[1],
        pairs=[1], rounds=1, quick=True, torch=PEER,
    )  # fmt: skip
    told = {"who": "torch", "what": "forward", "size": 32, "batch": 1}
    found = processes._child(made, told, str(tmp_path))
    assert 0 < found["later"] < found["first"] + found["start"]
    assert 2**20 < found["before"] <= found["peak"]
    with pytest.raises(RuntimeError, match="KeyError"):
        processes._child(dataclasses.replace(made, encoder="none"), told, str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parts", "step,forwards"), "--parts: no part 'forwards'; there are step, forward"),
        (("--encoder", "resnet51"), "--encoder: 'resnet51' is not one of resnet18"),
        (("--size", 100), "--size must be a multiple of 32, got 100"),
        (("--rounds", 0), "--rounds must be at least 1, got 0"),
        (("--batch", "4,x"), "--batch: takes whole numbers from 1 on"),
        (("--pairs", "0"), "--pairs: takes whole numbers from 1 on"),
        (("--agianst", "torch"), "--against"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
):
    with pytest.raises((UserError, ConfigError), match=message):
        benchmark.main([*map(str, arguments)])
