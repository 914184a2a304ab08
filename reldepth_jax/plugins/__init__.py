"""Plug-ins from outside the package: files of the folders that RELDEPTH_PLUGINS names.

The environment variable lists folders, separated as in PATH. A file `mine.py` in one of them is
`reldepth_jax.plugins.mine` here and in every process that this one starts.
"""

import os

__path__ = [folder for folder in os.environ.get("RELDEPTH_PLUGINS", "").split(os.pathsep) if folder]
