"""Calls of the peer in PyTorch, eager and compiled, that stand beside those of `ours`."""

import dataclasses
import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import peer_network, peer_torch
from benchmarks.workload import KEYS
from reldepth_jax.cli.timing import Call
from reldepth_jax.config import Config

LOOP_PAIRS = 60
"""So many pairs are timed in the per-pair loop."""

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Torch:
    """The peer on one device: the GPU if ours is on one."""

    gpu: bool

    def __post_init__(self):
        if self.gpu:
            # JAX computes float32 products on the matrix units as well.
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True

    @property
    def device(self) -> torch.device:
        """Return where it computes."""
        return torch.device("cuda" if self.gpu else "cpu")

    def wait(self, result: Any) -> None:
        """Return when the GPU is done; on CPU it is."""
        del result
        if self.gpu:
            torch.cuda.synchronize()

    def lacks(self, compiled: bool) -> str:
        """Return what is missing here, empty if nothing is known to be."""
        if self.gpu and not torch.cuda.is_available():
            return "this torch has no GPU"
        if not compiled:
            return ""
        if self.gpu:
            return "" if importlib.util.find_spec("triton") else "no Triton"
        return "" if shutil.which("g++") or shutil.which("clang++") else "no C++ compiler"

    def step(self, config: Config, arrays: Arrays | None, batch: Arrays, compiled: bool) -> Call:
        """Return the training step: draws pairs, differentiates, updates; returns the loss.

        It lacks what ours does besides: WHDR of the pairs, norm of the gradient, leaving out steps
        that are not finite.
        """
        module = peer_network.network(config.model, arrays, self.device).train()
        optim = config.optim
        optimizer = peer_torch.optimizer(
            module,
            learning_rate=optim.learning_rate,
            encoder_scale=optim.encoder_lr_scale,
            momentum=optim.momentum,
            decay=optim.weight_decay,
        )
        image, depth, mask = (torch.tensor(batch[key], device=self.device) for key in KEYS)
        number, dtype = config.pairs.options["num_pairs"], config.model.dtype

        def objective() -> torch.Tensor:
            pairs = peer_torch.draw(mask, number)
            with peer_torch.autocast(self.device, dtype):
                score = module(image)
            return peer_torch.ranking_loss(score, depth, mask, pairs)

        function = _compile(objective) if compiled else objective

        def run() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            value = function()
            value.backward()
            optimizer.step()
            return value.detach()

        return Call(run, self.wait)

    def forward(
        self, module: torch.nn.Module, dtype: str, compiled: bool
    ) -> Callable[[np.ndarray], np.ndarray]:
        """Return images, uint8 (b, h, w, 3) -> scores, both on the host as for ours.

        The module is moved to the device.
        """
        module.eval().to(self.device)
        # Frozen: weights are constants, folded with BatchNorm and laid out ahead.
        function = _compile(module, options={"freezing": True}) if compiled else module

        def run(images: np.ndarray) -> np.ndarray:
            with torch.no_grad(), peer_torch.autocast(self.device, dtype):
                return function(torch.from_numpy(images).to(self.device)).cpu().numpy()

        return run

    def network(self, config: Config, arrays: Arrays | None) -> torch.nn.Module:
        """Return the same network; None: with weights of its own."""
        return peer_network.network(config.model, arrays, self.device)

    def loss(self, config: Config, scores: np.ndarray, batch: Arrays, compiled: bool) -> Call:
        """Return what draws pairs and gives loss and gradient by the scores."""
        leaf, depth, mask = self._scored(scores, batch)
        number = config.pairs.options["num_pairs"]

        def objective(leaf: torch.Tensor) -> torch.Tensor:
            return peer_torch.ranking_loss(leaf, depth, mask, peer_torch.draw(mask, number))

        function = _compile(objective, dynamic=False) if compiled else objective

        def run() -> tuple[torch.Tensor, ...]:
            value = function(leaf)
            return value.detach(), *torch.autograd.grad(value, leaf)

        return Call(run, self.wait)

    def loop_loss(self, scores: np.ndarray, batch: Arrays) -> Call:
        """Return loss and gradient of LOOP_PAIRS pairs by a loop over pairs; dropping none."""
        leaf, depth, mask = self._scored(scores, batch)
        # Of the first image; each backward step fills a gradient for all of them, as in training.
        pairs = peer_torch.Pairs(*(part[:1] for part in peer_torch.draw(mask, LOOP_PAIRS)))

        def run() -> tuple[torch.Tensor, ...]:
            value = peer_torch.loop_loss(leaf, depth, pairs)
            return value.detach(), *torch.autograd.grad(value, leaf)

        return Call(run, self.wait)

    def matmul(self, size: int, dtype: str) -> Call:
        """Return a product of two square matrices, for what the device reaches at most."""
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        a = torch.randn((size, size), device=self.device, dtype=kind)
        return Call(lambda: a @ a, self.wait)

    def training_state(self, config: Config) -> dict[str, Any]:
        """Return a network and momenta as `torch.save` is given them."""
        module = peer_network.network(config.model, None, self.device)
        momenta = {name: p.detach().clone() for name, p in module.named_parameters()}
        return {"model": module.state_dict(), "optimizer": momenta}

    def _scored(self, scores: np.ndarray, batch: Arrays) -> tuple[torch.Tensor, ...]:
        leaf = torch.tensor(scores, device=self.device, requires_grad=True)
        return leaf, *(torch.tensor(batch[key], device=self.device) for key in KEYS[1:])


def resize(image: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """Return uint8 (h, w, 3) at `size`: `linear` and `area` as float32, `triangle` as uint8."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    if kernel == "area":
        y = functional.interpolate(x.float(), size, mode="area")
    else:
        averaged = kernel == "triangle"
        x = x if averaged else x.float()
        y = functional.interpolate(x, size, mode="bilinear", antialias=averaged)
    return y[0].permute(1, 2, 0).numpy()


def _compile(function: Any, **options: Any) -> Any:
    if "jax" in sys.modules:
        # The compiler's worker processes are forked, which JAX's threads may not survive.
        import torch._inductor.config as inductor

        inductor.compile_threads = 1
    return torch.compile(function, **options)
