"""One optimisation step and one forward pass, as pure functions to be compiled once."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, UInt8

from reldepth_jax.conventions import Batch, Loss, Pairs, PairSampler
from reldepth_jax.models.reldepth_net import RelDepthNet
from reldepth_jax.pairs.gather import gather
from reldepth_jax.pairs.labels import label, with_annotated
from reldepth_jax.train.state import TrainState, graph_definition

Metrics = dict[str, Array]


def make_train_step(
    model: RelDepthNet,
    loss: Loss,
    sampler: PairSampler,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    sigma: float,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return `step(state, batch) -> (state, metrics)`.

    The pairs are those that `sampler` draws from (seed, state.step), and the annotated ones of the
    batch. A step whose loss or gradient is not finite changes nothing but the step number and the
    counters of such steps, and says so in `metrics["finite"]`.

    Metrics, scalars: loss; whdr, the share of the step's unequal pairs (ratio over
    1 + sigma) whose order is wrong; grad_norm; finite, 1 or 0; skipped and skipped_in_a_row, the
    counters of the new state.
    """
    graph = graph_definition(model, training=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        pairs = with_annotated(sampler(key, batch), batch)

        def objective(params: nnx.State):
            # A copy: BatchNorm writes its statistics, and the outer ones must not be traced.
            network = nnx.merge(graph, params, state.stats, copy=True)
            score = network(as_float(batch["image"]))
            return loss(score, batch, pairs), (score, nnx.state(network, nnx.BatchStat))

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (value, (score, stats)), grads = value_and_grad(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        params = cast(nnx.State, optax.apply_updates(state.params, updates))
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, stats, opt_state),
            (state.params, state.stats, state.opt_state),
        )
        bad = 1 - finite.astype(jnp.int32)
        skipped = state.skipped + bad
        in_a_row = (state.skipped_in_a_row + 1) * bad
        metrics = {
            "loss": value,
            "whdr": sampled_whdr(score, batch, pairs, sigma=sigma),
            "grad_norm": grad_norm,
            "finite": finite.astype(jnp.float32),
            "skipped": skipped,
            "skipped_in_a_row": in_a_row,
        }
        params, stats, opt_state = kept
        return TrainState(state.step + 1, params, stats, opt_state, skipped, in_a_row), metrics

    return train_step


def make_forward(
    model: RelDepthNet,
) -> Callable[[nnx.State, nnx.State, UInt8[Array, "b h w 3"]], Float[Array, "b h w"]]:
    """Return `forward(params, stats, images) -> score`, with BatchNorm's running statistics."""
    graph = graph_definition(model, training=False)

    def forward(
        params: nnx.State, stats: nnx.State, images: UInt8[Array, "b h w 3"]
    ) -> Float[Array, "b h w"]:
        return nnx.merge(graph, params, stats)(as_float(images))

    return forward


def as_float(images: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Return float32 images in [0, 1]: they travel to the device as bytes."""
    return images.astype(jnp.float32) / 255


def sampled_whdr(
    score: Float[Array, "b h w"], batch: Batch, pairs: Pairs, *, sigma: float
) -> Float[Array, ""]:
    """Return the share of wrongly ordered ones among the valid unequal pairs; ties are wrong."""
    relation, counted = label(batch, pairs, sigma=sigma)
    score_i, score_j = gather(score, pairs)
    counted &= relation != 0
    wrong = counted & ~((score_i - score_j) * relation > 0)
    return jnp.sum(wrong) / jnp.maximum(jnp.sum(counted), 1)
