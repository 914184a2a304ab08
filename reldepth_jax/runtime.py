"""How the process is set up for its device, with the measured reasons."""

import contextlib
import contextvars
import ctypes
import functools
import os
import pathlib
import platform
import sys
import tempfile
from collections.abc import Iterator
from typing import TypeVar

import jax
from jax import monitoring

from reldepth_jax.errors import printable

T = TypeVar("T")


_elsewhere = contextvars.ContextVar("elsewhere", default=False)


def on_cpu() -> bool:
    """Return whether this process computes on CPU: the switch of all that is done for CPU alone."""
    return not _elsewhere.get() and jax.default_backend() == "cpu"


@contextlib.contextmanager
def for_any_device() -> Iterator[None]:
    """Let `on_cpu` be false: what is built and traced here is computed elsewhere."""
    before = _elsewhere.set(True)
    try:
        yield
    finally:
        _elsewhere.reset(before)


_EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Matrix products and convolutions by Eigen instead of YNN, XLA's newer default."""


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """Return the `compiler_options` of `jax.jit` for training and fast prediction on CPU.

    None on other devices, and if this XLA does not know them. CPU time: the training step of
    ResNet-50, 256x256, batch 4, takes 0.73 times as long on one core, 0.78 on two; its 3x3
    convolutions forward and to their inputs are 1.1 times slower, to their kernels 2.4 times
    faster.
    """
    if not on_cpu():
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_EIGEN).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _EIGEN


_keeping = False
"""Whether this process may keep what it compiles: a program that uses this package decides."""


def cache_folder() -> pathlib.Path | None:
    """Return where what can be had again is kept: RELDEPTH_CACHE, or the user's cache.

    That is XDG_CACHE_HOME/reldepth_jax, by default ~/.cache/reldepth_jax, on every system. None if
    there is no home directory.
    """
    own = os.environ.get("RELDEPTH_CACHE")
    if own:
        return pathlib.Path(own).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    if cache.startswith("~") and os.environ.get("HOME") == "":
        return None  # it would be /.cache
    folder = pathlib.Path(os.path.expanduser(cache), "reldepth_jax")
    # Without a home directory "~" stays as it is.
    return folder if folder.is_absolute() else None


def keep_compiled() -> None:
    """Keep what XLA compiles for the next process, in `JAX_COMPILATION_CACHE_DIR` if that is set.

    By default it is kept in the user's cache, by host, since CPUs differ; nowhere if that cannot be
    written. The training step of ResNet-50 compiles in 20 s on two cores and is read in five.

    Everything is kept, not only what takes a second to compile, which is JAX's default: the second
    start of `configs/smoke.py` takes 11 s instead of 19, with 1.5 MB of cache.
    """
    global _keeping
    _keeping = True
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    given = jax.config.values["jax_compilation_cache_dir"]
    if given and "://" not in given:
        try:
            os.makedirs(given, exist_ok=True)
            with tempfile.TemporaryFile(dir=given):
                pass
        except OSError as error:
            # JAX would warn of each program that it compiles.
            line = f"compiled programs are not kept: {given} cannot be written to: {error.strerror}"
            print(printable(line), file=sys.stderr)
            jax.config.update("jax_compilation_cache_dir", None)
    if given:
        return
    cache = cache_folder()
    if cache is None:
        return
    folder = cache / (platform.node() or "host")
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def kept_folder() -> pathlib.Path | None:
    """Return where whole programs are kept (`reldepth_jax.kept`); None before `keep_compiled`.

    None too where nothing is kept, or not on this machine's disks.
    """
    folder = jax.config.values["jax_compilation_cache_dir"] if _keeping else None
    return pathlib.Path(folder, "reldepth_jax") if folder and "://" not in folder else None


def set_up() -> None:
    """Make computations on CPU faster; call it before JAX has computed anything.

    With glibc's allocator (Linux), freed memory is kept; otherwise every step and every prediction
    returns its activations to the system and faults them in again. Only the allocator's main arena
    can keep large arrays, and the threads of XLA have other arenas, so computations run in the
    calling thread, provided that their arguments are there (`ready`).

    Measured on two cores, processes in turn: training with `configs/ranking.py` 57 images/s
    instead of 46; the training step of ResNet-50, 256x256, batch 4, 2.1 s instead of 2.7; a fast
    prediction of 384x384 0.18 s instead of 0.22.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not sys.platform.startswith("linux"):
        return
    _listen()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)


@functools.cache
def _listen() -> None:
    """Return what the compiler has freed to the system: programs do not use its threads' arenas."""

    def compiled(event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > 1:
            give_back()

    monitoring.register_event_duration_secs_listener(compiled)


def give_back() -> None:
    """Return freed memory to the system, which after `set_up` would be kept; Linux with glibc."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def ready(arrays: T) -> T:
    """Return the arrays; on CPU wait until they are computed.

    What is computed from arrays that are still pending does not run in the calling thread, which
    `set_up` needs.
    """
    return jax.block_until_ready(arrays) if on_cpu() else arrays
