"""Monocular relative depth by ranking pixel pairs, in JAX and Flax.

`reldepth_jax.conventions` states axes, units and signs once for the whole package.
"""

__version__ = "0.1.0"
