"""Losses, one file each; found by `registry.LOSSES`."""
