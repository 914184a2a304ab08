"""Optimiser and learning-rate schedule from the configuration."""

import jax
import optax

from reldepth_jax.config import OptimConfig


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Return step -> learning rate of the new layers: linear warm-up, then constant or cosine."""
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = optax.cosine_decay_schedule(
            config.learning_rate, steps - config.warmup_steps, alpha=config.final_lr_scale
        )
    if config.warmup_steps == 0:
        return after
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Return the optimiser for parameters whose top-level `encoder` learns at its own rate.

    Weight decay applies to convolution kernels, not to biases and BatchNorm.
    """
    schedule = make_schedule(config, steps)
    if config.name == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=_kernels),
            optax.sgd(schedule, momentum=config.momentum),
        )
    else:
        rule = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels)
    stages: list[optax.GradientTransformation] = [rule]
    if config.max_grad_norm > 0:
        stages.insert(0, optax.clip_by_global_norm(config.max_grad_norm))
    if config.encoder_lr_scale != 1:
        # Both rules are linear in the rate, so that scaling the update is scaling the rate.
        stages.append(optax.masked(optax.scale(config.encoder_lr_scale), _encoder))
    return optax.chain(*stages)


def _kernels(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _encoder(params: optax.Params) -> optax.Params:
    return jax.tree.map_with_path(lambda path, _: path[0].key == "encoder", params)
