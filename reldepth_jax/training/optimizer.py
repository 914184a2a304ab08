"""Optimiser and learning-rate schedule from the configuration."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import optax
from flax import nnx

from reldepth_jax.config import Config, ConfigError, LayerGroup, OptimConfig
from reldepth_jax.registry import did_you_mean

Trained = Callable[[tuple[Any, ...], Any], bool]
"""(path, variable) -> whether it is trained: a filter of NNX."""


def everything(path: tuple[Any, ...], variable: Any) -> bool:
    """Return True: nothing is frozen."""
    return True


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Return step -> learning rate of the new layers: linear warm-up, then constant or cosine.

    The first of w steps of warm-up has 1 / (w + 1) of the rate: none would be a step for nothing.
    """
    if config.schedule == "constant":
        after = optax.constant_schedule(config.learning_rate)
    else:
        after = optax.cosine_decay_schedule(
            config.learning_rate, steps - config.warmup_steps, alpha=config.final_lr_scale
        )
    if config.warmup_steps == 0:
        return after
    first = config.learning_rate / (config.warmup_steps + 1)
    warmup = optax.linear_schedule(first, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, after], [config.warmup_steps])


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Return the optimiser; the rate of each parameter is the schedule's times its `lr_scale`.

    Weight decay applies to kernels, not to biases, norms, and tokens and positions of transformers.
    Clipping comes before the scaling, and sees the norm of what the optimiser is given: the
    `trained` parameters.
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
    if any(scale != 1 for scale in _scales(config).values()):
        # Both rules are linear in the rate, so that scaling the update is scaling the rate.
        def scaled(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
            del params
            return jax.tree.map_with_path(lambda p, u: u * lr_scale(config, _keys(p)), updates)

        def mask(params: optax.Params) -> optax.Params:
            return jax.tree.map_with_path(lambda p, _: lr_scale(config, _keys(p)) != 1, params)

        stages.append(optax.masked(optax.stateless(scaled), mask))
    return optax.chain(*stages)


def with_layer_decay(config: Config) -> OptimConfig:
    """Return the settings of the optimiser with `layer_decay` as groups, one for each block."""
    optim, blocks = config.optim, config.model.blocks
    if optim.layer_decay == 1:
        return optim
    top = lr_scale(optim, ("encoder",))
    decayed = [
        LayerGroup(prefix=f"encoder.blocks.{k}", lr_scale=top * optim.layer_decay ** (blocks - k))
        for k in range(blocks)
    ]
    decayed.append(LayerGroup(prefix="encoder.norm", lr_scale=top))
    own = [group for group in optim.groups if group.prefix != "encoder"]
    # Groups of the user win, also those of several blocks.
    above = tuple(f"{group.prefix}." for group in own)
    decayed = [group for group in decayed if not f"{group.prefix}.".startswith(above)]
    return dataclasses.replace(
        optim,
        # Of what is left in the encoder: the embedding.
        encoder_lr_scale=top * optim.layer_decay ** (blocks + 1),
        groups=(*decayed, *own),
    )


def lr_scale(config: OptimConfig, path: Iterable[Any]) -> float:
    """Return the rate of the parameter at `path` relative to `config.learning_rate`."""
    parts, scales = tuple(map(str, path)), _scales(config)
    for length in range(len(parts), 0, -1):
        if parts[:length] in scales:
            return scales[parts[:length]]
    return 1.0


def trainable(config: OptimConfig) -> Trained:
    """Return which parameters are trained: those whose rate is not 0."""
    return lambda path, variable: lr_scale(config, path) != 0


def require_known_groups(config: OptimConfig, params: nnx.State) -> None:
    """Raise ConfigError for a group without parameters, or where all parameters are frozen."""
    paths = [tuple(map(str, path)) for path, _ in nnx.to_flat_state(params)]
    known = {".".join(path[:end]): None for path in paths for end in range(1, len(path) + 1)}
    for position, group in enumerate(config.groups):
        if group.prefix not in known:
            hint = did_you_mean(group.prefix, known)
            hint = hint or f" At the top are {', '.join(sorted({path[0] for path in paths}))}."
            raise ConfigError(
                f"optim.groups.{position}.prefix: the network has no parameter under"
                f" {group.prefix!r}.{hint}"
            )
    if not any(lr_scale(config, path) for path in paths):
        raise ConfigError("optim.groups: every parameter is frozen; nothing is left to train")


def _scales(config: OptimConfig) -> dict[tuple[str, ...], float]:
    """Return the scale of each group by the parts of its prefix."""
    groups = {tuple(group.prefix.split(".")): group.lr_scale for group in config.groups}
    return {("encoder",): config.encoder_lr_scale} | groups


def _keys(path: tuple[Any, ...]) -> list[Any]:
    return [part.key for part in path if isinstance(part, jax.tree_util.DictKey)]


def _kernels(params: optax.Params) -> optax.Params:
    return jax.tree.map_with_path(lambda path, _: _keys(path)[-1] == "kernel", params)
