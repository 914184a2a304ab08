"""One contract for every plug-in of a kind: a new file is tested the moment it exists."""

import functools
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from reldepth_jax import registry
from reldepth_jax.config import load
from reldepth_jax.errors import UserError
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.registry import ENCODERS, LOSSES, PAIR_SAMPLERS, Registry
from reldepth_jax.training.state import new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Batch, Pairs

# Without the grid of `scripts/ablate.py`.
CONFIGS = [
    *(str(p) for p in sorted(pathlib.Path("configs").glob("*.py")) if p.stem != "ablation"),
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


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", LOSSES.entries)
@pytest.mark.parametrize("score", SCORES)
def test_a_loss_is_finite_with_finite_gradients(name: str, depth: str, score: str):
    batch = DEPTHS[depth]
    value, gradient = map(np.asarray, compiled_loss(name)(SCORES[score], batch, pairs_in(depth)))
    assert value.shape == ()
    assert gradient.dtype == SCORES[score].dtype
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value >= 0
    assert (gradient[~np.asarray(batch["mask"])] == 0).all()
    if depth == "all masked":
        assert value == 0


@pytest.mark.parametrize("name", LOSSES.entries)
def test_a_loss_compiles_to_what_it_computes(name: str):
    batch, pairs = DEPTHS["half masked"], pairs_in("half masked")
    score = jnp.asarray(RANDOM, jnp.float32)
    value, _ = compiled_loss(name)(score, batch, pairs)
    np.testing.assert_allclose(value, LOSSES.create(name)(score, batch, pairs), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES.entries)
def test_a_loss_prefers_the_truth_to_its_negative(name: str):
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


@pytest.mark.parametrize("name", PAIR_SAMPLERS.entries)
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_sampler_gives_distinct_valid_pixels_of_static_number(name: str, depth: str):
    sampler = PAIR_SAMPLERS.create(name)
    more = {"pairs": ANNOTATED, "instances": jnp.asarray(RANDOM > 5, jnp.int32)}
    needed = {need: more[need] for need in getattr(sampler, "needs", ())}
    batch, other = (cast(Batch, {**found, **needed}) for found in (DEPTHS[depth], DEPTHS["random"]))
    pairs = sampler(jax.random.key(0), batch)
    mask = np.asarray(batch["mask"]).reshape(2, -1)
    shape = pairs.first.shape
    assert shape == sampler(jax.random.key(1), other).first.shape
    for image in range(2):
        valid = np.asarray(pairs.valid[image])
        first, second = np.asarray(pairs.first[image]), np.asarray(pairs.second[image])
        assert mask[image][first[valid]].all()
        assert mask[image][second[valid]].all()
        assert (first != second)[valid].all()
        assert ((first >= 0) & (first < 96) & (second >= 0) & (second < 96)).all()
        if name == "uniform":
            assert valid.all() == (mask[image].sum() >= 2)
        elif mask[image].sum() < 2:
            assert not valid.any()
        elif mask[image].all():
            assert valid.any() == (name != "annotated")


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


@pytest.mark.parametrize("name", ENCODERS.entries)
def test_an_encoder_keeps_its_word_on_strides_channels_and_parameters(name: str):
    encoder = abstract_network(
        lambda rngs: ENCODERS.create(name, dtype=jnp.dtype("float32"), rngs=rngs)
    )
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(nnx.state(encoder, nnx.Param)))
    assert count == ENCODERS.extras(name)["num_params"]
    taps = nnx.eval_shape(lambda e, x: e(x), encoder, jnp.zeros((2, 64, 96, 3)))
    assert [tap.shape for tap in taps] == [
        (2, 64 // stride, 96 // stride, channels)
        for stride, channels in zip((4, 8, 16, 32), encoder.channels, strict=True)
    ]


@pytest.mark.parametrize(
    ("path", "annotated"),
    [(path, 3 if path in ANNOTATED_CONFIGS else 0) for path in CONFIGS]
    # Its pairs are drawn, whatever comes with the batch.
    + [("configs/ranking.py", 3)],
)
def test_every_config_builds_its_train_step(path: str, annotated: int):
    config = load(path)
    model, state = new_state(config, abstract=True)
    height, width = config.data.crop
    size = (config.data.batch_size, height, width)
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
