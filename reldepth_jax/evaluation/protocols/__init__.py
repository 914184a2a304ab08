"""Evaluation as the papers did it, one file for each; found by `registry.PROTOCOLS`."""
