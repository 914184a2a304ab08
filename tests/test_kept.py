"""What is kept for the next process is used there, and never makes anything wrong."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reldepth_jax import kept, runtime

X = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)
EXPECTED, EXPECTED_OF_5 = (np.tanh(x @ x.T).sum(1) - 3 for x in (X, X[:5]))
CACHE = "jax_compilation_cache_dir"


class Maker:
    """Makes the function of `EXPECTED`, and counts how often."""

    def __init__(self):
        self.made = 0

    def __call__(self) -> tuple[Callable[..., jax.Array], dict[str, str] | None]:
        self.made += 1

        def function(values: dict[str, jax.Array], x: jax.Array) -> jax.Array:
            return jnp.sort(jnp.tanh(x @ x.T), axis=1).sum(1) + values["bias"]

        return function, runtime.compiler_options()


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """Return the folder in which programs are kept during a test."""
    before = jax.config.values[CACHE]
    monkeypatch.setattr(runtime, "_keeping", True)
    jax.config.update(CACHE, str(tmp_path))
    folder = runtime.kept_folder()
    assert folder is not None
    yield folder
    jax.config.update(CACHE, before)


def run(make: Maker, what: str = "test", x: np.ndarray = X) -> np.ndarray:
    """Return the output as a new process would find it."""
    jax.clear_caches()
    programs = kept.programs(what, make)
    assert programs is not None
    arguments = ({"bias": jnp.full(1, -3.0)}, x)
    program = programs(*arguments)
    first = np.asarray(program(*arguments))
    np.testing.assert_array_equal(np.asarray(program(*arguments)), first)
    return first


def test_the_second_process_makes_nothing(folder: pathlib.Path):
    make = Maker()
    first = run(make)
    np.testing.assert_allclose(first, EXPECTED, rtol=1e-5, atol=1e-5)
    assert len(list(folder.iterdir())) == make.made == 1
    np.testing.assert_array_equal(run(make), first)
    assert make.made == 1
    # Other shapes are another program, and so is another function.
    np.testing.assert_allclose(run(make, x=X[:5]), EXPECTED_OF_5, rtol=1e-5, atol=1e-5)
    run(make, "another")
    assert make.made == 3


def test_options_reach_the_compiler(folder: pathlib.Path):
    programs = kept.programs("test", lambda: (jnp.sum, {"no_such_option": "1"}))
    assert programs is not None
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        programs(X)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:],
        lambda data: b"\0" * len(data),
    ],
    ids=["empty", "short", "a bit", "zeros"],
)
def test_a_damaged_file_is_made_again(folder: pathlib.Path, damage: Callable[[bytes], bytes]):
    make = Maker()
    first = run(make)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    np.testing.assert_array_equal(run(make), first)
    assert make.made == 2
    run(make)
    assert make.made == 2


def test_a_file_of_another_program_is_not_run(folder: pathlib.Path):
    make = Maker()
    run(make)
    (path,) = folder.iterdir()
    kept_program = path.read_bytes()

    def other() -> tuple[Callable[..., jax.Array], None]:
        return lambda values, x: x.sum(1) + values["bias"], None

    programs = kept.programs("other", other)
    assert programs is not None
    arguments = ({"bias": jnp.full(1, -3.0)}, X)
    programs(*arguments)
    (path,) = set(folder.iterdir()) - {path}
    path.write_bytes(kept_program)
    got = programs(*arguments)(*arguments)
    np.testing.assert_allclose(np.asarray(got), X.sum(1) - 3, rtol=1e-4, atol=1e-5)


def test_a_whole_file_that_holds_no_program_is_made_again(folder: pathlib.Path):
    make = Maker()
    first = run(make)
    (path,) = folder.iterdir()
    kept._write(path, b"no program")
    np.testing.assert_array_equal(run(make), first)
    assert make.made == 2


def test_a_program_that_cannot_be_run_is_made_again(folder, monkeypatch: pytest.MonkeyPatch):
    make = Maker()
    first = run(make)

    def refuse(*_: object):
        raise jax.errors.JaxRuntimeError("NOT_FOUND: Function fusion not found")

    monkeypatch.setattr(kept, "_loaded", lambda content, arguments: refuse)
    np.testing.assert_array_equal(run(make), first)
    assert make.made == 2


def test_exhausted_memory_is_no_reason_to_compile_again(folder, monkeypatch: pytest.MonkeyPatch):
    make = Maker()
    run(make)

    def refuse(*_: object):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    monkeypatch.setattr(kept, "_loaded", lambda content, arguments: refuse)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        run(make)
    assert make.made == 1


def test_what_jax_has_kept_is_not_kept_again(folder: pathlib.Path):
    # As jax 0.10 reads it, it would be written without a part.
    make = Maker()
    function, options = make()
    jax.jit(function, compiler_options=options)({"bias": jnp.full(1, -3.0)}, X)
    first = run(make)
    for path in folder.iterdir():
        path.unlink()
    run(make)
    np.testing.assert_array_equal(run(make), first)
    assert make.made == 3


@pytest.mark.parametrize(
    "change", ["source", "flax", "processor", "cores", "XLA_FLAGS", "NPROC", "setting of JAX"]
)
def test_what_a_program_depends_on_makes_it_another(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str
):
    make = Maker()
    before = jax.config.values["jax_default_matmul_precision"]
    run(make)
    kept._circumstances.cache_clear()
    try:
        if change == "source":
            monkeypatch.setattr(kept, "_source", lambda: "an edited package")
        elif change == "processor":
            monkeypatch.setattr(kept, "_processor", lambda: "flags: sse2")
        elif change == "flax":
            version = metadata.version
            other = {"flax": "0.0.1"}
            monkeypatch.setattr(
                kept.metadata, "version", lambda name: other.get(name, version(name))
            )
        elif change == "cores":
            monkeypatch.setattr(kept.processor, "cores", lambda: 77)
        elif change == "NPROC":
            monkeypatch.setenv("NPROC", "77")
        elif change == "XLA_FLAGS":
            monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        else:
            jax.config.update("jax_default_matmul_precision", "highest")
        run(make)
    finally:
        jax.config.update("jax_default_matmul_precision", before)
        kept._circumstances.cache_clear()
    assert make.made == 2


def test_the_source_is_that_of_the_package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "kept.py").write_text("x = 1\n")
    (tmp_path / "models" / "net.py").write_text("x = 1\n")
    monkeypatch.setattr(kept, "__file__", str(tmp_path / "kept.py"))
    first = kept._source()
    assert kept._source() == first
    (tmp_path / "models" / "net.py").write_text("x = 2\n")
    assert kept._source() != first


def test_nothing_is_kept_where_that_is_impossible(
    tmp_path: pathlib.Path, folder: pathlib.Path, capfd: pytest.CaptureFixture[str]
):
    folder.write_text("a file")
    make = Maker()
    np.testing.assert_allclose(run(make), EXPECTED, rtol=1e-5, atol=1e-5)
    run(make)
    assert make.made == 2
    assert capfd.readouterr() == ("", "")


def test_nothing_is_kept_unless_the_program_asks(monkeypatch: pytest.MonkeyPatch):
    # Another test in this process may have asked.
    monkeypatch.setattr(runtime, "_keeping", False)
    assert runtime.kept_folder() is None
    assert kept.programs("test", Maker()) is None
    assert kept.numbers("test", lambda: {"a": [1]}) == {"a": [1]}


def test_numbers_are_kept(folder: pathlib.Path):
    asked = []

    def make() -> dict[str, list[int]]:
        asked.append(1)
        return {"kernel": [3, 3, 1], "bias": []}

    for _ in range(3):
        assert kept.numbers("test", make) == {"kernel": [3, 3, 1], "bias": []}
    assert len(asked) == 1
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"3", b"4"))
    assert kept.numbers("test", make) == {"kernel": [3, 3, 1], "bias": []}
    assert len(asked) == 2


COMMAND = """
import sys
from reldepth_jax.cli import predict
assert predict.main(sys.argv[1:]) == 0
print(*sorted({"flax", "optax", "orbax", "torch", "scipy", "rich"} & set(sys.modules)))
"""


def test_a_later_command_needs_no_flax_and_gives_the_same_map(tmp_path: pathlib.Path):
    Image.fromarray(np.uint8(40 * X + 128)).save(tmp_path / "photo.png")
    unset = ("JAX_COMPILATION_CACHE_DIR", "RELDEPTH_PLUGINS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment["RELDEPTH_CACHE"] = str(tmp_path / "cache")

    def predict(output: str) -> tuple[str, bytes]:
        words = [tmp_path / "photo.png", "--output", tmp_path / output, "--image-size", "32"]
        ended = subprocess.run(
            [sys.executable, "-c", COMMAND, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert ended.stderr == ""
        return ended.stdout.splitlines()[-1], (tmp_path / output / "photo.png").read_bytes()

    first, later = predict("first"), predict("later")
    assert "flax" in first[0].split()
    assert later == ("", first[1])
