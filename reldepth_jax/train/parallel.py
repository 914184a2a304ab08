"""One training step over all local devices: the batch is split, the state is on each of them.

The loss and BatchNorm see the global batch; XLA inserts what has to be exchanged.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from reldepth_jax.errors import UserError

T = TypeVar("T")


class Devices:
    """The local devices, as many as there are."""

    def __init__(self, batch_size: int):
        """Raise UserError if the batch cannot be split evenly."""
        count = jax.local_device_count()
        if batch_size % count:
            raise UserError(
                f"data.batch_size must be a multiple of the {count} devices, got {batch_size};"
                f" nearest: {max(1, batch_size // count) * count}"
            )
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))
        self._split = NamedSharding(mesh, PartitionSpec("data"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())

    def split(self, batch: dict[str, np.ndarray]) -> Any:
        """Return the batch on the devices, each with its part of the images."""
        return jax.device_put(batch, self._split)

    def everywhere(self, state: T) -> T:
        """Return arrays, or abstract ones, as they are to be on every device."""

        def place(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._everywhere)
            return jax.device_put(leaf, self._everywhere)

        return jax.tree.map(place, state)
