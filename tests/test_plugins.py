"""One contract for every plug-in of a kind: a new file is tested the moment it exists."""

import dataclasses
import functools
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from reldepth_jax import registry
from reldepth_jax.config import Choice, Config, ModelConfig, load, override, validate
from reldepth_jax.errors import UserError
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.registry import ENCODERS, LOSSES, PAIR_SAMPLERS, Registry
from reldepth_jax.training import optimizer
from reldepth_jax.training.state import new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Batch, Pairs

# Without the grid of `scripts/ablate.py`.
CONFIGS = [
    *(
        str(p)
        for p in sorted(pathlib.Path("configs").glob("*.py"))
        if not p.stem.startswith("ablation")
    ),
    "configs/redweb_diw.py:mixed",
    "configs/vizdoom.py:mixed",
]
# Of sources whose samples have annotated pairs.
ANNOTATED_CONFIGS = {"configs/nyu.py", "configs/redweb_diw.py", "configs/redweb_diw.py:mixed"}


def make_batch(depth: np.ndarray, mask: np.ndarray | None = None) -> Batch:
    shape = depth.shape
    return {
        "image": jnp.asarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)),
        "depth": jnp.asarray(depth, jnp.float32),
        "mask": jnp.asarray(np.ones(shape, bool) if mask is None else mask),
    }


RANDOM = np.random.default_rng(0).uniform(1, 9, (2, 8, 12))
SKY = np.where(RANDOM > 6, np.inf, RANDOM)
DEPTHS = {
    "random": make_batch(RANDOM),
    "half masked": make_batch(RANDOM, RANDOM < 5),
    "all masked": make_batch(RANDOM, np.zeros((2, 8, 12), bool)),
    "masked NaN": make_batch(np.where(RANDOM < 5, RANDOM, np.nan), RANDOM < 5),
    "one valid pixel": make_batch(RANDOM, np.arange(96).reshape(8, 12)[None] == [[[7]], [[9]]]),
    "constant": make_batch(np.ones((2, 8, 12))),
    "zero": make_batch(np.zeros((2, 8, 12))),
    "tiny": make_batch(RANDOM * 1e-38),
    "huge": make_batch(RANDOM * 1e37),
    "sky": make_batch(SKY),
    "only sky": make_batch(np.full((2, 8, 12), np.inf)),
    "zero and sky": make_batch(np.where(RANDOM > 6, np.inf, 0)),
    "tiny and huge": make_batch(np.where(RANDOM > 6, 1e38, 1e-38)),
}
ANNOTATED = jnp.zeros((2, 1, 5), jnp.int32)
SCORES = {
    "random": jnp.asarray(RANDOM - 5, jnp.float32),
    "zero": jnp.zeros(RANDOM.shape),
    "constant": jnp.full(RANDOM.shape, 0.1, jnp.float32),
    "tiny": jnp.asarray((RANDOM - 5) * 1e-30, jnp.float32),
    "huge": jnp.asarray((RANDOM - 5) * 2.5e14, jnp.float32),
    "bfloat16": jnp.asarray(RANDOM - 5, jnp.bfloat16),
}


def pairs_of(batch: Batch) -> Pairs:
    return PAIR_SAMPLERS.create("uniform", num_pairs=200)(jax.random.key(0), batch)


@functools.cache
def compiled_loss(name: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(jax.value_and_grad(LOSSES.create(name)))


@functools.cache
def pairs_in(depth: str) -> Pairs:
    return pairs_of(DEPTHS[depth])


def check_loss(name: str, score: str) -> None:
    """A loss is finite with finite gradients for any ground truth, and 0 without any."""
    for depth, batch in DEPTHS.items():
        found = compiled_loss(name)(SCORES[score], batch, pairs_in(depth))
        value, gradient = map(np.asarray, found)
        assert value.shape == (), depth
        assert gradient.dtype == SCORES[score].dtype, depth
        assert np.isfinite(value), depth
        assert np.isfinite(gradient).all(), depth
        assert value >= 0, depth
        assert (gradient[~np.asarray(batch["mask"])] == 0).all(), depth
        if depth == "all masked":
            assert value == 0


@pytest.mark.parametrize("name", LOSSES.entries)
@pytest.mark.parametrize("score", SCORES)
def test_a_loss_is_finite_with_finite_gradients(name: str, score: str):
    check_loss(name, score)


def check_sign_of_loss(name: str) -> None:
    """Larger score means farther, for every loss that knows the sign."""
    truth = jnp.asarray(RANDOM, jnp.float32)
    right, wrong = (
        compiled_loss(name)(score / 9, DEPTHS["random"], pairs_in("random"))[0]
        for score in (truth, -truth)
    )
    if LOSSES.extras(name).get("either_sign"):
        np.testing.assert_allclose(right, wrong, rtol=1e-5)
    else:
        assert right < wrong


@pytest.mark.parametrize("name", LOSSES.entries)
def test_a_loss_prefers_the_truth_to_its_negative(name: str):
    check_sign_of_loss(name)


def check_sampler(name: str) -> None:
    """A sampler gives distinct valid pixels, as many for any ground truth."""
    sampler = PAIR_SAMPLERS.create(name)
    more = {"pairs": ANNOTATED, "instances": jnp.asarray(RANDOM > 5, jnp.int32)}
    needed = {need: more[need] for need in getattr(sampler, "needs", ())}
    compiled = jax.jit(sampler)
    for depth, found in DEPTHS.items():
        pairs = compiled(jax.random.key(0), cast(Batch, {**found, **needed}))
        mask = np.asarray(found["mask"]).reshape(2, -1)
        assert {values.shape for values in pairs[:3]} == {pairs.first.shape}
        for image in range(2):
            valid = np.asarray(pairs.valid[image])
            first, second = np.asarray(pairs.first[image]), np.asarray(pairs.second[image])
            assert mask[image][first[valid]].all(), depth
            assert mask[image][second[valid]].all(), depth
            assert (first != second)[valid].all(), depth
            assert ((first >= 0) & (first < 96) & (second >= 0) & (second < 96)).all(), depth
            if name == "uniform":
                assert valid.all() == (mask[image].sum() >= 2), depth
            elif mask[image].sum() < 2:
                assert not valid.any(), depth
            elif mask[image].all():
                assert valid.any() == (name != "annotated"), depth


@pytest.mark.parametrize("name", PAIR_SAMPLERS.entries)
def test_a_sampler_gives_distinct_valid_pixels_of_static_number(name: str):
    check_sampler(name)


def test_uniform_pairs_are_uniform_over_valid_pixels():
    mask = np.zeros((1, 6, 6), bool)
    mask[0].flat[[3, 7, 8, 21, 35]] = True
    batch = make_batch(np.ones((1, 6, 6)), mask)
    pairs = PAIR_SAMPLERS.create("uniform", num_pairs=20_000)(jax.random.key(3), batch)
    cells = np.zeros((36, 36))
    np.add.at(cells, (np.asarray(pairs.first[0]), np.asarray(pairs.second[0])), 1)
    counts = cells[cells > 0]
    assert len(counts) == 5 * 4
    # 20 equally likely ordered pairs: chi-square with 19 degrees of freedom, 99.99 % point 50.8.
    assert np.sum((counts - 1000) ** 2 / 1000) < 50.8


def test_pairs_differ_between_images_and_keys():
    sampler = PAIR_SAMPLERS.create("uniform", num_pairs=50)
    one = sampler(jax.random.key(0), DEPTHS["random"])
    other = sampler(jax.random.key(1), DEPTHS["random"])
    assert jnp.any(one.first[0] != one.first[1])
    assert jnp.any(one.first != other.first)


def check_encoder(name: str) -> None:
    """An encoder has the strides, the channels and the number of parameters that it declares."""
    encoder = abstract_network(
        lambda rngs: ENCODERS.create(name, dtype=jnp.dtype("float32"), rngs=rngs)
    )
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
    assert count == ENCODERS.extras(name)["num_params"]
    graph, state = nnx.split(encoder)
    config = ModelConfig(encoder=Choice(name))
    height, width = 2 * config.multiple, 3 * config.multiple
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    taps = jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, images)
    tokens = getattr(encoder, "tokens", (False,) * 4)
    assert bool(config.blocks) == bool(config.patch) == any(tokens)
    if config.blocks:
        assert len(encoder.blocks) == config.blocks
    for tap, stride, channels, made in zip(
        taps, (4, 8, 16, 32), encoder.channels, tokens, strict=True
    ):
        if made:
            assert tap.summary.shape == (2, 1, 1, channels)
            tap, stride = tap.patches, config.patch
        assert tap.shape == (2, height // stride, width // stride, channels)


@pytest.mark.parametrize("name", ENCODERS.entries)
def test_an_encoder_keeps_its_word_on_strides_channels_and_parameters(name: str):
    check_encoder(name)


def check_step(config: Config, annotated: int) -> None:
    _, state = new_state(config, abstract=True)
    size = (config.data.batch_size, *config.data.crop)
    batch = {
        "image": jax.ShapeDtypeStruct((*size, 3), jnp.uint8),
        "depth": jax.ShapeDtypeStruct(size, jnp.float32),
        "mask": jax.ShapeDtypeStruct(size, jnp.bool_),
    }
    if annotated:
        batch["pairs"] = jax.ShapeDtypeStruct((size[0], annotated, 5), jnp.int32)
    after, metrics = jax.eval_shape(step_function(config, compiled=False), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert all(
        (a.shape, a.dtype) == (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True)
    )
    assert {metric.shape for metric in metrics.values()} == {()}


@pytest.mark.parametrize(
    ("path", "annotated"),
    [(path, 3 if path in ANNOTATED_CONFIGS else 0) for path in CONFIGS]
    # Its pairs are drawn, whatever comes with the batch.
    + [("configs/ranking.py", 3)],
)
def test_every_config_builds_its_train_step(path: str, annotated: int, strides_encoder: None):
    """With a small network, which is traced sooner than the ones that come next."""
    config = load(path)
    model = dataclasses.replace(config.model, encoder=Choice("strides"), decoder_width=8)
    check_step(dataclasses.replace(config, model=model), annotated)


def network_of(path: str) -> tuple[Any, ...]:
    """Return what decides the network that a configuration trains, and how."""
    config = load(path)
    optim, train = config.optim, config.train
    return config.model, optim.groups, optim.frozen_batch_norm, train.accumulate, train.remat


@pytest.mark.parametrize("path", {network_of(path): path for path in CONFIGS}.values())
def test_every_network_of_the_configs_trains(path: str):
    config = load(path)
    optimizer.require_known_groups(config.optim, new_state(config, abstract=True)[1].params)
    check_step(config, annotated=0)


def test_plug_ins_are_found_without_importing_them(tmp_path: pathlib.Path, monkeypatch):
    package = tmp_path / "toys"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ball.py").write_text(
        "1 / 0\n"
        "@TOYS.register('ball')\n"
        "def ball(*, size, color: str = 'red'):\n"
        "    return (size, color)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    toys = Registry("TOYS", "toy", "toys")
    assert list(toys.entries) == ["ball"]
    assert toys.lookup("ball").options == {"color": ("str", "'red'")}
    with pytest.raises(ValueError, match="unknown toy 'bal'. Did you mean 'ball'"):
        toys.lookup("bal")
    with pytest.raises(ZeroDivisionError):
        toys.create("ball", size=1)


LOSS_FILE = """
import math
from reldepth_jax.registry import LOSSES

@LOSSES.register("flat")
def flat(*, slope: float = 0.5):
    return math.floor
"""


def test_plug_ins_of_folders_outside_are_found_here_and_in_new_processes(
    plugin_folder: pathlib.Path,
):
    (plugin_folder / "flat.py").write_text(LOSS_FILE)
    with pytest.raises(ValueError, match="unknown loss 'flat'"):
        LOSSES.lookup("flat")
    registry.extend(plugin_folder)
    assert LOSSES.lookup("flat").options == {"slope": ("float", "0.5")}
    assert LOSSES.create("flat") is math.floor
    assert "flat" not in PAIR_SAMPLERS.entries
    program = "from reldepth_jax.registry import LOSSES; print(LOSSES.create('flat')(2.5))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "2\n"
    with pytest.raises(ValueError, match="two plug-ins are called loss 'flat'"):
        registry.extend(plugin_folder)
    (plugin_folder / "flat.py").write_text("def")
    with pytest.raises(UserError, match=r"flat\.py.*invalid syntax"):
        registry.extend(plugin_folder)


def test_one_name_cannot_be_registered_twice():
    toys = Registry("TOYS", "toy", "reldepth_jax.losses")
    toys.register("x")(dict)
    with pytest.raises(ValueError, match="two plug-ins are called toy 'x'"):
        toys.register("x")(list)


NEW_LOSS = """
import dataclasses
import jax.numpy as jnp
from reldepth_jax.registry import LOSSES

@LOSSES.register("huber")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Huber:
    width: float = 1.0

    def __call__(self, score, batch, pairs):
        mask = batch["mask"] & jnp.isfinite(batch["depth"])
        rank = jnp.clip(jnp.log(jnp.maximum(jnp.where(mask, batch["depth"], 1), 1e-30)), -9, 9)
        error = jnp.abs(jnp.where(mask, score - rank, 0))
        huber = jnp.where(error < self.width, error**2 / 2 / self.width, error - self.width / 2)
        return jnp.sum(huber.astype(jnp.float32)) / jnp.maximum(jnp.sum(mask), 1)
"""
NEW_SAMPLER = """
import dataclasses
import jax.numpy as jnp
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.types import Pairs

@PAIR_SAMPLERS.register("neighbours")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
    distance: int = 1

    def __call__(self, key, batch):
        mask = batch["mask"].reshape(batch["mask"].shape[0], -1)
        both = mask[:, : -self.distance] & mask[:, self.distance :]
        first = jnp.broadcast_to(jnp.arange(both.shape[1]), both.shape)
        return Pairs(first, first + self.distance, both)
"""
NEW_ENCODER = """
import jax
from flax import nnx
from reldepth_jax.models.layers import BatchNorm, conv
from reldepth_jax.registry import ENCODERS

class Toy(nnx.Module):
    def __init__(self, width, dtype, rngs):
        self.channels = (width, width, width, 2 * width)
        sizes = zip((3, *self.channels), self.channels, (4, 2, 2, 2))
        self.convs = nnx.List(
            [conv(a, b, 3, stride=s, dtype=dtype, rngs=rngs) for a, b, s in sizes]
        )
        self.norm = BatchNorm(width, rngs=rngs)

    def __call__(self, x):
        taps = []
        for layer in self.convs:
            x = jax.nn.relu(layer(x))
            x = x if taps else self.norm(x)
            taps.append(x)
        return taps

@ENCODERS.register("toy", num_params=9 * (3 * 4 + 2 * 4 * 4 + 4 * 8) + 2 * 4)
def toy(*, width: int = 4, dtype, rngs):
    return Toy(width, dtype, rngs)
"""


def test_a_new_loss_sampler_and_encoder_are_one_new_file_each(plugin_folder: pathlib.Path):
    for name, text in (("a", NEW_LOSS), ("b", NEW_SAMPLER), ("c", NEW_ENCODER)):
        (plugin_folder / f"{name}.py").write_text(text)
    registry.extend(plugin_folder)

    # Options from the command line, and a mistake in one.
    config = override(
        load("configs/smoke.py"),
        {
            "loss.name": "huber", "loss.width": "0.5", "pairs.name": "neighbours",
            "pairs.distance": "3", "model.encoder.name": "toy", "model.encoder.width": "6",
        },
    )  # fmt: skip
    validate(config)
    assert LOSSES.create(config.loss.name, **config.loss.options).width == 0.5
    assert PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options).distance == 3
    check_step(config, annotated=0)
    with pytest.raises(UserError, match="Did you mean 'width'"):
        override(config, {"loss.widht": "1"})
    with pytest.raises(UserError, match=r"loss\.width"):
        override(config, {"loss.width": "wide"})

    # The contracts.
    for score in SCORES:
        check_loss("huber", score)
    check_sign_of_loss("huber")
    check_sampler("neighbours")
    check_encoder("toy")


def test_contracts_find_what_breaks_them(plugin_folder: pathlib.Path):
    (plugin_folder / "a.py").write_text(
        NEW_LOSS.replace("jnp.where(mask, score - rank, 0)", "score")
    )
    (plugin_folder / "b.py").write_text(NEW_SAMPLER.replace("both = mask", "both = ~mask"))
    (plugin_folder / "c.py").write_text(NEW_ENCODER.replace("2 * width)", "3 * width)"))
    registry.extend(plugin_folder)
    # Functions that are compiled once are of this name's former file.
    compiled_loss.cache_clear()
    for check in (
        lambda: check_loss("huber", "random"),
        lambda: check_sampler("neighbours"),
        lambda: check_encoder("toy"),
    ):
        with pytest.raises(AssertionError):
            check()
    compiled_loss.cache_clear()
