"""The same drawing of pairs, loss and optimiser in PyTorch.

Written from Xian et al., CVPR 2018, Sections 3.2 and 4.1, as `reldepth_jax.samplers.uniform` and
`reldepth_jax.losses.ranking` read them. Axes: b h w, n pairs an image. Scores and depth grow with
distance.
"""

import contextlib
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peer_network import Network


class Pairs(NamedTuple):
    """Flat pixel numbers of both points, (b, n), and which pairs count."""

    first: torch.Tensor
    second: torch.Tensor
    valid: torch.Tensor


def draw(mask: torch.Tensor, number: int) -> Pairs:
    """Draw pairs of two different pixels, uniform over the valid ones of each image."""
    ends = mask.flatten(1).cumsum(1)
    count = ends[:, -1:]
    shape = (len(mask), number)
    first = (torch.rand(shape, device=mask.device) * count).long()
    step = 1 + (torch.rand(shape, device=mask.device) * (count - 1)).long()
    second = (first + step) % count.clamp(min=1)
    last = ends.shape[1] - 1
    first, second = (torch.searchsorted(ends, rank + 1).clamp(max=last) for rank in (first, second))
    return Pairs(first, second, (count >= 2).expand(shape))


def ranking_loss(
    score: torch.Tensor,
    depth: torch.Tensor,
    mask: torch.Tensor,
    pairs: Pairs,
    *,
    sigma: float = 0.02,
    drop_easiest: float = 0.25,
) -> torch.Tensor:
    """Return the loss of `reldepth_jax.losses.ranking.RankingLoss`: no loop, nothing waits."""

    def both(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = values.flatten(1)
        return flat.gather(1, pairs.first), flat.gather(1, pairs.second)

    score_i, score_j = both(score)
    depth_i, depth_j = both(depth)
    mask_i, mask_j = both(mask)
    farther = depth_i > (1 + sigma) * depth_j
    relation = farther.float() - (depth_j > (1 + sigma) * depth_i).float()
    unequal = relation != 0
    difference = score_i - score_j
    losses = torch.where(
        unequal, functional.softplus(-difference * relation), difference.square()
    ).flatten()
    kept = (pairs.valid & mask_i & mask_j).flatten()
    among = kept & unequal.flatten()
    order = torch.where(among, losses.detach(), torch.inf).argsort(stable=True)
    dropped = (drop_easiest * among.sum()).floor()
    easy = torch.arange(len(order), device=order.device) < dropped
    kept = kept & ~torch.zeros_like(kept).scatter(0, order, easy)
    return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp(min=1)


def loop_loss(
    score: torch.Tensor, depth: torch.Tensor, pairs: Pairs, *, sigma: float = 0.02
) -> torch.Tensor:
    """Return the mean loss, dropping none, by a Python loop over pairs as is found in the wild."""
    losses = []
    width = score.shape[2]
    for image, (firsts, seconds) in enumerate(zip(pairs.first, pairs.second, strict=True)):
        for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True):
            i, j = divmod(first, width), divmod(second, width)
            difference = score[image, i[0], i[1]] - score[image, j[0], j[1]]
            depth_i, depth_j = depth[image, i[0], i[1]], depth[image, j[0], j[1]]
            if depth_i > (1 + sigma) * depth_j:
                losses.append(torch.log(1 + torch.exp(-difference)))
            elif depth_j > (1 + sigma) * depth_i:
                losses.append(torch.log(1 + torch.exp(difference)))
            else:
                losses.append(difference**2)
    return torch.stack(losses).mean()


def optimizer(
    module: Network, *, learning_rate: float, encoder_scale: float, momentum: float, decay: float
) -> torch.optim.SGD:
    """Return SGD as `reldepth_jax.training.optimizer`: decay on kernels only, a slower encoder."""
    groups = []
    for part, scale in ((module.encoder, encoder_scale), (module.decoder, 1), (module.head, 1)):
        for kernels in (True, False):
            chosen = [p for p in part.parameters() if (p.ndim == 4) == kernels]
            rate = {"lr": learning_rate * scale, "weight_decay": decay if kernels else 0.0}
            groups.append({"params": chosen, **rate})
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, fused=on_gpu(module))


def on_gpu(module: nn.Module) -> bool:
    """Return whether the module's weights are on a GPU."""
    return next(module.parameters()).is_cuda


def autocast(device: torch.device, dtype: str) -> contextlib.AbstractContextManager:
    """Return the context in which convolutions are computed in `dtype`."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
