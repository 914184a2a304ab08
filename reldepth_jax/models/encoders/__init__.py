"""Encoders, one file a family; found by `registry.ENCODERS`."""
