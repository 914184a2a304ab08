"""The training step of a configuration, compiled once for all runs of a process that share it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from reldepth_jax import runtime
from reldepth_jax.config import Config, EvalConfig, TrainConfig
from reldepth_jax.models.cpu.winograd_network import fast_training
from reldepth_jax.ops.pairs import limited
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.training import optimizer
from reldepth_jax.training.distributed import lockstep
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import Metrics, make_train_step
from reldepth_jax.types import Batch, Loss, Pairs, PairSampler


def step_function(
    config: Config, replicated: NamedSharding | None = None, *, compiled: bool = True
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the configured training step, compiled when first called; the state is donated.

    With `replicated`, of all devices of several processes, it is a step for `together.fit`. What is
    not `compiled` can be traced, which compiler options forbid otherwise.

    Runs of one process that differ in their seed, in a budget of pairs that is padded, or in what
    does not enter the step, share it.
    """
    sampler = PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options)
    shared = getattr(sampler, "shared", None)
    sampler, budget = shared() if shared else (sampler, None)
    step = _compiled(
        Config(
            model=config.model,
            optim=config.optim,
            train=TrainConfig(
                steps=config.train.steps,
                accumulate=config.train.accumulate,
                remat=config.train.remat,
                winograd=config.train.winograd,
            ),
            eval=EvalConfig(sigma=config.eval.sigma),
        ),
        LOSSES.create(config.loss.name, **config.loss.options),
        sampler,
        replicated,
    )
    seed = np.uint32(config.train.seed % 2**32)
    function = step if compiled else step.__wrapped__
    return lambda state, batch: function(*runtime.ready((state, batch)), seed, budget)


@functools.lru_cache(maxsize=8)
def _compiled(
    config: Config, loss: Loss, sampler: PairSampler, replicated: NamedSharding | None
) -> Any:
    model, _ = new_state(config, abstract=True)

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
            optimizer.make_optimizer(config.optim, config.train.steps),
            seed=jnp.asarray(seed),
            sigma=config.eval.sigma,
            trained=optimizer.trainable(config.optim),
            frozen_statistics=config.optim.frozen_statistics,
            accumulate=config.train.accumulate,
            remat=config.train.remat,
        )
        return train_step(state, batch)

    return jax.jit(
        step if replicated is None else lockstep.unless_stopped(step),
        donate_argnums=0,
        out_shardings=replicated,
        compiler_options=runtime.compiler_options(),
    )
