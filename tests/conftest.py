"""Set-up for all tests: run from the repository's root, compile everything once."""

import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator

import jax
import pytest
import torch

from reldepth_jax import registry

ROOT = pathlib.Path(__file__).parent.parent


SLOW = (
    "benchmarks", "kills", "parity", "training", "data/prepared", "models/cpu", "test_plugins.py",
    "test_runtime.py", "cli/test_commands.py", "cli/test_wheel.py", "data/test_pipeline.py",
    "evaluation/test_ablation.py", "run_dir/test_checkpoints.py",
)  # fmt: skip
"""Folders and files whose tests train, kill or build, or compile large networks."""


_CACHE = "JAX_COMPILATION_CACHE_DIR"

# Most of the tests' time is compiling: gradients of a network with ResNet-18 compile in half of the
# time so, and take four times as long to run. The arithmetic is the same but for rounding.
# `XLA_FLAGS= pytest` compiles as users do. With --xla_cpu_use_fusion_emitters=false as well, it
# would be an eighth, but XLA (jaxlib 0.10.2) then computes wrong gradients of pooling.
_QUICKLY_COMPILED = "--xla_backend_optimization_level=0"


def pytest_configure(config: pytest.Config) -> None:
    """Choose how programs are compiled and where they are kept, here and in subprocesses.

    If the variables are set, they decide; compiled programs are shared between sessions then.
    """
    os.environ.setdefault("XLA_FLAGS", _QUICKLY_COMPILED)
    if _CACHE not in os.environ:
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="xla-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(_CACHE)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `pytest -m "not slow"` leaves out."""
    slow = [ROOT / "tests" / name for name in SLOW]
    for item in items:
        if any(item.path.is_relative_to(path) for path in slow):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="session")
def _at_the_root() -> None:
    os.chdir(ROOT)
    # Configurations of tests import from there, also in the scripts that run as subprocesses.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    )
    jax.config.update("jax_compilation_cache_dir", os.environ[_CACHE])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    # torch's threads wait by spinning: on few cores they would take turns with JAX's.
    torch.set_num_threads(1)


def _registries() -> list[registry.Registry]:
    return [kind for kind in vars(registry).values() if isinstance(kind, registry.Registry)]


@pytest.fixture(autouse=True, scope="module")
def _registries_as_before() -> Iterator[None]:
    """Let no module find what the configurations of another have registered."""
    before = [dict(kind.entries) for kind in _registries()]
    yield
    for kind, entries in zip(_registries(), before, strict=True):
        kind.entries.clear()
        kind.entries.update(entries)


@pytest.fixture(scope="module")
def strides_encoder(_registries_as_before: None) -> None:
    """Let configurations name the encoder of the smallest network, of `tests/kills/plugins.py`."""
    registry.ENCODERS.entries["strides"] = registry.Entry("tests.kills.plugins", {})


@pytest.fixture
def plugin_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return a folder; `registry.extend` may add what is written there for the time of a test."""
    from reldepth_jax import plugins

    monkeypatch.setenv("RELDEPTH_PLUGINS", os.pathsep.join(plugins.__path__))
    monkeypatch.setattr(plugins, "__path__", list(plugins.__path__))
    for kind in _registries():
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


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what `parity` recorded, and keep it as JSON in pytest's cache, under `parity`."""
    rows = [
        value
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == "parity"
    ]
    if not rows:
        return
    width = max(len(case) for case, _, _ in rows)
    terminalreporter.section("parity with torch: max error / scale")
    for case, error, tolerance in rows:
        terminalreporter.write_line(f"{case:<{width}}  {error:.1e}  (tolerance {tolerance:.0e})")
    cache = getattr(config, "cache", None)  # absent with `-p no:cacheprovider`
    if cache is not None:
        keys = ("case", "error", "tolerance")
        cache.set("parity", [dict(zip(keys, row, strict=True)) for row in rows])
