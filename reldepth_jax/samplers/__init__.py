"""Pair samplers, one file each; found by `registry.PAIR_SAMPLERS`."""
