"""Draws from the valid pixels of a mask, with static shapes: no list of them is ever made.

Masks are packed into bits, 32 pixels in a word, so that only every 32nd pixel needs a running
count. On one CPU core 6000 draws from each of 8 images of 384x384 take 1.4 ms, against 3.4 ms with
a count at every pixel (jax 0.10). Axes: b images, p pixels, n draws, w words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt32

from reldepth_jax.errors import UserError

_BITS = 32
_MOST = 10**8
"""Pairs an image: more do not fit into any memory."""


class PackedMask(NamedTuple):
    """The masks of a batch as bits."""

    words: UInt32[Array, "b w"]
    """Bit i of word j is pixel 32 j + i."""
    cumulative: Int[Array, "b w"]
    """How many pixels are valid up to the end of each word."""

    @property
    def total(self) -> Int[Array, "b 1"]:
        """How many pixels are valid."""
        return self.cumulative[:, -1:]


def pack_mask(mask: Bool[Array, "b p"]) -> PackedMask:
    """Return the mask as bits."""
    bits = jnp.pad(mask, ((0, 0), (0, -mask.shape[1] % _BITS))).reshape(len(mask), -1, _BITS)
    powers = jnp.uint32(1) << jnp.arange(_BITS, dtype=jnp.uint32)
    words = jnp.sum(jnp.where(bits, powers.reshape(1, 1, -1), 0), axis=-1, dtype=jnp.uint32)
    return PackedMask(words, jnp.cumsum(_population(words), axis=1))


def nth_valid_pixel(mask: PackedMask, rank: Int[Array, "b n"], pixels: int) -> Int[Array, "b n"]:
    """Return the index, out of so many pixels, of the valid one of this rank, counted from 0.

    A rank that is too large gives the last pixel.
    """
    word = jax.vmap(lambda ends, rank: jnp.searchsorted(ends, rank + 1))(mask.cumulative, rank)
    word = jnp.minimum(word, mask.cumulative.shape[1] - 1)
    bits = jnp.take_along_axis(mask.words, word, axis=1)
    rest = rank - jnp.take_along_axis(mask.cumulative, word, axis=1) + _population(bits)

    def halve(step: Array, held: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        pixel, rest, bits = held
        half = jnp.uint32(_BITS // 2) >> step
        lower = _population(bits & ((jnp.uint32(1) << half) - 1))
        beyond = rest >= lower
        return (
            pixel + jnp.where(beyond, half, 0).astype(pixel.dtype),
            rest - jnp.where(beyond, lower, 0),
            jnp.where(beyond, bits >> half, bits),
        )

    # A loop: XLA would repeat unrolled code wherever the pixels are read. The loss with its
    # gradient takes 0.74 times as long on one core, 0.95 on two.
    steps = jnp.uint32(_BITS.bit_length() - 1)
    pixel, _, _ = jax.lax.fori_loop(jnp.uint32(0), steps, halve, (word * _BITS, rest, bits))
    return jnp.minimum(pixel, pixels - 1)


def draw_pixels(
    key: Key[Array, ""], mask: Bool[Array, "b p"], number: int
) -> tuple[Int[Array, "b {number}"], Bool[Array, "b 1"]]:
    """Return valid pixels of each image, drawn with replacement, all equally likely.

    The second value says which images have a valid pixel; in others any pixel is returned.
    """
    packed = pack_mask(mask)
    shape = (mask.shape[0], number)
    rank = jax.random.randint(key, shape, 0, jnp.maximum(packed.total, 1))
    return nth_valid_pixel(packed, rank, mask.shape[1]), packed.total > 0


def _population(words: UInt32[Array, "b m"]) -> Int[Array, "b m"]:
    return jax.lax.population_count(words).astype(jnp.int32)


def require_number(pairs: int, of: str = "") -> None:
    """Raise UserError unless so many pairs an image can be drawn; `of` names their sampler."""
    if not 1 <= pairs <= _MOST:
        raise UserError(f"pairs.num_pairs{of and ' of '}{of} must be from 1 to 10**8, got {pairs}")
