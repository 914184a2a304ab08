"""Groups of layers at rates of their own, frozen layers and frozen statistics."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.interpreters import partial_eval
from rich.console import Console

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    LayerGroup,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    from_dict,
    override,
    to_dict,
    validate,
)
from reldepth_jax.models.cpu import convolution
from reldepth_jax.models.network import as_float, graph_definition
from reldepth_jax.registry import ENCODERS, SOURCES, Entry
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.saved_config import RunError
from reldepth_jax.training import optimizer
from reldepth_jax.training import run as training_run
from reldepth_jax.training import step as step_module
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.types import Batch

SMALL = Config(
    data=DataConfig(source=Choice("noise"), crop=(32, 64), batch_size=2, threads=1, prefetch=1),
    model=ModelConfig(
        encoder=Choice("strides"), decoder_width=4, decoder_norm="batch", init="he"
    ),
    pairs=Choice("uniform", num_pairs=50),
    train=TrainConfig(steps=4, eval_every=4, eval_images=1, checkpoint_every=2, keep=10),
    eval=EvalConfig(num_images=1, pairs_per_image=50),
)  # fmt: skip
ENCODER_CONVOLUTIONS = 4
LAST_ENCODER_LAYER = (
    LayerGroup(prefix="encoder.convs.3", lr_scale=0.5),
    LayerGroup(prefix="encoder.norms.3", lr_scale=0.5),
)
FROZEN_ENCODER = (LayerGroup(prefix="encoder", lr_scale=0.0),)
PLAIN_SGD: dict[str, Any] = {"learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}


@pytest.fixture(autouse=True)
def _smallest_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ENCODERS.entries, "strides", Entry("tests.kills.plugins", {}))
    monkeypatch.setitem(SOURCES.entries, "noise", Entry("tests.kills.plugins", {}))


def small(**options: Any) -> Config:
    return dataclasses.replace(SMALL, optim=OptimConfig(**{"schedule": "constant", **options}))


def a_batch() -> Batch:
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)),
        "depth": jnp.asarray(rng.uniform(1, 9, (2, 32, 64)).astype(np.float32)),
        "mask": jnp.ones((2, 32, 64), bool),
    }


def arrays(state: nnx.State) -> dict[str, np.ndarray]:
    """Return the leaves by dotted path."""
    return {
        ".".join(map(str, path)): np.asarray(variable.get_value())
        for path, variable in nnx.to_flat_state(state)
    }


def moved(before: nnx.State, after: nnx.State) -> set[str]:
    """Return the paths of arrays that differ in any bit."""
    old, new = arrays(before), arrays(after)
    assert old.keys() == new.keys()
    return {path for path in old if old[path].tobytes() != new[path].tobytes()}


def norm_of_change(before: nnx.State, after: nnx.State, encoder_scale: float = 1.0) -> float:
    old, new = arrays(before), arrays(after)
    squares = 0.0
    for path in old:
        scale = encoder_scale if path.startswith("encoder.") else 1.0
        squares += float(np.sum((new[path].astype(np.float64) - old[path]) ** 2)) / scale**2
    return math.sqrt(squares)


SCALES = {
    "encoder.conv1.kernel": 0.1,
    "encoder.layer4.0.kernel": 0.5,
    "encoder.layer4.1.kernel": 3.0,
    "encoder.layer4.1.bias": 3.0,
    "encoder.layer40.kernel": 0.1,
    "decoder.fusion.0.kernel": 1.0,
    "decoder.fusion.1.kernel": 2.0,
    "decoder.fusion.10.kernel": 1.0,
    "head.conv2.kernel": 1.0,
    "head.conv2.bias": 0.25,
}
GROUPS = tuple(
    LayerGroup(prefix=prefix, lr_scale=scale)
    for prefix, scale in (
        ("encoder.layer4.1", 3.0),
        ("encoder.layer4", 0.5),
        ("decoder.fusion.1", 2.0),
        ("head.conv2.bias", 0.25),
    )
)


def nested(leaves: dict[str, np.ndarray]) -> dict:
    """Return the tree of dotted paths; numbers are numbers, as for lists of layers."""
    tree: dict = {}
    for path, leaf in leaves.items():
        *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = jnp.asarray(leaf, jnp.float32)
    return tree


def reference(name: str, steps: list[dict], start: dict, rate: float, decay: float) -> dict:
    """Return the parameters after `steps` of gradients, in float64."""
    end = {}
    for path, value in start.items():
        value, scale = value.copy(), SCALES[path]
        decayed = decay if value.ndim > 1 else 0.0
        first = second = np.zeros_like(value)
        for number, gradients in enumerate(steps, start=1):
            gradient = gradients[path]
            if name == "sgd":
                first = 0.9 * first + gradient + decayed * value
                direction = first
            else:
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                mean, square = first / (1 - 0.9**number), second / (1 - 0.999**number)
                direction = mean / (np.sqrt(square) + 1e-8) + decayed * value
            value -= rate * scale * direction
        end[path] = value
    return end


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_longest_matching_prefix_decides_the_rate(name: Literal["sgd", "adamw"]):
    rng = np.random.default_rng(1)

    def draw() -> dict[str, np.ndarray]:
        shapes = {path: (3,) if path.endswith("bias") else (2, 3) for path in SCALES}
        return {path: rng.normal(size=shape) for path, shape in shapes.items()}

    start, gradients = draw(), [draw(), draw()]
    config = OptimConfig(
        name=name, learning_rate=0.05, schedule="constant", weight_decay=0.3, groups=GROUPS
    )
    rule = optimizer.make_optimizer(config, 10)
    params: Any = nested(start)
    state = rule.init(params)
    for gradient in gradients:
        updates, state = rule.update(nested(gradient), state, params)
        params = optax.apply_updates(params, updates)
    expected = nested(reference(name, gradients, start, 0.05, 0.3))
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    for (path, got), want in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=str(path))


def structure(optimizer: optax.GradientTransformation) -> Any:
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "head": {"bias": jnp.ones(2)}}
    return jax.tree.structure(optimizer.init(params))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_without_groups_the_optimiser_state_is_that_of_earlier_checkpoints(
    name: Literal["sgd", "adamw"],
):
    def rate(step: Any) -> float:
        return 0.1

    rules = {
        "sgd": optax.chain(
            optax.masked(optax.add_decayed_weights(1.0), _all), optax.sgd(rate, momentum=0.9)
        ),
        "adamw": optax.adamw(rate, weight_decay=1.0, mask=_all),
    }
    slower = optax.masked(optax.scale(0.1), {"encoder": True, "head": False})
    clip = optax.clip_by_global_norm(1.0)
    for options, expected in (
        ({}, optax.chain(rules[name], slower)),
        ({"encoder_lr_scale": 1.0}, optax.chain(rules[name])),
        ({"max_grad_norm": 1.0}, optax.chain(clip, rules[name], slower)),
    ):
        got = optimizer.make_optimizer(small(name=name, **options).optim, 10)
        assert structure(got) == structure(expected), options


def _all(params: Any) -> Any:
    return jax.tree.map(lambda _: True, params)


def start(config: Config) -> tuple[Any, TrainState]:
    """Return the configured step, compiled, and a first state with unusual statistics.

    Every kernel has a negative zero, which adding zero would change.
    """
    model, state = new_state(config)
    rng = np.random.default_rng(2)
    # Negative means: no channel is dead after its ReLU.
    bounds = {"mean": (-1.0, -0.5), "var": (0.5, 2.0)}
    stats = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(rng.uniform(*bounds[path[-2].key], leaf.shape), leaf.dtype),
        state.stats,
    )
    params = jax.tree.map(
        lambda leaf: leaf.at[0, 0, 0, 0].set(-0.0) if leaf.ndim == 4 else leaf, state.params
    )
    step = jax.jit(step_module.step_function(config, compiled=False))
    return step, state._replace(params=params, stats=stats)


def test_what_is_frozen_keeps_every_bit_while_the_rest_moves_along_its_gradient():
    groups = (*FROZEN_ENCODER, *LAST_ENCODER_LAYER, LayerGroup(prefix="head", lr_scale=0.0))
    config = small(**PLAIN_SGD, groups=groups, frozen_batch_norm="encoder")
    step, before = start(config)
    after, metrics = step(before, a_batch())
    changed = moved(before.params, after.params)
    kernels = {path for path in arrays(before.params) if path.endswith("kernel")}
    decoder = {path for path in kernels if path.startswith("decoder.")}
    assert len(decoder) > 10
    assert changed & kernels == {*decoder, "encoder.convs.3.kernel"}
    assert {path for path in changed if not path.startswith("decoder.")} == {
        "encoder.convs.3.kernel", "encoder.norms.3.scale", "encoder.norms.3.bias",
    }  # fmt: skip
    others = {path for path in arrays(before.stats) if not path.startswith("encoder.")}
    assert moved(before.stats, after.stats) == others
    # At rate 1 the change is the gradient, but for the groups' scale of one half.
    size = norm_of_change(before.params, after.params, encoder_scale=0.5)
    assert size == pytest.approx(float(metrics["grad_norm"]), rel=1e-4)


def test_clipping_sees_what_is_trained():
    step, before = start(small(**PLAIN_SGD, encoder_lr_scale=0.0, max_grad_norm=1e-2))
    after, metrics = step(before, a_batch())
    assert metrics["grad_norm"] > 0.02
    assert norm_of_change(before.params, after.params) == pytest.approx(1e-2, rel=1e-4)


@pytest.mark.parametrize(("name", "moments"), [("sgd", 1), ("adamw", 2)])
@pytest.mark.parametrize("options", [{"encoder_lr_scale": 0.0}, {"groups": FROZEN_ENCODER}])
def test_frozen_parameters_have_no_moments(
    name: Literal["sgd", "adamw"], moments: int, options: dict[str, Any]
):
    _, state = new_state(small(name=name, **options), abstract=True)
    sizes = {path: math.prod(leaf.shape) for path, leaf in arrays_of_shapes(state.params)}
    learnt = [size for path, size in sizes.items() if not path.startswith("encoder.")]
    assert 0 < len(learnt) < len(sizes)
    held = [leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 0]
    assert sorted(held) == sorted(learnt * moments)


def arrays_of_shapes(state: nnx.State) -> Iterator[tuple[str, Any]]:
    for path, variable in nnx.to_flat_state(state):
        yield ".".join(map(str, path)), variable.get_value()


def convolutions(jaxpr: Any) -> int:
    """Count them, also in the functions that are called."""
    inner = sum(
        convolutions(getattr(value, "jaxpr", value))
        for equation in jaxpr.eqns
        for value in equation.params.values()
        if hasattr(value, "eqns") or hasattr(value, "jaxpr")
    )
    own = [equation for equation in jaxpr.eqns if equation.primitive.name == "conv_general_dilated"]
    return inner + len(own)


def test_no_convolution_runs_backward_where_nothing_below_is_trained(
    monkeypatch: pytest.MonkeyPatch,
):
    # Those to few channels are products otherwise, and not counted.
    monkeypatch.setattr(convolution, "_is_narrow", lambda kernel: False)
    model, state = new_state(SMALL, abstract=True)
    graph = graph_definition(model, training=False)
    forward = jax.make_jaxpr(lambda *state: nnx.merge(graph, *state)(as_float(a_batch()["image"])))(
        state.params, state.stats
    )
    encoder = ENCODER_CONVOLUTIONS
    rest = convolutions(forward.jaxpr) - encoder
    assert rest > 10

    def of_step(**options: Any) -> int:
        config = small(**options)
        model, state = new_state(config, abstract=True)
        step = step_module.step_function(config, compiled=False)
        jaxpr = jax.make_jaxpr(step)(state, a_batch()).jaxpr
        # What nobody asks for is written down and left out by every compiler.
        needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        return convolutions(needed)

    # Forward, for the kernel, for the input; the image needs no gradient.
    assert of_step() == 3 * (encoder + rest) - 1
    # Nor do the four taps, each of which enters one convolution of the decoder.
    assert of_step(encoder_lr_scale=0.0) == encoder + 3 * rest - 4
    # The kernel of the last convolution, whose tap needs one.
    groups = (*FROZEN_ENCODER, *LAST_ENCODER_LAYER)
    assert of_step(groups=groups) == encoder + 1 + 3 * rest - 3


def test_frozen_batch_norm_are_those_that_normalise():
    model, _ = new_state(SMALL)
    _, state = start(small())
    images = a_batch()["image"]

    def outputs(**mode: Any) -> tuple[np.ndarray, np.ndarray]:
        graph = graph_definition(model, **mode)

        def forward(params: nnx.State, stats: nnx.State) -> tuple[Any, Any]:
            network = nnx.merge(graph, params, stats, copy=True)
            return network.encoder(as_float(images))[-1], network(as_float(images))

        features, score = jax.jit(forward)(state.params, state.stats)
        return np.asarray(features), np.asarray(score)

    features, score = outputs(training=False)
    assert np.std(features) > 0.1
    assert np.std(score) > 0.01
    same: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
    for mode, features_frozen, score_frozen in (
        ("none", False, False), ("encoder", True, False), ("all", True, True),
    ):  # fmt: skip
        got = outputs(training=True, frozen_batch_norm=mode)
        assert np.allclose(got[0], features, **same) == features_frozen, mode
        assert np.allclose(got[1], score, **same) == score_frozen, mode


def final_state(config: Config, workdir: pathlib.Path) -> TrainState:
    checkpoints = Checkpoints(workdir / "checkpoints", keep=10)
    state = checkpoints.restore(new_state(config, abstract=True)[1]).state
    checkpoints.close()
    return state


def test_a_continued_run_with_groups_equals_an_uninterrupted_one(tmp_path: pathlib.Path):
    config = small(
        name="adamw", groups=(*FROZEN_ENCODER, *LAST_ENCODER_LAYER), frozen_batch_norm="encoder"
    )
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=2))
    quiet = Console(quiet=True)
    for name, parts in (("whole", [config]), ("parts", [half, config])):
        for part in parts:
            assert training_run.train(part, tmp_path / name, quiet) == 0
    whole, parts = (final_state(config, tmp_path / name) for name in ("whole", "parts"))
    assert int(whole.step) == int(parts.step) == 4
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    first = new_state(config)[1]
    changed = moved(first.params, whole.params)
    assert "encoder.convs.3.kernel" in changed
    assert "encoder.convs.2.kernel" not in changed
    thawed = dataclasses.replace(config, optim=dataclasses.replace(config.optim, groups=()))
    with pytest.raises(RunError, match=r"optim\.groups: "):
        training_run.train(thawed, tmp_path / "parts", quiet)


@pytest.mark.parametrize(
    ("prefixes", "message"),
    [
        (("encoder", "encoder.convs.4"), r"groups\.1\.prefix: .* 'encoder\.convs\.4'\. Did you"),
        (("haed",), r"groups\.0\.prefix: .* 'haed'\. Did you mean 'head'\?"),
        (("encoder.conv",), "Did you mean 'encoder.convs'"),
        (("",), "At the top are decoder, encoder, head"),
        (("encoder", "decoder", "head"), "every parameter is frozen"),
    ],
)
def test_a_group_without_parameters_is_one_line_before_training(
    prefixes: tuple[str, ...], message: str, tmp_path: pathlib.Path
):
    groups = tuple(LayerGroup(prefix=prefix, lr_scale=0.0) for prefix in prefixes)
    with pytest.raises(ConfigError, match=message) as mistake:
        training_run.train(small(groups=groups), tmp_path / "run", Console(quiet=True))
    assert "\n" not in str(mistake.value)
    assert not (tmp_path / "run").exists()


def test_groups_are_checked_set_on_the_command_line_and_kept_as_json():
    config = Config(optim=OptimConfig(groups=(*FROZEN_ENCODER, *LAST_ENCODER_LAYER)))
    config = override(
        config, {"optim.groups.1.lr_scale": "0.25", "optim.frozen_batch_norm": "encoder"}
    )
    validate(config)
    assert [group.lr_scale for group in config.optim.groups] == [0.0, 0.25, 0.5]
    assert from_dict(to_dict(config)).optim == config.optim
    for assignments, message in (
        ({"optim.groups.1.lr_scale": "-1"}, r"groups\.1\.lr_scale must be at least 0"),
        ({"optim.groups.1.lr_scale": "nan"}, r"groups\.1\.lr_scale: expected a finite"),
        ({"optim.groups.2.prefix": "encoder"}, r"groups\.2\.prefix: 'encoder' is that of .*\.0"),
        ({"optim.groups.3.lr_scale": "1"}, "items: 0, 1, 2"),
        ({"optim.frozen_batch_norm": "encodr"}, "Did you mean 'encoder'"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate(override(config, assignments))
