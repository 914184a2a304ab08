"""The devices of a run: the batch is sharded over them, the state is on each.

The loss and BatchNorm see the global batch; XLA inserts what has to be exchanged.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from reldepth_jax.errors import UserError
from reldepth_jax.training.distributed.processes import several

T = TypeVar("T")


class Devices:
    """The devices of all processes, as many as there are."""

    def __init__(self, batch_size: int, parts: int = 1):
        """Raise UserError if the batch, taken in so many parts, cannot be divided evenly."""
        count = jax.process_count() * jax.local_device_count()
        if batch_size % (count * parts):
            what = f"{count} devices" + (f" times train.accumulate={parts}" if parts > 1 else "")
            raise UserError(
                f"data.batch_size must be a multiple of the {what}, got {batch_size}; nearest:"
                f" {max(1, batch_size // (count * parts)) * count * parts}"
            )
        # Process by process: each has its slots of the batch.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self.replicated = NamedSharding(mesh, PartitionSpec())

    def shard(self, batch: dict[str, np.ndarray]) -> Any:
        """Return the global batch on the devices, each with its part of the images.

        `batch` is this process's share: slots b p / n to b (p + 1) / n in process p of n.
        """
        if not several():
            return jax.device_put(batch, self._sharding)
        return {
            name: jax.make_array_from_process_local_data(self._sharding, values)
            for name, values in batch.items()
        }

    def replicate(self, state: T) -> T:
        """Return the arrays, whole on every device."""
        if not several():
            return jax.device_put(state, self.replicated)

        def place(leaf: Any) -> Any:
            values = np.asarray(leaf)
            return jax.make_array_from_callback(values.shape, self.replicated, lambda _: values)

        return jax.tree.map(place, state)

    def first_device(self, state: T) -> T:
        """Return arrays, or abstract ones, for what this process computes without the others.

        In a run of one process they are on all of its devices, as `replicate` leaves them.
        """
        sharding = SingleDeviceSharding(jax.local_devices()[0]) if several() else self.replicated

        def place(leaf: Any) -> Any:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            return leaf.addressable_data(0) if several() else leaf

        return jax.tree.map(place, state)
