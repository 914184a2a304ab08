"""Killing real training processes: what is trained, the harness, and the campaign of kills."""
