"""What the bits of results depend on beside the configuration: versions, devices, cores."""

from collections.abc import Mapping
from typing import Any

import jax
import jaxlib.version

from reldepth_jax import processor


def numerics() -> dict[str, str]:
    """Return what the bits of results depend on beside the configuration."""
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "floats": "64 bits" if jax.config.values["jax_enable_x64"] else "32 bits",
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}" + processes,
        "cores": str(processor.cores()),
    }


def numerics_changed(facts: Mapping[str, Any]) -> str:
    """Return how this process differs from the one that saved, empty if it does not."""
    return ", ".join(
        f"{name} {facts[name]} -> {value}"
        for name, value in numerics().items()
        if name in facts and facts[name] != value
    )
