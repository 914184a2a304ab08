"""What took time to find, kept for the next process: compiled programs, shapes of networks.

JAX keeps what XLA compiles too, but finds it only after a function has been traced and lowered
again, for which Flax has to be imported and the network built: more than half of the time of
`reldepth predict photo.jpg`. Here it is found by what it was made from: the source of this package,
versions, the settings of JAX and XLA, and the processor. A file that is damaged or cannot be used
is as good as none.

Nothing is kept before `runtime.keep_compiled`, which the commands call.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jaxlib.version

from reldepth_jax import processor, runtime
from reldepth_jax.errors import out_of_memory

Make = Callable[[], tuple[Callable[..., Any], dict[str, str] | None]]

_DIGEST = 32
_SETTINGS = ("JAX_", "XLA_", "NPROC")
"""How environment variables begin that may change what is compiled."""


def numbers(
    made_of: str, make: Callable[[], Mapping[str, Sequence[int]]]
) -> Mapping[str, Sequence[int]]:
    """Return what `make` returns, or has returned to an earlier process.

    Args:
      made_of: says in words what is asked for, with all that it depends on beside this package.
    """
    folder = runtime.kept_folder()
    if folder is None:
        return make()
    path = folder / f"{_key(made_of)}.json"
    content = _read(path)
    if content is not None:
        return json.loads(content)
    found = make()
    _write(path, json.dumps(found).encode())
    return found


def programs(made_of: str, make: Make) -> Callable[..., Callable[..., Any]] | None:
    """Return what gives for arguments the compiled program for all arguments of their shapes.

    None where programs are not kept: where this process must not, on other devices than a single
    CPU, where it is not known what a program read back needs.

    Args:
      made_of: as in `numbers`.
      make: returns the function that is compiled, of positional arguments (dictionaries, lists and
        tuples of arrays) to one array, and the `compiler_options` of `jax.jit` for it. It is not
        called for a program that is kept.
    """
    folder = runtime.kept_folder()
    if folder is None or not runtime.on_cpu() or jax.device_count() != 1:
        return None

    def program(*arguments: Any) -> Callable[..., Any]:
        shapes = jax.tree.map(lambda array: (array.shape, str(array.dtype)), arguments)
        path = folder / f"{_key(f'{made_of} of {shapes}')}.program"
        content = _read(path)
        loaded = None if content is None else _loaded(content, arguments)
        if loaded is None:
            return _compiled(path, make, arguments)
        return _replaced_if_it_fails(loaded, lambda: _compiled(path, make, arguments))

    return program


def _loaded(content: bytes, arguments: tuple[Any, ...]) -> Callable[..., Any] | None:
    from jax.experimental import serialize_executable

    inputs, output = jax.tree.structure((arguments, {})), jax.tree.structure(0)
    try:
        return serialize_executable.deserialize_and_load(content, inputs, output)
    except Exception:
        # A file that is whole, of the same versions and this processor: whatever is wrong with it,
        # compiling again is right.
        return None


def _replaced_if_it_fails(
    loaded: Callable[..., Any], replacement: Callable[[], Callable[..., Any]]
) -> Callable[..., Any]:
    """Return a program that is replaced if it cannot be run the first time."""
    chosen: list[Callable[..., Any]] = []

    def program(*arguments: Any) -> Any:
        if chosen:
            return chosen[0](*arguments)
        try:
            output = jax.block_until_ready(loaded(*arguments))
        except jax.errors.JaxRuntimeError as error:
            if out_of_memory(error):
                raise
            chosen.append(replacement())
            return chosen[0](*arguments)
        chosen.append(loaded)
        return output

    return program


def _compiled(path: pathlib.Path, make: Make, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    from jax.experimental import serialize_executable

    function, options = make()
    # What comes from JAX's cache lacks a part when it is written again (jax 0.10). Under a new name
    # nothing is found there, and what is kept here need not be kept there as well.
    function.__name__ = f"kept_{secrets.token_hex(8)}"
    with _not_kept_by_jax():
        compiled = jax.jit(function, compiler_options=options).lower(*arguments).compile()
    with contextlib.suppress(Exception):
        # Where it cannot be written, it works all the same.
        _write(path, serialize_executable.serialize(compiled)[0])
    return compiled


@contextlib.contextmanager
def _not_kept_by_jax() -> Iterator[None]:
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, sys.float_info.max)
    try:
        yield
    finally:
        jax.config.update(name, before)


def _read(path: pathlib.Path) -> bytes | None:
    """Return the content of a file that `_write` wrote; None if it is not there, or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    content = data[_DIGEST:]
    return content if _digest(path, content) == data[:_DIGEST] else None


def _write(path: pathlib.Path, content: bytes) -> None:
    """Write a file whole or not at all; nothing happens where that is impossible."""
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            new.write_bytes(_digest(path, content) + content)
            os.replace(new, path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


def _digest(path: pathlib.Path, content: bytes) -> bytes:
    """Return what begins a file: it says what the file holds, and what for."""
    return hashlib.sha256(path.name.encode() + content).digest()


def _key(made_of: str) -> str:
    found = hashlib.sha256(made_of.encode())
    found.update(_circumstances().encode())
    # They may have changed since the last call.
    found.update(repr(sorted(jax.config.values.items())).encode())
    return found.hexdigest()


@functools.cache
def _circumstances() -> str:
    """Return all that a program depends on beside its function, its arguments and JAX's settings.

    The number of cores, since XLA divides work by it, as NPROC may tell it too.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
    versions = (jax.__version__, jaxlib.version.__version__, metadata.version("flax"), sys.version)
    return repr((_source(), versions, sorted(settings.items()), processor.cores(), _processor()))


def _source() -> str:
    """Return the digest of this package's modules."""
    found = hashlib.sha256()
    root = pathlib.Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(content)} ".encode() + content)
    return found.hexdigest()


def _processor() -> str:
    """Return what tells processors apart that need different machine code; else the host's name."""
    told = ("flags", "Features", "model name", "CPU ")
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        first = file.read().partition("\n\n")[0]
        lines = [line for line in first.splitlines() if line.startswith(told)]
        if lines:
            return "\n".join(lines)
    return f"{platform.machine()} {platform.node()}"
