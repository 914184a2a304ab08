"""Five steps of training against torch: same weights, batches and pairs, SGD with momentum.

Ours is the project's own optimiser and step. The reference is torch's network and `torch.optim.SGD`
driven by the gradient of the NumPy loss, in float64. Images 64x96, a narrow decoder.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from reldepth_jax.config import Choice, LayerGroup, ModelConfig, OptimConfig
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.cpu.winograd_network import fast_training
from reldepth_jax.models.network import build
from reldepth_jax.training.optimizer import make_optimizer, trainable
from reldepth_jax.training.state import create
from reldepth_jax.training.step import make_train_step
from reldepth_jax.types import Batch, Pairs
from tests.references.numpy_losses import ranking_of_maps
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import as_torch, load, randomise

# Each about ten times what was measured: rounding, fed back by the next steps.
LOSS = 1e-5
MEANS = 1e-5
# Of each array, relative to how far it moved, beyond the rounding of storing it in float32.
MOVEMENT = 1e-5
# As many times looser with Winograd's convolutions.
WINOGRAD = 5
# Absolute, of biases of order 0.1.
IDLE = 1e-6

# Five steps on other inputs meet other kinks: the first trajectory that meets none decides.
SEEDS = range(8, 24)
STEPS, PLANNED = 5, 8
SIGMA, DROP = 0.02, 0.25
OPTIM = OptimConfig(
    name="sgd",
    learning_rate=0.02,
    encoder_lr_scale=0.1,
    momentum=0.9,
    # Large, so that decay of what must not decay would show.
    weight_decay=0.05,
    schedule="cosine",
    final_lr_scale=0.1,
)
FINETUNING = dataclasses.replace(
    OPTIM,
    encoder_lr_scale=0.0,
    groups=(LayerGroup(prefix="decoder.fusion.1", lr_scale=0.5),),
    frozen_batch_norm="encoder",
)


def make_batches(seed: int) -> list[dict[str, np.ndarray]]:
    """Random images; depth is their smoothed brightness, with sky, equal areas and holes."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(STEPS):
        coarse = rng.uniform(size=(2, 8, 12))
        fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
        image = fine[..., None] * 200 + rng.uniform(0, 55, size=(2, 64, 96, 3))
        depth = (1 + 4 * fine).astype(np.float32)
        depth[fine > 0.9] = np.inf
        mask = rng.uniform(size=depth.shape) > 0.1
        pairs = rng.integers(0, 64 * 96, size=(2, 2, 150), dtype=np.int32)
        batch = {"image": image.astype(np.uint8), "depth": depth, "mask": mask, "sampled": pairs}
        batches.append(batch)
    return batches


def beyond_storage(got: np.ndarray, expected: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Move `got` towards `expected` by what rounding `value` to float32 in every step explains."""
    allowed = STEPS * 2.0**-24 * np.abs(value).max()
    difference = got - expected
    return expected + np.sign(difference) * np.maximum(np.abs(difference) - allowed, 0)


def learning_rate(step: int) -> float:
    """Half a cosine from the peak at step 0 to `final_lr_scale` of it at the last."""
    share = (1 + math.cos(math.pi * step / PLANNED)) / 2
    return OPTIM.learning_rate * (OPTIM.final_lr_scale + (1 - OPTIM.final_lr_scale) * share)


def train_torch(module: TorchRelDepthNet, batches: list, frozen_encoder: bool) -> list[float]:
    rates = {"": 1.0, "encoder.": OPTIM.encoder_lr_scale}
    if frozen_encoder:
        rates = {"": 1.0, "decoder.fusion.1.": 0.5}
        module.encoder.requires_grad_(False)
    groups: dict[tuple[float, bool], list] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = rates[max(filter(name.startswith, rates), key=len)]
            groups.setdefault((scale, parameter.ndim == 4), []).append(parameter)
    assert len(groups) == 4
    optimizer = torch.optim.SGD(
        [
            {"params": group, "weight_decay": OPTIM.weight_decay if kernels else 0.0}
            for (_, kernels), group in groups.items()
        ],
        lr=OPTIM.learning_rate,
        momentum=OPTIM.momentum,
    )
    module.train()
    if frozen_encoder:
        module.encoder.eval()
    losses = []
    for step, batch in enumerate(batches):
        first, second = batch["sampled"]
        for group, (scale, _) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = learning_rate(step) * scale
        image = (batch["image"] / 255).transpose(0, 3, 1, 2)
        score = module(torch.tensor(image))
        value, gradient = ranking_of_maps(
            score.detach().numpy(),
            batch["depth"],
            batch["mask"],
            first,
            second,
            np.ones(first.shape, bool),
            sigma=SIGMA,
            drop_easiest=DROP,
        )
        optimizer.zero_grad()
        score.backward(torch.from_numpy(gradient))
        optimizer.step()
        losses.append(value)
    return losses


@functools.cache
def starting_network(decoder_norm: str) -> TorchRelDepthNet:
    module = TorchRelDepthNet(
        Options(encoder="resnet18", decoder_width=16, decoder_norm=decoder_norm)
    )
    randomise(module, seed=0)
    with torch.no_grad():
        # Scores of order one, so that a rate at which every parameter moves visibly is stable.
        module.head.conv2.weight.mul_(0.05)
    return module


@functools.cache
def torch_trajectory(
    decoder_norm: str, frozen_encoder: bool, seed: int
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses of five steps of torch in float64, and what they end at."""
    module = copy.deepcopy(starting_network(decoder_norm)).double()
    losses = train_torch(module, make_batches(seed), frozen_encoder)
    return losses, {name: value.numpy() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "optim", "winograd"),
    [
        ({}, OPTIM, False),
        ({"decoder_norm": "batch"}, FINETUNING, False),
        ({}, OPTIM, True),
    ],
    ids=["plain", "frozen encoder, batch norm", "Winograd"],
)
def test_five_training_steps_agree(
    options: dict[str, Any],
    optim: OptimConfig,
    winograd: bool,
    take_winograd: None,
    parity: Callable[..., None],
    gradient_parity: Callable[..., None],
):
    start_module = starting_network(options.get("decoder_norm", "none"))
    config = ModelConfig(encoder=Choice("resnet18"), decoder_width=16, **options)
    model = abstract_network(lambda rngs: build(config, rngs=rngs))
    load(model, start_module)
    start = {name: value.numpy() for name, value in start_module.state_dict().items()}
    # The ranking loss does not see an added constant, BatchNorm removes one: rounding moves these.
    idle = {name for name in start if options and name.endswith("conv1.bias")} | {"head.conv2.bias"}

    def given_pairs(key: jax.Array, batch: Batch) -> Pairs:
        # The step's pairs travel in its batch, which has no such field: a sampler does not see the
        # step number.
        first, second = batch["sampled"]  # pyright: ignore[reportGeneralTypeIssues]
        return Pairs(first, second, first >= 0)

    loss = RankingLoss(sigma=SIGMA, drop_easiest=DROP)
    optimizer = make_optimizer(optim, PLANNED)
    train_step = jax.jit(
        make_train_step(
            fast_training(model) if winograd else model, loss, given_pairs, optimizer, seed=0,
            sigma=SIGMA, trained=trainable(optim), frozen_batch_norm=optim.frozen_batch_norm,
        )
    )  # fmt: skip
    frozen = {name for name in start if optim is FINETUNING and name.startswith("encoder.")}
    case = ", ".join(["five steps", *(f"{k}={v}" for k, v in options.items())])
    case += ", frozen encoder" if frozen else ""
    case, looser = (f"{case}, Winograd", WINOGRAD) if winograd else (case, 1)

    last: dict[str, tuple[dict, dict]] = {}

    def attempts() -> Iterator[tuple[dict, dict]]:
        for seed in SEEDS:
            batches = make_batches(seed)
            losses, end = torch_trajectory(options.get("decoder_norm", "none"), bool(frozen), seed)
            _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
            state = create(params, stats, optimizer, trainable(optim))
            our_losses = []
            for batch in batches:
                state, metrics = train_step(state, batch)
                our_losses.append(metrics["loss"])
            assert int(state.step) == STEPS
            ours, statistics = as_torch(state.params), as_torch(state.stats)
            for name in frozen & (ours | statistics).keys():
                np.testing.assert_array_equal((ours | statistics)[name], start[name], name)
            for name in idle - frozen:
                assert np.abs(ours[name] - start[name]).max() < IDLE, name
            means = {name for name in statistics if name.endswith("running_mean")} - frozen
            last.clear()
            last["losses"] = {"losses": np.array(our_losses)}, {"losses": np.array(losses)}
            last["running means"] = (
                {name: statistics[name] for name in means},
                {name: end[name] for name in means},
            )
            expected = {name: end[name] - start[name] for name in ours if name not in idle | frozen}
            movement = {
                name: beyond_storage(ours[name] - start[name], expected[name], start[name])
                for name in expected
            }
            yield movement, expected

    gradient_parity(f"{case}: movement of parameters", attempts(), looser * MOVEMENT)
    for what, tolerance in (("losses", LOSS), ("running means", MEANS)):
        parity(f"{case}: {what}", *last[what], looser * tolerance)
