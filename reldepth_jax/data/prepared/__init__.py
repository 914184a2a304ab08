"""Prepared shards: the samples of a data set in a few large files."""
