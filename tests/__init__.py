"""Tests; a package, so that the references are importable from every folder."""
