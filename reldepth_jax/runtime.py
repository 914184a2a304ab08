"""How the process is set up on CPU: the one place for it, with the measured reason."""

import ctypes
import functools
import os
import platform
import sys

import jax

_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Matrix products and convolutions by Eigen, not by YNN, which XLA has put before it."""


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Return the `compiler_options` of `jax.jit` for training and fast prediction on CPU.

    None on other devices, and where XLA does not know them. Measured on two cores, CPU time: the
    training step of ResNet-50, 256x256, batch 4, takes 0.77 times as long; its 3x3 convolutions
    forward and to their inputs are 1.1 times slower, to their kernels 2.4 times faster.
    """
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_EIGEN).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _EIGEN


def keep_compiled() -> None:
    """Keep what XLA compiles for the next process, in `JAX_COMPILATION_CACHE_DIR` if that is set.

    Else in the user's cache, by host, since CPUs differ; nowhere if that cannot be written. The
    training step of ResNet-50 compiles in a minute on two cores and is read in seconds.
    """
    if jax.config.values["jax_compilation_cache_dir"]:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    folder = os.path.join(os.path.expanduser(cache), "reldepth_jax", platform.node() or "host")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", folder)


def keep_memory() -> None:
    """Tell glibc's allocator to keep freed memory and to share one arena.

    Without it every training step on CPU returns its activations to the system and faults them in
    again: about a tenth of the step of `configs/ranking.py`. Elsewhere than on Linux with glibc
    nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**30)
        mallopt(arena_max, 1)
