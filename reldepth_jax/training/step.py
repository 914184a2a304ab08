"""The training step: a pure function, compiled once for all runs of a process that share it."""

import functools
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, UInt32

from reldepth_jax import runtime
from reldepth_jax.config import Config
from reldepth_jax.config.setting import seen_by_step
from reldepth_jax.models.cpu.winograd_network import fast_training
from reldepth_jax.models.network import Images, RelDepthNet, as_float, graph_definition
from reldepth_jax.ops.pairs import gather, label, limited, with_annotated
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.training.distributed import lockstep
from reldepth_jax.training.optimizer import (
    Trained,
    everything,
    make_optimizer,
    trainable,
    with_layer_decay,
)
from reldepth_jax.training.state import TrainState, averaged, new_state
from reldepth_jax.training.targets import degenerate
from reldepth_jax.types import Batch, DropPath, Loss, Pairs, PairSampler

Metrics = dict[str, Array]
_DROPPING = 0x64726F70
"""Makes another key of the one that pairs are drawn with."""


def step_function(
    config: Config, replicated: NamedSharding | None = None, *, compiled: bool = True
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the configured training step, compiled when first called; the state is donated.

    With `replicated`, over all devices of several processes, it is a step for `lockstep.fit`. A
    step that is not `compiled` can be traced, which compiler options forbid otherwise.

    Runs of one process share it if they differ only in their seed, in a budget of pairs that is
    padded, or in fields that the step does not see (see `config.setting`).
    """
    sampler = PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options)
    shared = getattr(sampler, "shared", None)
    sampler, budget = shared() if shared else (sampler, None)
    loss = LOSSES.create(config.loss.name, **config.loss.options)
    step = _compiled(seen_by_step(config), loss, sampler, replicated)
    seed = np.uint32(config.train.seed % 2**32)
    function = step if compiled else step.__wrapped__
    return lambda state, batch: function(*runtime.ready((state, batch)), seed, budget)


@functools.lru_cache(maxsize=8)
def _compiled(
    config: Config, loss: Loss, sampler: PairSampler, replicated: NamedSharding | None
) -> Any:
    model, _ = new_state(config, abstract=True)
    optim = with_layer_decay(config)

    def step(
        state: TrainState, batch: Batch, seed: jax.Array | np.uint32, budget: jax.Array | int | None
    ) -> tuple[TrainState, Metrics]:
        def draw(key: jax.Array, batch: Batch) -> Pairs:
            pairs = sampler(key, batch)
            return pairs if budget is None else limited(pairs, budget)

        train_step = make_train_step(
            fast_training(model) if config.train.winograd else model,
            loss,
            draw,
            make_optimizer(optim, config.train.steps),
            seed=jnp.asarray(seed),
            sigma=config.eval.sigma,
            trained=trainable(optim),
            frozen_batch_norm=config.optim.frozen_batch_norm,
            accumulate=config.train.accumulate,
            remat=config.train.remat,
            drop_path=config.train.drop_path,
            ema=config.train.ema,
        )
        return train_step(state, batch)

    return jax.jit(
        step if replicated is None else lockstep.unless_stopped(step),
        donate_argnums=0,
        out_shardings=replicated,
        compiler_options=runtime.compiler_options(),
    )


def make_train_step(
    model: RelDepthNet,
    loss: Loss,
    sampler: PairSampler,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | UInt32[Array, ""],
    sigma: float,
    trained: Trained = everything,
    frozen_batch_norm: Literal["none", "encoder", "all"] = "none",
    accumulate: int = 1,
    remat: bool = False,
    drop_path: float = 0.0,
    ema: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return `step(state, batch) -> (state, metrics)`.

    The pairs are those that `sampler` draws from (seed, state.step), and the annotated ones of the
    batch. If the loss or the gradient is not finite, the step changes only the step number and the
    counters of such steps, and `metrics["finite"]` is 0.

    Only the parameters that `trained` selects are differentiated and given to the optimiser, whose
    state must be of these; `frozen_batch_norm` as in `graph_definition`.

    The batch is split into `accumulate` parts, computed one after the other, and their gradients
    are averaged. The pairs stay the same, but BatchNorm, and a loss that compares pairs or images
    of the batch, see one part. With `remat` only the activations between blocks are kept for the
    gradient, and each block is computed again. `drop_path` is the share of `types.DropPath`, whose
    key is a function of (seed, state.step) too. `ema` is the decay of `state.average`, if there is
    one; a step that is not finite leaves the weights, and so moves the average towards them.

    Metrics, scalars: loss; whdr, the share of the step's unequal pairs (ratio over 1 + sigma) in
    the wrong order; grad_norm, of the trained parameters; finite, 1 or 0; degenerate, the share of
    images whose ground truth is one value nearly everywhere (`training.targets`); skipped and
    skipped_in_a_row, the counters of the new state.
    """
    graph = graph_definition(model, training=True, frozen_batch_norm=frozen_batch_norm)

    def forward(
        params: nnx.State,
        frozen: nnx.State,
        stats: nnx.State,
        images: Images,
        keys: jax.Array | None,
    ) -> tuple[Float[Array, "b h w"], nnx.State]:
        # A copy: BatchNorm writes its statistics, and the outer ones must not be traced.
        network = nnx.merge(graph, params, frozen, stats, copy=True)
        for part in (network.encoder, network.decoder):
            cast(Any, part).remat = remat
        drop = None if keys is None else DropPath(keys[0], drop_path)
        return network(as_float(images), drop), nnx.state(network, nnx.BatchStat)

    def objective(
        params: nnx.State,
        frozen: nnx.State,
        stats: nnx.State,
        batch: Batch,
        pairs: Pairs,
        keys: jax.Array | None,
    ) -> tuple[Float[Array, ""], tuple[Any, nnx.State]]:
        score, stats = forward(params, frozen, stats, batch["image"], keys)
        # Counts, whose ratio is that of the whole batch when parts of it are averaged.
        errors = _sampled_errors(score, batch, pairs, sigma=sigma)
        return loss(score, batch, pairs), (errors, stats)

    value_and_grad = jax.value_and_grad(objective, has_aux=True)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        pairs = with_annotated(sampler(key, batch), batch)
        learnt, frozen = nnx.split_state(state.params, trained, ...)
        keys = None
        if drop_path:  # One for each part.
            keys = jax.random.split(jax.random.fold_in(key, _DROPPING), accumulate)

        def part(stats: nnx.State, part: tuple[Batch, Pairs, Any]) -> tuple[nnx.State, Any]:
            (value, (errors, stats)), grads = value_and_grad(learnt, frozen, stats, *part)
            return stats, (value, errors, grads)

        stats, (value, errors, grads) = _mean_over_parts(
            part, state.stats, (batch, pairs, keys), accumulate
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, learnt)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        params = cast(nnx.State, optax.apply_updates(learnt, updates))
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, stats, opt_state),
            (learnt, state.stats, state.opt_state),
        )
        bad = 1 - finite.astype(jnp.int32)
        skipped = state.skipped + bad
        in_a_row = (state.skipped_in_a_row + 1) * bad
        metrics = {
            "loss": value,
            "whdr": _share(errors),
            "grad_norm": grad_norm,
            "finite": finite.astype(jnp.float32),
            "degenerate": degenerate(loss, batch),
            "skipped": skipped,
            "skipped_in_a_row": in_a_row,
        }
        params, stats, opt_state = kept
        params = nnx.merge_state(params, frozen)
        average = state.average and averaged(state.average, (params, stats), state.step, ema)
        state = TrainState(state.step + 1, params, stats, opt_state, skipped, in_a_row, average)
        return state, metrics

    return train_step


def _mean_over_parts(
    part: Callable[[nnx.State, Any], tuple[nnx.State, Any]],
    stats: nnx.State,
    whole: Any,
    count: int,
) -> tuple[nnx.State, Any]:
    """Return the last statistics and the mean of what `part` returns for `count` parts."""
    if count == 1:
        return part(stats, whole)
    # Every count-th image, so that on several devices each keeps its own ones.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), whole)
    first = jax.tree.map(lambda x: x[0], parts)
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(part, stats, first)[1]
    )

    def add(carry: tuple[nnx.State, Any], one: Any) -> tuple[tuple[nnx.State, Any], None]:
        stats, total = carry
        stats, found = part(stats, one)
        return (stats, jax.tree.map(jnp.add, total, found)), None

    (stats, total), _ = jax.lax.scan(add, (stats, nothing), parts)
    return stats, jax.tree.map(lambda x: x / count, total)


def sampled_whdr(
    score: Float[Array, "b h w"], batch: Batch, pairs: Pairs, *, sigma: float
) -> Float[Array, ""]:
    """Return the share of wrongly ordered ones among the valid unequal pairs; ties are wrong."""
    return _share(_sampled_errors(score, batch, pairs, sigma=sigma))


def _sampled_errors(
    score: Float[Array, "b h w"], batch: Batch, pairs: Pairs, *, sigma: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return how many of the valid unequal pairs are wrongly ordered, and how many there are."""
    relation, counted = label(batch, pairs, sigma=sigma)
    score_i, score_j = gather(score, pairs)
    counted &= relation != 0
    wrong = counted & ~((score_i - score_j) * relation > 0)
    return jnp.sum(wrong, dtype=jnp.float32), jnp.sum(counted, dtype=jnp.float32)


def _share(errors: tuple[Float[Array, ""], Float[Array, ""]]) -> Float[Array, ""]:
    wrong, counted = errors
    return wrong / jnp.where(counted > 0, counted, 1.0)
