"""Set-up for all tests: run from the repository's root, compile everything once."""

import os
import pathlib
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).parent.parent


SLOW = (
    "benchmarks", "kills", "parity", "training", "data/prepared", "models/cpu", "test_plugins.py",
    "test_runtime.py", "cli/test_commands.py", "cli/test_wheel.py", "data/test_pipeline.py",
    "evaluation/test_ablation.py", "run_dir/test_checkpoints.py",
)  # fmt: skip
"""Folders and files whose tests train, kill or build, or compile large networks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `pytest -m "not slow"` leaves out."""
    slow = [ROOT / "tests" / name for name in SLOW]
    for item in items:
        if any(item.path.is_relative_to(path) for path in slow):
            item.add_marker("slow")


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


@pytest.fixture
def plugin_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a folder; `registry.extend` may add what is written there for the time of a test."""
    from reldepth_jax import plugins, registry

    monkeypatch.setenv("RELDEPTH_PLUGINS", os.pathsep.join(plugins.__path__))
    monkeypatch.setattr(plugins, "__path__", list(plugins.__path__))
    for kind in vars(registry).values():
        if isinstance(kind, registry.Registry):
            for name in ("entries", "_made", "_extras"):
                monkeypatch.setattr(kind, name, dict(getattr(kind, name)))
    for name in [name for name in sys.modules if name.startswith("reldepth_jax.plugins.")]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "plugins"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield
