"""Draws from the pixels that a mask marks, with static shapes: no list of them is ever made.

Marks are kept as bits, 32 pixels in a word, so that only every 32nd pixel needs a running count.
On one CPU core 6000 draws from each of 8 images of 384x384 took 1.4 ms, against 3.4 ms with a count
at every pixel (jax 0.10). Axes: b images, p pixels, n draws, w words.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, UInt32

_BITS = 32


class Marked(NamedTuple):
    """Marked pixels of each image."""

    words: UInt32[Array, "b w"]
    """Bit i of word j is pixel 32 j + i."""
    ends: Int[Array, "b w"]
    """How many pixels are marked up to the end of each word."""

    @property
    def total(self) -> Int[Array, "b 1"]:
        """How many pixels are marked."""
        return self.ends[:, -1:]


def mark(among: Bool[Array, "b p"]) -> Marked:
    """Return the marks of a mask."""
    bits = jnp.pad(among, ((0, 0), (0, -among.shape[1] % _BITS))).reshape(len(among), -1, _BITS)
    powers = jnp.uint32(1) << jnp.arange(_BITS, dtype=jnp.uint32)
    words = jnp.sum(jnp.where(bits, powers.reshape(1, 1, -1), 0), axis=-1, dtype=jnp.uint32)
    return Marked(words, jnp.cumsum(_count(words), axis=1))


def nth(marked: Marked, rank: Int[Array, "b n"], pixels: int) -> Int[Array, "b n"]:
    """Return which of so many pixels is the marked one of this rank, from 0.

    A rank that is too large gives the last pixel.
    """
    word = jax.vmap(lambda ends, rank: jnp.searchsorted(ends, rank + 1))(marked.ends, rank)
    word = jnp.minimum(word, marked.ends.shape[1] - 1)
    bits = jnp.take_along_axis(marked.words, word, axis=1)
    rest = rank - jnp.take_along_axis(marked.ends, word, axis=1) + _count(bits)

    def halve(step: Array, held: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        pixel, rest, bits = held
        half = jnp.uint32(_BITS // 2) >> step
        lower = _count(bits & ((jnp.uint32(1) << half) - 1))
        beyond = rest >= lower
        return (
            pixel + jnp.where(beyond, half, 0).astype(pixel.dtype),
            rest - jnp.where(beyond, lower, 0),
            jnp.where(beyond, bits >> half, bits),
        )

    # A loop, because XLA computes what is written out again wherever the pixels are read: the loss
    # with its gradient takes 0.74 times as long on one core, 0.95 on two.
    steps = jnp.uint32(_BITS.bit_length() - 1)
    pixel, _, _ = jax.lax.fori_loop(jnp.uint32(0), steps, halve, (word * _BITS, rest, bits))
    return jnp.minimum(pixel, pixels - 1)


def choose(
    key: Key[Array, ""], among: Bool[Array, "b p"], number: int
) -> tuple[Int[Array, "b {number}"], Bool[Array, "b 1"]]:
    """Return pixels of each image, drawn with replacement, each marked one equally likely.

    The second value says which images have a marked pixel; in others any pixel is returned.
    """
    marked = mark(among)
    shape = (among.shape[0], number)
    rank = jax.random.randint(key, shape, 0, jnp.maximum(marked.total, 1))
    return nth(marked, rank, among.shape[1]), marked.total > 0


def _count(words: UInt32[Array, "b m"]) -> Int[Array, "b m"]:
    return jax.lax.population_count(words).astype(jnp.int32)
