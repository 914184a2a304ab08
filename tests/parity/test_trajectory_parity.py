"""Five steps of training against torch: same weights, batches and pairs, SGD with momentum.

Ours is the project's own optimiser and step. The reference is torch's network and `torch.optim.SGD`
driven by the gradient of the NumPy loss, in float64. Images 64x96, a narrow decoder.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from reldepth_jax.config import Choice, ModelConfig, OptimConfig
from reldepth_jax.conventions import Batch, Pairs
from reldepth_jax.losses.ranking import RankingLoss
from reldepth_jax.models.reldepth_net import build
from reldepth_jax.train.optim import make_optimizer
from reldepth_jax.train.state import create
from reldepth_jax.train.step import make_train_step
from tests.references.numpy_losses import ranking_of_maps
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import as_torch, load, randomise

# Rounding of the first step is fed back by four more with batch statistics over 12 values.
LOSS = 1e-4
# Relative to how far each parameter moved, not to its size.
MOVEMENT = 5e-3
STATISTICS = 1e-4
# Absolute, of biases of order 0.1.
IDLE = 1e-6

STEPS, PLANNED = 5, 8
SIGMA, DROP = 0.02, 0.25
OPTIM = OptimConfig(
    name="sgd",
    learning_rate=0.02,
    encoder_lr_scale=0.1,
    momentum=0.9,
    # Large, so that decay of what must not decay would show.
    weight_decay=0.5,
    schedule="cosine",
    final_lr_scale=0.1,
)


def make_batches() -> list[dict[str, np.ndarray]]:
    """Random images; depth is their smoothed brightness, with sky, equal areas and holes."""
    rng = np.random.default_rng(5)
    batches = []
    for _ in range(STEPS):
        coarse = rng.uniform(size=(2, 8, 12))
        fine = coarse.repeat(8, axis=1).repeat(8, axis=2)
        image = fine[..., None] * 200 + rng.uniform(0, 55, size=(2, 64, 96, 3))
        depth = (1 + 4 * fine).astype(np.float32)
        depth[fine > 0.9] = np.inf
        mask = rng.uniform(size=depth.shape) > 0.1
        batches.append({"image": image.astype(np.uint8), "depth": depth, "mask": mask})
    return batches


def make_pairs() -> list[np.ndarray]:
    rng = np.random.default_rng(6)
    return [rng.integers(0, 64 * 96, size=(2, 2, 150), dtype=np.int32) for _ in range(STEPS)]


def learning_rate(step: int) -> float:
    """Half a cosine from the peak at step 0 to `final_lr_scale` of it at the last."""
    share = (1 + math.cos(math.pi * step / PLANNED)) / 2
    return OPTIM.learning_rate * (OPTIM.final_lr_scale + (1 - OPTIM.final_lr_scale) * share)


def train_torch(module: TorchRelDepthNet, batches: list, pairs: list) -> list[float]:
    groups: dict[tuple[bool, bool], list] = {}
    for name, parameter in module.named_parameters():
        key = (name.startswith("encoder."), parameter.ndim == 4)
        groups.setdefault(key, []).append(parameter)
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
    losses = []
    for step, (batch, (first, second)) in enumerate(zip(batches, pairs, strict=True)):
        for group, (encoder, _) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = learning_rate(step) * (OPTIM.encoder_lr_scale if encoder else 1.0)
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


@pytest.mark.parametrize("options", [{}, {"decoder_norm": "batch"}], ids=["plain", "batch norm"])
def test_five_training_steps_agree(options: dict[str, Any], parity: Callable[..., None]):
    module = TorchRelDepthNet(Options(encoder="resnet18", decoder_width=16, **options))
    randomise(module, seed=0)
    config = ModelConfig(encoder=Choice("resnet18"), decoder_width=16, **options)
    model = nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))
    load(model, module)
    module.double()
    start = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    batches, pairs = make_batches(), make_pairs()
    losses = train_torch(module, batches, pairs)
    end = {name: value.numpy() for name, value in module.state_dict().items()}

    optimizer = make_optimizer(OPTIM, PLANNED)
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    state = create(params, stats, optimizer)
    our_losses = []
    loss = RankingLoss(sigma=SIGMA, drop_easiest=DROP)

    def given_pairs(key: jax.Array, batch: Batch) -> Pairs:
        # The step's pairs travel in its batch: the sampler sees no step number.
        first, second = batch["pairs"]  # pyright: ignore[reportGeneralTypeIssues, reportTypedDictNotRequiredAccess]
        return Pairs(first, second, first >= 0)

    train_step = jax.jit(make_train_step(model, loss, given_pairs, optimizer, seed=0, sigma=SIGMA))
    for batch, step_pairs in zip(batches, pairs, strict=True):
        state, metrics = train_step(state, {**batch, "pairs": step_pairs})
        our_losses.append(float(metrics["loss"]))
    assert int(state.step) == STEPS

    case = ", ".join(["trajectory", *(f"{k}={v}" for k, v in options.items())])
    for step, (ours, theirs) in enumerate(zip(our_losses, losses, strict=True)):
        parity(f"{case}: loss {step}", {"loss": np.array(ours)}, {"loss": np.array(theirs)}, LOSS)
    ours = as_torch(state.params)
    # The ranking loss does not see an added constant, BatchNorm removes one: rounding moves these.
    idle = {name for name in ours if options and name.endswith("conv1.bias")} | {"head.conv2.bias"}
    for name in idle:
        assert np.abs(ours[name] - start[name]).max() < IDLE, name
    parity(
        f"{case}: movement",
        {name: value - start[name] for name, value in ours.items() if name not in idle},
        {name: end[name] - start[name] for name in ours if name not in idle},
        MOVEMENT,
    )
    statistics = as_torch(state.stats)
    means = [name for name in statistics if name.endswith("running_mean")]
    parity(
        f"{case}: running means",
        {name: statistics[name] for name in means},
        {name: end[name] for name in means},
        STATISTICS,
    )
