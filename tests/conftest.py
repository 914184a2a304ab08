"""Set-up for all tests: run from the repository's root, compile everything once."""

import os
import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="session")
def _at_the_root(tmp_path_factory: pytest.TempPathFactory):
    os.chdir(ROOT)
    # Configurations of tests import from there, also in the scripts that run as subprocesses.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    # Shared between tests and with scripts that run as subprocesses; if set, between sessions too.
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.mktemp("xla"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@pytest.fixture(scope="module")
def strides_encoder():
    """Let configurations name the encoder of the smallest network, of `tests/kills/plugins.py`."""
    from reldepth_jax.registry import ENCODERS, Entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS.entries, "strides", Entry("tests.kills.plugins", {}))
        yield


@pytest.fixture(autouse=True)
def _no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield
