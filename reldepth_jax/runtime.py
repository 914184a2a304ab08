"""How the process is set up on CPU: the one place for it, with the measured reason."""

import ctypes
import sys


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
