"""Set-up for all tests: run from the repository's root, compile once across processes."""

import os
import pathlib

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="session")
def _at_the_root(tmp_path_factory: pytest.TempPathFactory):
    os.chdir(ROOT)
    # Scripts run as subprocesses share what one of them has compiled.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("xla"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1"


@pytest.fixture(autouse=True)
def _no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield
