"""Procedural scenes, ray cast with exact depth: a scene, what a ray meets, textures, light.

Axes: the world is right-handed in metres, x and y level, z up. The camera has x right, y down and
z forward; depth is its z. Coordinates come first, `(3, n)`, and numbers are float32.
"""
