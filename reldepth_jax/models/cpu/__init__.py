"""Hand-written forms of layers for CPU, faster there than XLA's own.

`runtime.on_cpu()` is the switch: `models.layers` builds its layers from these forms where it holds,
and from Flax's own where it does not. On accelerators nothing was measured.
"""
