"""Weights between torch modules and NNX modules whose attribute paths are the same.

Strict both ways: every leaf of the model is filled, every entry of the state dict is used.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

_TORCH_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


Rename = Callable[[str], Any]
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
"""HWIO -> OIHW, and (in, out) -> (out, in)."""


def same(name: str) -> str:
    return name


def torch_name(path: tuple[object, ...]) -> str:
    """Return the torch key of an NNX path; `layers` is our name for a Sequential's children."""
    *modules, leaf = (str(part) for part in path)
    leaf = _TORCH_LEAF.get(leaf, leaf)
    return ".".join([*(part for part in modules if part != "layers"), leaf])


def as_torch(state: nnx.State, rename: Rename = same) -> dict[str, np.ndarray]:
    """Return the leaves (weights, statistics or gradients) under torch's names and layout."""
    leaves = {}
    for path, variable in nnx.to_flat_state(state):
        value = np.asarray(variable.get_value())
        leaves[rename(torch_name(path))] = value.transpose(_AXES.get(value.ndim, range(value.ndim)))
    return leaves


def load(
    model: nnx.Module, module: nn.Module, rename: Rename = same, dead: Iterable[str] = ()
) -> None:
    """Copy all weights and running statistics of `module`, but the `dead`, into `model`."""
    entries = {
        name: tensor.detach().numpy()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked") and name not in set(dead)
    }
    filled = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = entries.pop(rename(torch_name(path)))
        value = value.transpose(np.argsort(_AXES.get(value.ndim, range(value.ndim))))
        old = variable.get_value()
        if value.shape != old.shape:
            raise ValueError(f"{torch_name(path)}: {value.shape}, expected {old.shape}")
        # A copy: on CPU `asarray` may share memory that torch later changes in place.
        filled.append((path, variable.replace(jnp.array(value, old.dtype, copy=True))))
    if entries:
        raise ValueError(f"left over: {', '.join(entries)}")
    nnx.update(model, nnx.from_flat_state(filled))


def randomise(module: nn.Module, seed: int) -> None:
    """Draw weights and running statistics that leave no term of the network without effect.

    He's deviation keeps activations of order one. The last BatchNorm or GroupNorm of a residual
    branch is scaled down, so that 50 blocks in a row multiply neither them to infinity nor rounding
    errors; of a block without skip (`has_skip` false) it is not, or the image would lose its
    influence. A module that names its `last_convolution` has that one rescaled, see
    `_rescale_output`.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, deviation: float) -> None:
        tensor.copy_(deviation * torch.randn(tensor.shape, generator=generator))

    def uniform(tensor: torch.Tensor, low: float, high: float) -> None:
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                normal(part.weight, (2 / part.weight[0].numel()) ** 0.5)
                if part.bias is not None:
                    normal(part.bias, 0.1)
            elif isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                uniform(part.weight, 0.5, 1.5)
                normal(part.bias, 0.2)
                normal(part.running_mean, 0.2)
                uniform(part.running_var, 0.5, 2.0)
            elif isinstance(part, nn.Linear):
                normal(part.weight, part.in_features**-0.5)
                normal(part.bias, 0.1)
            elif isinstance(part, nn.ConvTranspose2d):
                assert part.bias is not None
                normal(part.weight, part.in_channels**-0.5)
                normal(part.bias, 0.1)
            elif isinstance(part, nn.LayerNorm | nn.GroupNorm):
                uniform(part.weight, 0.5, 1.5)
                normal(part.bias, 0.2)
            for name, parameter in part.named_parameters(recurse=False):
                if name == "gamma":
                    uniform(parameter, 0.2, 0.6)
                elif name in ("cls_token", "pos_embed"):
                    normal(parameter, 0.5)
        for part in module.modules():
            names = ("norm3", "bn3", "bn2")
            last = next((getattr(part, name) for name in names if hasattr(part, name)), None)
            if last is not None and getattr(part, "has_skip", True):
                last.weight.mul_(0.3)
        if hasattr(module, "last_convolution"):
            _rescale_output(module, generator)


def _rescale_output(module: nn.Module, generator: torch.Generator) -> None:
    """Give the output before a final ReLU mean 1 and deviation 1/2: most of it is positive."""
    outputs: list[torch.Tensor] = []
    last: Any = module.last_convolution
    hook = last.register_forward_hook(lambda _, inputs, output: outputs.append(output))
    training = module.training
    size = getattr(module, "example_size", (64, 96))
    module.eval()(torch.rand((1, 3, *size), generator=generator, dtype=last.weight.dtype))
    module.train(training)
    hook.remove()
    factor = 0.5 / outputs[0].std()
    last.weight.mul_(factor)
    last.bias.copy_(1 + factor * (last.bias - outputs[0].mean()))
