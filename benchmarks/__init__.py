"""What `scripts/benchmark.py` measures, and the peers that it measures against.

Not part of the installed package. `timing` calls in turn and takes medians; `ours` gives this
project's calls, all through its public entries; `torch_calls` and `peer_runtimes` the same
computation elsewhere. `networks`, `pieces`, `reading` and `processes` hold the parts, `report`
tells them.
"""
