"""Reading tensors from files that may be hostile.

Torch files are pickles, and a pickle is a program: `weights.pickles` reads it without running it.
What a file holds is known, and compared with what is wanted, before values are read.
"""

import contextlib
import math
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from reldepth_jax import checked_json
from reldepth_jax.checked_json import JsonError
from reldepth_jax.errors import UserError, printable
from reldepth_jax.weights import pickles
from reldepth_jax.weights.pickles import RefusedPickle


class WeightsError(UserError):
    """A file of weights that cannot be used, in one line."""

    exit_code = 3


class Outline(NamedTuple):
    """A tensor before its values are read."""

    shape: tuple[int, ...]
    dtype: str
    """As the file calls it."""
    size: int
    """Bytes in memory."""


Outlines = Mapping[str, Outline]


class TensorFile(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, np.ndarray]
    """Name -> values: float32, but for integer scalars (counters of BatchNorm)."""
    metadata: dict[str, str]
    """Of safetensors; empty for torch files."""
    format: Literal["safetensors", "torch"]


class _Opened(NamedTuple):
    """A file whose header has been read."""

    tensors: Outlines
    metadata: dict[str, str]
    format: Literal["safetensors", "torch"]
    read: Callable[[Collection[str]], dict[str, np.ndarray]]


_MAX_RANK = 8
_MAX_HEADER = 2**24
"""Bytes of a safetensors header; a network of 1000 tensors has 0.1 MB."""
_DTYPES = {
    "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
}  # fmt: skip

_SPARE = 2**24
"""Bytes that storages may hold beyond four times what their tensors take."""
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "module")
_PREFIXES = ("module.", "model.", "net.", "state_dict.")
"""What wrappers of networks put in front of all names: parallelism, trainers."""
_COMPILED = "_orig_mod."
"""What torch.compile puts into the names of what it has compiled, the network or parts of it."""


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a file that can be opened without waiting for somebody to write."""
    return stat.S_ISREG(os.stat(path).st_mode)


def read_tensors(
    path: str | os.PathLike[str],
    wanted: Callable[[Outlines, Mapping[str, str]], Collection[str]] | None = None,
    *,
    as_named: bool = False,
) -> TensorFile:
    """Read safetensors or what `torch.save` wrote of a state dict; the content says which it is.

    Half precision, bfloat16 and double become float32. The dict may be in others under
    "state_dict", "model", "model_state_dict", "net" or "module", beside whatever else a checkpoint
    holds; prefixes that all names have ("module.", "model.", "net.", "state_dict.") are dropped,
    and "_orig_mod." anywhere, unless `as_named`. No code of the file is run.

    Args:
      wanted: given names with shapes, and the metadata, returns the names to read, or raises what
        it likes. Nothing else is read, so that a file takes no more memory than they do. Default:
        all.

    Raises WeightsError, one line of at most 300 characters: the path and what is wrong.
    """
    with contextlib.ExitStack() as stack:
        with _told(path):
            # Checked before it is opened: opening a pipe would wait for a writer.
            if not is_regular(path):
                raise WeightsError("is not a regular file")
            opened = _open(stack.enter_context(open(path, "rb")), as_named)
        names = opened.tensors if wanted is None else wanted(opened.tensors, opened.metadata)
        with _told(path):
            tensors = opened.read(names)
            _check_values(tensors)
    return TensorFile(tensors, opened.metadata, opened.format)


@contextlib.contextmanager
def _told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever goes wrong with a file into WeightsError."""
    try:
        yield
    except (WeightsError, RefusedPickle) as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    except MemoryError:
        reason = "there is not enough memory for it"
    except Exception as error:
        # A hostile file can make readers raise any type there is.
        said = str(error).strip().split("\n")[0]
        reason = f"is damaged, or holds no plain weights ({type(error).__name__}: {said})"
    else:
        return
    name = _clipped(path, 120)
    raise WeightsError(f"{name}: {_clipped(reason, 298 - len(name))}")


def _clipped(text: str | os.PathLike[str], length: int) -> str:
    """Return `text` on one line; if it is too long, its two ends."""
    line = printable(text)
    return line if len(line) <= length else f"{line[: length // 2 - 1]}…{line[-length // 2 :]}"


def _open(file: IO[bytes], as_named: bool) -> _Opened:
    head = file.read(512)
    file.seek(0)
    # First: the length of a header can begin as a pickle does, and no other format has "{" there.
    if head[8:9] == b"{":
        opened = _open_safetensors(file)
    elif head.startswith((b"PK", b"\x80")):
        opened = _open_torch(file, head.startswith(b"PK"))
    else:
        raise WeightsError(_description(head))
    if not opened.tensors:
        raise WeightsError("holds no tensors")
    # Strides, tied tensors and wider types make much out of little.
    if sum(tensor.size for tensor in opened.tensors.values()) > 4 * _size(file):
        raise WeightsError("its tensors are larger than the file; it is damaged or hostile")
    if as_named:
        return opened
    short = _shortened(opened.tensors)
    tensors = {new: opened.tensors[old] for new, old in short.items()}

    def read(names: Collection[str]) -> dict[str, np.ndarray]:
        found = opened.read([short[name] for name in names])
        return {name: found[short[name]] for name in names}

    return opened._replace(tensors=tensors, read=read)


def _shortened(names: Collection[str]) -> dict[str, str]:
    """Return the names without what wrappers put into them -> the names."""
    short = {name.replace(_COMPILED, ""): name for name in names}
    if len(short) < len(names):
        raise WeightsError(f"names that differ by {_COMPILED} alone")
    while front := next((p for p in _PREFIXES if all(n.startswith(p) for n in short)), ""):
        short = {new.removeprefix(front): old for new, old in short.items()}
    return short


def _check_values(tensors: Mapping[str, np.ndarray]) -> None:
    infinite = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if infinite:
        raise WeightsError(f"tensors not finite in float32: {_few(infinite)}")
    negative = [
        name
        for name, array in tensors.items()
        if name.endswith("running_var") and (array < 0).any()
    ]
    if negative:
        raise WeightsError(f"negative variances: {_few(negative)}; it is damaged")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _description(head: bytes) -> str:
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights; run git lfs pull"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not weights (a warning or a quota?); download it again in a browser"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "is a compressed file or a tar archive; unpack it first"
    return f"is neither safetensors nor of torch.save; begins with {head[:24]!r}"


def _check_tensor(
    name: str, dtype: Any, shape: tuple[int, ...], is_float: bool, is_integer: bool
) -> None:
    if len(shape) > _MAX_RANK:
        raise WeightsError(f"tensor {name} has {len(shape)} dimensions, at most {_MAX_RANK}")
    if not is_float and not (is_integer and shape == ()):
        raise WeightsError(f"tensor {name} is {dtype} {shape}; weights are floating-point numbers")


def _as_read(array: np.ndarray) -> np.ndarray:
    """Return values of any type as they are handed on."""
    is_float = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32 if is_float else array.dtype).reshape(
            array.shape
        )


def _open_safetensors(file: IO[bytes]) -> _Opened:
    (length,) = struct.unpack("<Q", file.read(8))
    size = _size(file)
    if length > min(_MAX_HEADER, size - 8):
        raise WeightsError(
            f"safetensors header of {length} bytes in a file of {size}: truncated or damaged"
        )
    try:
        # Layout against size: no overlaps, no holes, no lies.
        with safe_open(file.name, framework="np"):
            pass
    except SafetensorError as error:
        raise WeightsError(f"is damaged safetensors: {error}") from None
    try:
        header = checked_json.parse(file.read(length), checked_json.anything)
    except JsonError as error:
        raise WeightsError(f"safetensors header: {error}") from None
    metadata = header.pop("__metadata__", None) or {}
    outlines = {}
    for name, entry in header.items():
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        is_float = entry["dtype"] in ("F16", "BF16", "F32", "F64")
        is_integer = np.dtype(_DTYPES.get(entry["dtype"], np.void)).kind in "iu"
        _check_tensor(name, entry["dtype"], shape, is_float, is_integer)
        outlines[name] = Outline(shape, entry["dtype"], end - begin)

    def read(names: Collection[str]) -> dict[str, np.ndarray]:
        found = {}
        for name in names:
            # Read here, because the library's arrays for NumPy have no bfloat16.
            shape, dtype, size = outlines[name]
            file.seek(8 + length + header[name]["data_offsets"][0])
            array = np.fromfile(file, np.uint8, size).view(_DTYPES[dtype])
            found[name] = _as_read(array.reshape(shape))
        return found

    return _Opened(outlines, metadata, "safetensors", read)


def _open_torch(file: IO[bytes], is_archive: bool) -> _Opened:
    saved = pickles.open_archive(file) if is_archive else pickles.open_pickles(file)
    state = _unwrapped(saved.content)
    outlines = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, pickles.Tensor):
            kind = "dict" if isinstance(value, dict) else type(value).__name__
            raise WeightsError(f"state dict with {kind} under {name!r:.60}, not a tensor")
        dtype = value.storage.dtype
        is_float = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
        _check_tensor(name, f"torch.{dtype}", value.shape, is_float, dtype.kind in "iu")
        outlines[name] = Outline(
            value.shape, f"torch.{dtype}", math.prod(value.shape) * dtype.itemsize
        )

    def read(names: Collection[str]) -> dict[str, np.ndarray]:
        held = {state[name].storage for name in names}
        needed = sum(outlines[name].size for name in names)
        if sum(one.length * one.dtype.itemsize for one in held) > 4 * needed + _SPARE:
            raise WeightsError("its storages are much larger than its tensors; save clones of them")
        # Tensors may share one.
        values = {storage: saved.read(storage) for storage in held}
        return {name: _as_read(_view(state[name], values[state[name].storage])) for name in names}

    return _Opened(outlines, {}, "torch", read)


def _view(tensor: pickles.Tensor, values: np.ndarray) -> np.ndarray:
    if 0 in tensor.shape:
        return np.empty(tensor.shape, values.dtype)
    steps = [step * values.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, steps)


def _unwrapped(content: Any) -> dict[Any, Any]:
    """Return the state dict of a checkpoint."""
    for wrappings_left in (2, 1, 0):
        if not isinstance(content, dict):
            raise WeightsError(f"holds {type(content).__name__}, not a state dict")
        # Not content.items(): files can give an OrderedDict attributes, of this name too.
        content = dict(dict.items(content))
        inside = [key for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if len(inside) > 1:
            raise WeightsError(f"holds several state dicts, {', '.join(inside)}; leave one")
        if not inside or not wrappings_left:
            break
        content = content[inside[0]]
    return content
