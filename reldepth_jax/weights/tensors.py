"""Reading tensors from files that may be hostile.

Torch files are pickles, and a pickle is a program. Three things protect this process:
`weights.pickles` reads it without running it and refuses what plain weights do not need; what
passes goes to `torch.load(weights_only=True)`; and torch must be recent enough for that to hold
(CVE-2025-32434: before 2.6, CVE-2026-24747: before 2.10).
"""

import os
import re
import stat
import struct
import warnings
from typing import IO, Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from reldepth_jax import checked_json
from reldepth_jax.checked_json import JsonError
from reldepth_jax.errors import UserError, printable
from reldepth_jax.weights.pickles import RefusedPickle, check_archive, check_pickles


class WeightsError(UserError):
    """A file of weights that cannot be used, in one line."""

    exit_code = 3


class TensorFile(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, np.ndarray]
    """Name -> values: float32, but for integer scalars (counters of BatchNorm)."""
    metadata: dict[str, str]
    """Of safetensors; empty for torch files."""
    format: Literal["safetensors", "torch"]


_MAX_RANK = 8
_MAX_HEADER = 2**24
"""Bytes of a safetensors header; a network of 1000 tensors has 0.1 MB."""
_DTYPES = {
    "F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
}  # fmt: skip

_TORCH = (2, 10)
"""Oldest torch whose `weights_only` is trusted."""
_WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_tensors(path: str | os.PathLike[str]) -> TensorFile:
    """Read safetensors or what `torch.save` wrote of a state dict; the content says which it is.

    Half precision, bfloat16 and double become float32. The dict may be in others under
    "state_dict", "model" or "model_state_dict", beside whatever else a checkpoint holds; a prefix
    "module." that all names have is dropped. No code of the file is run.

    Raises WeightsError, one line of at most 300 characters: the path and what is wrong.
    """
    try:
        # Checked before it is opened: opening a pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise WeightsError("is not a regular file")
        with open(path, "rb") as file, warnings.catch_warnings():
            # Torch comments on storages, protocols and archives, which are no user's concern.
            warnings.simplefilter("ignore")
            return _read(file)
    except (WeightsError, RefusedPickle) as error:
        reason = str(error)
    except FileNotFoundError:
        reason = "no such file"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    except Exception as error:
        # A hostile file can make readers raise any type there is.
        said = str(error).strip().split("\n")[0]
        # Torch's advice for files that it refuses is to read them unsafely.
        said = "" if "weights_only" in said or "Weights only" in said else f": {said}"
        reason = f"is damaged, or holds no plain weights ({type(error).__name__}{said})"
    name = _clipped(path, 120)
    raise WeightsError(f"{name}: {_clipped(reason, 298 - len(name))}")


def _clipped(text: str | os.PathLike[str], length: int) -> str:
    """Return `text` on one line; if it is too long, its two ends."""
    line = printable(text)
    return line if len(line) <= length else f"{line[: length // 2 - 1]}…{line[-length // 2 :]}"


def _read(file: IO[bytes]) -> TensorFile:
    head = file.read(512)
    file.seek(0)
    # First: the length of a header can begin as a pickle does, and no other format has "{" there.
    if head[8:9] == b"{":
        tensors, metadata = _read_safetensors(file)
        format = "safetensors"
    elif head.startswith((b"PK", b"\x80")):
        check = check_archive if head.startswith(b"PK") else check_pickles
        check(file)
        file.seek(0)
        tensors, metadata = _read_torch(file), {}
        format = "torch"
    else:
        raise WeightsError(_description(head))
    if not tensors:
        raise WeightsError("holds no tensors")
    infinite = [name for name, array in tensors.items() if not np.isfinite(array).all()]
    if infinite:
        more = f" and {len(infinite) - 3} more" if len(infinite) > 3 else ""
        raise WeightsError(f"tensors not finite in float32: {', '.join(infinite[:3])}{more}")
    for _ in range(2):  # One wrapper for data parallelism around another.
        if all(name.startswith("module.") for name in tensors):
            tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    return TensorFile(tensors, metadata, format)


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


def _read_safetensors(file: IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    (length,) = struct.unpack("<Q", file.read(8))
    size = os.fstat(file.fileno()).st_size
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
    tensors = {}
    for name, entry in header.items():
        # Read here, because the library's arrays for NumPy have no bfloat16.
        dtype, shape = np.dtype(_DTYPES.get(entry["dtype"], np.void)), tuple(entry["shape"])
        is_float = entry["dtype"] in ("F16", "BF16", "F32", "F64")
        _check_tensor(name, entry["dtype"], shape, is_float, is_integer=dtype.kind in "iu")
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        array = np.fromfile(file, np.uint8, end - begin).view(dtype)
        with np.errstate(over="ignore"):
            array = array.astype(np.float32 if is_float else dtype, copy=False)
        tensors[name] = array.reshape(shape)
    return tensors, metadata


def _read_torch(file: IO[bytes]) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise WeightsError(
            "reading a torch file needs torch: pip install 'reldepth-jax[torch]', or give a"
            " .safetensors"
        ) from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _TORCH:
        raise WeightsError(
            f"torch {torch.__version__} has known holes in reading files; install torch"
            f" {_TORCH[0]}.{_TORCH[1]} or newer, or give a .safetensors"
        )
    # The open file, not its name: by the name, torch would choose another reader.
    found = _unwrapped(torch.load(file, map_location="cpu", weights_only=True))
    # Strides and tied tensors make much out of little.
    allowed = 4 * os.fstat(file.fileno()).st_size
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"state dict with {type(value).__name__} under {name!r:.60}, not a tensor"
            )
        is_float = value.is_floating_point()
        _check_tensor(name, value.dtype, tuple(value.shape), is_float, value.dtype != torch.bool)
        allowed -= value.numel() * value.element_size()
        if allowed < 0:
            raise WeightsError("its tensors are larger than the file; it is damaged or hostile")
    tensors = {}
    for name, value in found.items():
        value = value.detach()
        value = value.float() if value.is_floating_point() else value
        tensors[name] = np.asarray(value.numpy(), order="C")
    return tensors


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
