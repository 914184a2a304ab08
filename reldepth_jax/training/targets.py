"""Whether a loss can learn from what the sources know, and how often a batch has nothing to learn.

A source states what its depth is (`types.DepthIs`), a loss what it compares (`types.Compares`).
"""

from collections.abc import Collection, Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.errors import UserError
from reldepth_jax.ops.degenerate import is_degenerate
from reldepth_jax.ops.normalise import normalise_depth, relative_disparity
from reldepth_jax.types import Batch, Compares, DepthIs, Loss, Source

_FITS: Mapping[DepthIs, Collection[Compares]] = {
    "depth": ("relations", "order", "values", "inverse depth"),
    "disparity": ("relations", "order", "inverse depth"),
    "relative": ("relations", "order", "values"),
    "ordinal": ("relations", "order"),
    "pairs": ("relations",),
}
_MEANS: Mapping[DepthIs, str] = {
    "depth": "depth",
    "disparity": "inverse depth up to scale and shift, whose reciprocal has no scale",
    "relative": "values that grow with depth on a scale of their own, whose inverse means nothing",
    "ordinal": "an order alone, whose values mean nothing",
    "pairs": "annotated pairs alone, no depth",
}
_NEARLY = 1e-3
"""Of the range of a normalised target: what lies closer together is one value."""


def compared(loss: Loss) -> Collection[Compares]:
    """Return what a loss compares; a loss that does not say so is taken to fit everything."""
    return getattr(loss, "compares", ())


def require_fit(name: str, loss: Loss, sources: Sequence[Source]) -> None:
    """Raise UserError if a source does not know what the loss compares.

    Annotated pairs may stand beside depth maps: there it is enough if a term of the loss uses them.

    Args:
      name: of the loss.
      sources: `data.source`, then those of `data.mix`.
    """
    compares = compared(loss)
    for number, source in enumerate(sources):
        kind: DepthIs = getattr(source, "depth_is", "depth")
        missing = [each for each in compares if each not in _FITS[kind]]
        if not missing or (kind == "pairs" and "relations" in compares):
            continue
        path = f"data.mix.{number - 1}.source" if number else "data.source"
        hint = getattr(source, "depth_hint", "")
        raise UserError(
            f"loss.name={name} compares {' and '.join(missing)}, but {path} has {_MEANS[kind]};"
            f" {f'set {path}.{hint}, ' if hint else ''}take loss.name=ranking"
            f"{', or loss.normalisation=minmax' if kind == 'relative' and name in _CHOOSE else ''}"
        )


_CHOOSE = ("mae", "mse")


def degenerate(loss: Loss, batch: Batch) -> Float[Array, ""]:
    """Return the share of the images that give a loss one value at nearly all valid pixels.

    By what the loss compares: inverse depth relative to the nearest pixel, or depth scaled from 0
    to 1, within a thousandth of that range; else depth itself, exactly.
    """
    depth, mask = batch["depth"], batch["mask"]
    compares = compared(loss)
    if "inverse depth" in compares:
        found = is_degenerate(relative_disparity(depth, mask), mask, _NEARLY)
    elif "values" in compares:
        found = is_degenerate(normalise_depth(depth, mask, "minmax"), mask, _NEARLY)
    else:
        found = is_degenerate(depth, mask)
    return jnp.mean(found.astype(jnp.float32))
