"""The smallest network and data that fit, so that a process trains within a second."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.layers import BatchNorm, conv
from reldepth_jax.registry import ENCODERS, SOURCES
from reldepth_jax.types import Sample, Split


class Strides(nnx.Module):
    """One convolution with BatchNorm for each tap."""

    # The last ones make arrays that get files of their own: small ones stand in Orbax's index.
    channels = (4, 4, 4, 48)

    def __init__(self, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        sizes = zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        self.convs = nnx.List(
            [conv(before, after, 3, stride=s, dtype=dtype, rngs=rngs) for before, after, s in sizes]
        )
        self.norms = nnx.List([BatchNorm(width, rngs=rngs) for width in self.channels])

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """Return the taps at strides 4, 8, 16 and 32."""
        x, taps = images, []
        for convolution, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(convolution(x)))
            taps.append(x)
        return taps


@ENCODERS.register("strides")
def strides(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> Strides:
    """Four taps."""
    return Strides(dtype=dtype, rngs=rngs)


@SOURCES.register("noise")
class Noise:
    """Images of noise whose brightness grows with depth; 20 for training, 4 otherwise."""

    pairs_per_image = 0

    def __init__(self, *, split: Split, size: tuple[int, int]):
        self._size, self._train = size, split == "train"

    def __len__(self) -> int:
        return 20 if self._train else 4

    def __getitem__(self, index: int) -> Sample:
        """Return image, depth and mask; a function of the index."""
        rng = np.random.default_rng((self._train, index))
        depth = rng.uniform(1, 9, self._size).astype(np.float32)
        image = 25 * depth[..., None] + rng.uniform(0, 20, (*self._size, 3))
        image = image.astype(np.uint8)
        return {"image": image, "depth": depth, "mask": np.ones(self._size, np.bool_)}
