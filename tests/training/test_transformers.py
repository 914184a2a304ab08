"""Training with a transformer as encoder: rates by depth, blocks left out, bfloat16."""

import dataclasses
import pathlib
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from reldepth_jax.cli import evaluate
from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    LayerGroup,
    ModelConfig,
    load,
    override,
    validate,
)
from reldepth_jax.config.schema import DPT_DECODER
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.models.transformer import Block, LayerNorm, Shape
from reldepth_jax.registry import ENCODERS, PRESETS
from reldepth_jax.training import optimizer
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Batch
from tests.fixtures import tiny_transformers, training

F32 = jnp.dtype("float32")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, strides_encoder: None):
    tiny_transformers.named(monkeypatch)


def tiny(**values: Any) -> Config:
    """Return the configuration of two steps at 28x42, with the paper's decoder."""
    settings = {
        "model__encoder": "tiny_dinov2",
        "data__crop": "28,42",
        "train__steps": 2,
        "train__eval_every": 2,
    }
    return training.config(**(settings | values))


def test_a_transformer_with_the_papers_decoder_trains_and_resumes_exactly(
    tmp_path: pathlib.Path,
):
    options = {
        "train__drop_path": 0.3,
        "optim__layer_decay": 0.5,
        "train__checkpoint_every": 1,
        "data__batch_size": 4,
        "train__accumulate": 2,
    }
    config = tiny(**options)
    assert training.train(config, tmp_path / "whole")[0] == 0
    assert training.train(tiny(**options | {"train__steps": 1}), tmp_path / "parts")[0] == 0
    assert training.newest(tmp_path / "parts") == 1
    assert training.train(config, tmp_path / "parts")[0] == 0
    assert training.digests(tmp_path / "parts") == training.digests(tmp_path / "whole")
    model = networks.load_model(tmp_path / "whole")
    assert model.preprocessing == Preprocessing(fit="lower_bound", size=28, multiple=14)
    score = model.predict(np.zeros((30, 50, 3), np.uint8))
    assert score.shape == (30, 50)
    assert np.isfinite(score).all()


def test_a_convolutional_encoder_with_the_decoder_of_dpt_trains():
    config = override(training.config(), {"train.steps": "1"})
    model = ModelConfig(encoder=Choice("strides"), decoder_width=4, **DPT_DECODER)
    config = dataclasses.replace(config, model=model)
    validate(config)
    state = drawn(config)
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = step_function(config)(state, a_batch(32, 64))
    assert metrics["finite"] == 1
    old, new = (dict(nnx.to_flat_state(params)) for params in (before, after.params))
    moved = {path for path in old if (old[path].get_value() != new[path].get_value()).any()}
    # The output convolutions of the four stages too.
    assert {("decoder", "fusion", k, "narrow_after", "kernel") for k in range(4)} <= moved


def drawn(config: Config) -> TrainState:
    """Return a first state with random parameters: initialising layers compiles for seconds."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(abs(rng.normal(size=leaf.shape)) * 0.1, leaf.dtype)

    return jax.tree.map(draw, new_state(config, abstract=True)[1])


def a_batch(height: int, width: int) -> Batch:
    rng = np.random.default_rng(0)
    size = (2, height, width)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)),
        "depth": jnp.asarray(rng.uniform(1, 9, size).astype(np.float32)),
        "mask": jnp.ones(size, bool),
    }


def test_rates_fall_from_block_to_block():
    config = tiny(optim__layer_decay=0.5, optim__encoder_lr_scale=0.2)
    groups = (LayerGroup(prefix="encoder.blocks.1.mlp", lr_scale=7.0),)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, groups=groups))
    optim = optimizer.with_layer_decay(config)
    expected = {
        "encoder.norm.scale": 0.2,
        "encoder.blocks.3.attn.qkv.kernel": 0.2 / 2,
        "encoder.blocks.2.ls1.gamma": 0.2 / 4,
        "encoder.blocks.1.norm1.bias": 0.2 / 8,
        "encoder.blocks.1.mlp.fc1.kernel": 7.0,
        "encoder.blocks.0.attn.qkv.kernel": 0.2 / 16,
        "encoder.pos_embed": 0.2 / 32,
        "encoder.patch_embed.proj.kernel": 0.2 / 32,
        "decoder.reassemble.0.project.kernel": 1.0,
        "head.conv1.kernel": 1.0,
    }
    got = {path: optimizer.lr_scale(optim, path.split(".")) for path in expected}
    assert got == pytest.approx(expected)
    # A group for the whole encoder stands for its rate.
    whole = (LayerGroup(prefix="encoder", lr_scale=1.0),)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, groups=whole))
    optim = optimizer.with_layer_decay(config)
    assert optimizer.lr_scale(optim, ("encoder", "blocks", "3")) == 0.5
    # One for all blocks, or for some, stands for theirs.
    for prefix, scale in (("encoder.blocks", 0.0), ("encoder.blocks.1", 0.3)):
        group = LayerGroup(prefix=prefix, lr_scale=scale)
        rates = dataclasses.replace(config.optim, groups=(group,))
        optim = optimizer.with_layer_decay(dataclasses.replace(config, optim=rates))
        assert optimizer.lr_scale(optim, ("encoder", "blocks", "1", "norm1", "scale")) == scale
        last = 0.0 if prefix == "encoder.blocks" else 0.1
        got = optimizer.lr_scale(optim, ("encoder", "blocks", "3", "norm1", "scale"))
        assert got == pytest.approx(last)
    config = dataclasses.replace(config, optim=dataclasses.replace(optim, layer_decay=1.0))
    assert optimizer.with_layer_decay(config) is config.optim


def test_only_kernels_decay():
    config = tiny(optim__weight_decay=0.1, optim__encoder_lr_scale=1.0)
    state = drawn(config)
    rule = optimizer.make_optimizer(config.optim, 10)
    nothing = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), state.params)
    updates, _ = rule.update(nothing, rule.init(state.params), state.params)
    moved = {
        path[-1]
        for path, variable in nnx.to_flat_state(cast(nnx.State, updates))
        if np.any(np.asarray(variable.get_value()))
    }
    assert moved == {"kernel"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model__encoder": "strides", "optim__layer_decay": 0.8}, "optim.layer_decay is about"),
        ({"model__encoder": "strides", "train__drop_path": 0.1}, "train.drop_path is about"),
        ({"model__encoder": "strides", "model__readout": "project"}, "model.readout is about"),
        ({"model__encoder": "strides", "model__reassembly": "1,1,1,1"}, "model.reassembly is"),
        ({"data__crop": "32,42"}, "data.crop must be multiples of 14, got 32; nearest: 28 or 42"),
        ({"eval__image_size": "32"}, "eval.image_size must be multiples of 14"),
        ({"optim__layer_decay": "1.5"}, "optim.layer_decay must be at most 1"),
        ({"model__max_depth": 20, "model__non_negative": "true"}, "model.max_depth ends the head"),
        ({"model__max_depth": 20, "model__output": "disparity"}, "model.max_depth ends the head"),
    ],
)
def test_what_does_not_fit_an_encoder_is_told(values: dict[str, Any], said: str):
    crop = {"data__crop": "32,64"} if values.get("model__encoder") == "strides" else {}
    with pytest.raises(ConfigError, match=said):
        validate(tiny(**(crop | values)))


def test_images_of_other_sizes_are_refused():
    config = tiny().model
    model = networks.Model(config, {}, Preprocessing(), {})
    with pytest.raises(Exception, match="must be multiples of 14, got 32x32"):
        model(np.zeros((1, 32, 32, 3), np.float32))


def test_a_transformer_is_judged_at_sizes_that_it_can_have():
    settings = evaluate.settings_for(tiny().model)
    validate(override(settings, {"eval.image_size": "518"}))
    with pytest.raises(ConfigError, match="eval.image_size must be multiples of 14, got 384"):
        validate(override(settings, {"eval.image_size": "384"}))
    assert evaluate.settings_for(ModelConfig()) == Config()


def block(share: float, x: jax.Array, key: jax.Array | None) -> np.ndarray:
    made = Block(Shape(8, 1, 2, grid=1), layer_scale=True, dtype=F32, rngs=nnx.Rngs(0))
    return np.asarray(made(x, key, share=share))


def test_a_block_is_left_out_for_a_share_of_the_images():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(200, 3, 8)), jnp.float32)
    whole = block(0.0, x, None)
    dropped = block(0.4, x, jax.random.key(1))
    np.testing.assert_array_equal(block(0.0, x, jax.random.key(1)), whole)
    kept = (dropped != x).any(axis=(1, 2))
    # Attention or the layers are left out for 0.4 each: both for 0.16 of 200 images, 32, with a
    # deviation of 5.2.
    assert 12 <= (~kept).sum() <= 52
    assert not np.array_equal(dropped, block(0.4, x, jax.random.key(2)))


def test_what_is_kept_of_a_branch_is_enlarged():
    made = Block(Shape(8, 1, 2, grid=1), layer_scale=True, dtype=F32, rngs=nnx.Rngs(0))
    made.ls2.gamma.set_value(jnp.zeros(8))  # pyright: ignore[reportOptionalMemberAccess]: it has it
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3, 8)), jnp.float32)
    branch = np.asarray(made(x) - x)
    got = np.asarray(made(x, jax.random.key(3), share=0.25) - x)
    kept = np.abs(got).max(axis=(1, 2)) > 0
    assert 0 < (~kept).sum() < 50
    np.testing.assert_allclose(got[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_norms_softmax_and_sums_stay_float32():
    """Checked in the program: exponentials, square roots and sums of branches have 32 bits."""
    made = Block(
        Shape(8, 1, 2, grid=1), layer_scale=True, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0)
    )
    x = jnp.zeros((2, 3, 8), jnp.float32)
    graph, state = nnx.split(made)
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x)
    kinds: dict[str, set[str]] = {}

    def collect(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            for inner in jaxprs_in_params(equation.params):
                collect(inner)
            dtypes = {str(v.aval.dtype) for v in equation.invars if hasattr(v.aval, "dtype")}
            kinds.setdefault(equation.primitive.name, set()).update(dtypes)

    collect(program.jaxpr)
    for name in ("exp", "rsqrt", "reduce_max"):
        assert kinds[name] == {"float32"}, name
    assert kinds["dot_general"] == {"bfloat16", "float32"} or kinds["dot_general"] == {"bfloat16"}
    assert made(x).dtype == jnp.float32
    norm = LayerNorm(8, dtype=jnp.dtype("bfloat16"), rngs=nnx.Rngs(0))
    assert norm(x).dtype == jnp.bfloat16


TRANSFORMERS = [
    *(name for name in PRESETS.entries if name.startswith(("depth_anything", "dpt"))),
    *(name for name in ENCODERS.entries if name.startswith(("dinov2", "vit"))),
]


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_fine_tuning_has_a_variant_for_each(variant: str):
    config = load(f"configs/finetune.py:{variant}")
    validate(config)
    alone = variant in ENCODERS.entries
    public = f"imagenet:{variant}" if variant.startswith("dinov2") else variant
    assert config.init_from == (f"{variant}.safetensors" if variant[:3] == "vit" else public)
    assert config.init_part == ("encoder" if alone else "network")
    assert all(side % config.model.multiple == 0 for side in config.data.crop)
    frozen = override(config, {"optim.encoder_lr_scale": "0", "optim.layer_decay": "0.8"})
    trained = optimizer.trainable(optimizer.with_layer_decay(frozen))
    assert not trained(("encoder", "blocks", 3, "norm1", "scale"), None)
    assert not trained(("encoder", "cls_token"), None)
    assert trained(("decoder", "reassemble", 0, "project", "kernel"), None)
