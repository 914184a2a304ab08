"""Data sources, one file each; found by `registry.SOURCES`."""
