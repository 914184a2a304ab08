"""Oracles written from the papers, independent of the package under test."""
