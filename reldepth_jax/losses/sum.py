"""Weighted sum of losses; the default is the total loss of MiDaS.

Source: Ranftl et al. (MiDaS), TPAMI 2020, Eq. (12): `ssi_trimmed` + 0.5 `gradient_matching`.
Axes, units and sign: those of its terms. Invariant to whatever all of its terms are invariant to.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.config import Choice
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Loss, Pairs


@LOSSES.register("sum")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """sum_k weights[k] * terms[k], all on the same scores, ground truth and pairs."""

    terms: tuple[Choice, ...] = (Choice("ssi_trimmed"), Choice("gradient_matching"))
    """Losses. On the command line `loss.terms=mae,ranking`, `loss.terms.1.drop_easiest=0`."""
    weights: tuple[float, ...] = (1.0, 0.5)
    """At least 0, one for each."""

    def __post_init__(self):
        if len(self.weights) != len(self.terms) or not self.terms:
            names = ", ".join(term.name for term in self.terms)
            raise UserError(
                f"loss.weights: {len(self.weights)} weights for {len(self.terms)} terms; give one"
                f" for each of {names or 'at least one loss'}"
            )
        if min(self.weights) < 0:
            raise UserError(f"loss.weights must be at least 0, got {min(self.weights)}")
        _ = self._losses

    @property
    def compares(self) -> tuple[Compares, ...]:
        """What its terms compare."""
        return tuple(dict.fromkeys(each for loss in self._losses for each in _of(loss)))

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of a batch that one of its terms needs."""
        return tuple(need for loss in self._losses for need in getattr(loss, "needs", ()))

    @functools.cached_property
    def _losses(self) -> tuple[Loss, ...]:
        losses = []
        for position, term in enumerate(self.terms):
            try:
                losses.append(LOSSES.create(term.name, **term.options))
            except UserError as error:
                where = f"loss.terms.{position}."
                raise UserError(where + str(error).removeprefix("loss.")) from None
        return tuple(losses)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol."""
        total = jnp.zeros(())
        for weight, loss in zip(self.weights, self._losses, strict=True):
            total += weight * loss(score, batch, pairs)
        return total


def _of(loss: Loss) -> tuple[Compares, ...]:
    return getattr(loss, "compares", ())
