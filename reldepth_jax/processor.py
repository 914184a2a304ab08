"""What this process may use of the processor. Imports nothing that takes time."""

import os


def cores() -> int:
    """Return how many cores this process may use; where the system does not say, how many exist."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
