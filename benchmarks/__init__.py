"""The comparison of `reldepth benchmark --against torch`: its parts, and what it compares with.

Not part of the installed package. `reldepth_jax.cli.timing` times calls in turn; `ours` gives this
project's calls, through the entries of training and prediction; `torch_calls` and `peer_runtimes`
the same computation elsewhere. `networks`, `transformers`, `pieces`, `preparing`, `reading`,
`processes` and `kernels` hold the parts; `report` prints them.
"""
