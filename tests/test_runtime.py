"""What programs set on CPU: memory that a computation needed is there for the next one."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest
from jax import monitoring

from reldepth_jax import runtime

PROGRAM = """
import resource, sys
import numpy as np
from reldepth_jax import runtime
if sys.argv[1] == "set_up":
    runtime.set_up()
import jax
import jax.numpy as jnp

function = jax.jit(lambda x: jnp.sort(jnp.sort(x, axis=1) @ x, axis=1).sum())
matrix = np.random.default_rng(0).normal(size=(2500, 2500)).astype(np.float32)
faults = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function(runtime.ready(jax.device_put(matrix))).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
# The fewest: the system may take pages back between two calls.
print(min(faults[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another allocator")
def test_pages_are_not_faulted_in_again():
    def pages(how: str) -> int:
        run = [sys.executable, "-c", PROGRAM, how]
        return int(subprocess.run(run, capture_output=True, text=True, check=True).stdout)

    # An array of them has 6,100 pages; without it every call takes three anew.
    assert pages("set_up") < 3000 < pages("as it comes")


def test_what_a_long_compilation_freed_is_given_back(monkeypatch: pytest.MonkeyPatch):
    given_back: list[str] = []
    monkeypatch.setattr(runtime, "give_back", lambda: given_back.append("it"))
    runtime._listen()
    told: list[str] = []
    monitoring.register_event_duration_secs_listener(lambda event, *_, **__: told.append(event))
    jax.jit(lambda x: x + 1)(1.0)
    (event,) = {each for each in told if "backend_compile" in each}
    assert given_back == []
    monitoring.record_event_duration_secs(event, 2.0)
    assert given_back == ["it"]


CACHE = "jax_compilation_cache_dir"


@pytest.fixture
def cache() -> Iterator[None]:
    """Put JAX's cache back after a test that changes it."""
    before = jax.config.values[CACHE]
    yield
    jax.config.update(CACHE, before)


@pytest.mark.usefixtures("cache")
def test_without_a_home_directory_nothing_is_kept(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    # A user whom the system does not know: "~" stays as it is.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    jax.config.update(CACHE, None)
    runtime.keep_compiled()
    assert jax.config.values[CACHE] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_to_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], folder: str
):
    (tmp_path / "file").touch()
    given = str(tmp_path / folder)
    jax.config.update(CACHE, given)
    runtime.keep_compiled()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compiled programs are not kept: {given} cannot be written to: ")
    assert jax.config.values[CACHE] is None


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("home", ["file", "nowhere/below", ""])
def test_a_home_that_cannot_be_written_to_keeps_nothing_and_says_nothing(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: str,
):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to("/proc/self/nowhere")
    monkeypatch.chdir(tmp_path)
    for name in ("RELDEPTH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / home) if home else "")
    jax.config.update(CACHE, None)
    runtime.keep_compiled()
    assert jax.config.values[CACHE] is None
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]
