"""Which machine and which versions were measured."""

import importlib.metadata
import os
import pathlib
import platform
import re

from reldepth_jax import processor

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "grain", "torch", "onnxruntime", "openvino")


def facts() -> dict[str, str]:
    """Return machine, load and versions; what cannot be found out is left out."""
    cpu = _first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.processor()
    memory = _first(r"MemTotal:\s*(\d+)", "/proc/meminfo")
    found = {
        "cpu": cpu or platform.machine(),
        "cores": str(processor.cores()),
        "memory": f"{int(memory) / 2**20:.0f} GiB" if memory else "",
        "load": f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "",
        "system": f"{platform.system()} {platform.machine()}",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
    return {name: value for name, value in found.items() if value}


def version(package: str) -> str:
    """Return the installed version, empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _first(pattern: str, path: str) -> str:
    try:
        match = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[1].strip() if match else ""
