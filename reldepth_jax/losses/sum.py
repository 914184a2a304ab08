"""Weighted sum of losses; the default is the total loss of MiDaS.

Source: Ranftl et al. (MiDaS), TPAMI 2020, Eq. (12): `ssi_trimmed` + 0.5 `gradient_matching`.
Axes, units and sign: those of its parts. Invariant to what all of its parts are.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.config import Choice, Config, override, validate
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Loss, Pairs


@LOSSES.register("sum")
@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """sum_k weights[k] * losses[k], all on the same scores, ground truth and pairs."""

    losses: tuple[str, ...] = ("ssi_trimmed", "gradient_matching")
    """Names of losses. Options that differ from the defaults follow after colons, as in
    "gradient_matching:scales=2:alignment=least_squares"."""
    weights: tuple[float, ...] = (1.0, 0.5)
    """At least 0, one for each."""

    def __post_init__(self):
        if len(self.weights) != len(self.losses) or not self.losses:
            raise UserError(
                f"loss.weights: {len(self.weights)} weights for {len(self.losses)} losses; give one"
                f" for each of {', '.join(self.losses) or 'at least one loss'}"
            )
        if min(self.weights) < 0:
            raise UserError(f"loss.weights must be at least 0, got {min(self.weights)}")
        _ = self._parts

    @functools.cached_property
    def _parts(self) -> tuple[Loss, ...]:
        return tuple(_make(text) for text in self.losses)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol."""
        total = jnp.zeros(())
        for weight, part in zip(self.weights, self._parts, strict=True):
            total += weight * part(score, batch, pairs)
        return total


def _make(text: str) -> Loss:
    """Return the loss written as `name:option=value:…`; UserError for a mistake in it."""
    name, *settings = (part.strip() for part in text.split(":"))
    try:
        if name == "sum":
            raise UserError("a sum cannot stand in a sum; name its losses here")
        for setting in settings:
            if "=" not in setting:
                raise UserError(f"{setting!r} is no option; write {name}:option=value")
        options = dict(setting.split("=", 1) for setting in settings)
        # As if it were a configuration's loss: the same checks, and the same words for a mistake.
        config = override(
            Config(loss=Choice("ranking")),
            {"loss.name": name, **{f"loss.{option}": value for option, value in options.items()}},
        )
        validate(config)
        return LOSSES.create(config.loss.name, **config.loss.options)
    except UserError as error:
        raise UserError(f"loss.losses: {text!r}: {error}") from None
