"""Reading what `torch.save` wrote, without running it, and without torch.

A pickle is a program. Here its instructions are first read one by one, and only those and only the
names that plain weights need are let through. What passes is unpickled with stand-ins for these
names, which say where the values of a tensor lie in the file; no value is read.
"""

import io
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np


class RefusedPickle(ValueError):
    """What a file does beyond holding weights, as half a sentence."""


class Storage(NamedTuple):
    """Values that tensors share."""

    dtype: np.dtype
    key: str
    length: int
    """Of values."""


class Tensor(NamedTuple):
    """Where the values of a tensor lie: in a storage, from `offset`, with these strides."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Saved(NamedTuple):
    """A file of torch: what was saved, with `Tensor` in place of tensors."""

    content: Any
    read: Callable[[Storage], np.ndarray]
    """Return the values of a storage; raises RefusedPickle if they are damaged."""


_MAX_PROGRAM = 2**24
"""Bytes of a pickle; that of a network of 1000 tensors has 0.1 MB."""
_MAX_DIRECTORY = 2**22
"""Bytes of an archive's directory; for 1000 tensors it has 0.1 MB."""
_MAX_INSTRUCTIONS = 5_000_000
_MAX_TUPLE = 10_000
"""Elements of a tuple and the tuples in it. Hashing one follows all of them, however often one
object occurs and however deep: it can take for ever, or overflow the C stack."""
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""Behind the protocol, at the begin of torch files that are no zip archives."""
_INSTRUCTIONS = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE NEWOBJ BUILD BINPERSID NONE NEWTRUE NEWFALSE BININT BININT1"
    " BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3"
    " EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET BINPUT LONG_BINPUT BINGET"
    " LONG_BINGET".split()
)
"""Those of protocol 2, which `torch.save` uses."""


class _Dict(dict[Any, Any]):
    """Stands for dictionaries that may have attributes, which are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Name:
    """Stands for a name of torch: calling it makes what stands for the result.

    Programs hold this object only, not what it stands for, and cannot give it attributes.
    """

    __slots__ = ("stands_for",)

    def __init__(self, stands_for: Any):
        self.stands_for = stands_for

    def __call__(self, *arguments: Any) -> Any:
        return self.stands_for(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise RefusedPickle("gives attributes to a name of torch, as only an attack does")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise RefusedPickle("has a tensor without a storage")
    if len(shape) != len(strides) or len(shape) > 64:
        raise RefusedPickle(f"has a tensor of {len(shape)} dimensions with {len(strides)} strides")
    if any(type(number) is not int or number < 0 for number in (offset, *shape, *strides)):
        raise RefusedPickle("has a tensor whose shape, strides or offset are none")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.length:
        raise RefusedPickle("has a tensor that lies beyond its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _nothing(*_: Any) -> None:
    """Stand for a device."""


_NAMES: Mapping[str, _Name] = {
    name: _Name(stands_for)
    for name, stands_for in {
        "collections.OrderedDict": _Dict,
        "collections.Counter": _Dict,
        "torch.Size": tuple,
        "torch.device": _nothing,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "torch.nn.parameter.Parameter": _parameter,
        "torch.FloatStorage": np.dtype(np.float32),
        "torch.DoubleStorage": np.dtype(np.float64),
        "torch.HalfStorage": np.dtype(np.float16),
        "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
        "torch.LongStorage": np.dtype(np.int64),
        "torch.IntStorage": np.dtype(np.int32),
        "torch.ShortStorage": np.dtype(np.int16),
        "torch.CharStorage": np.dtype(np.int8),
        "torch.ByteStorage": np.dtype(np.uint8),
        "torch.BoolStorage": np.dtype(np.bool_),
    }.items()
}
"""What plain weights, and the state of an optimiser beside them, refer to -> what stands for it."""


class _Unpickler(pickle.Unpickler):
    """Makes plain values and the stand-ins; for programs that `_check_pickle` has let through."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, fix_imports=False, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> _Name:
        return _NAMES[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        # Which device it was on follows, and in old files of what it was a part.
        kind, name, key, _, length = pid[:5]
        dtype = name.stands_for if isinstance(name, _Name) else None
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(pid[5:]):
            raise RefusedPickle("refers to something outside of its pickle that is no storage")
        if not isinstance(key, str) or type(length) is not int or length < 0:
            raise RefusedPickle("has a storage without a name or of no length")
        storage = Storage(dtype, key, length)
        if self.storages.setdefault(key, storage) != storage:
            raise RefusedPickle(f"has two storages of one name: {key}")
        return storage


class _Beginning:
    """A file of which not much is read at once: an archive says how long its directory is."""

    def __init__(self, file: IO[bytes]):
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file
        self.opening = True

    def read(self, size: int = -1) -> bytes:
        if not self.opening or 0 <= size <= _MAX_DIRECTORY:
            return self._file.read(size)
        read = self._file.read(_MAX_DIRECTORY + 1)
        if len(read) > _MAX_DIRECTORY:
            raise RefusedPickle("archive with a directory longer than that of any network")
        return read


def open_archive(file: IO[bytes]) -> Saved:
    """Return what a zip archive of `torch.save` holds; refuse all that plain weights do not need.

    The archive is read where it is asked for, so `file` must stay open.
    """
    beginning = _Beginning(file)
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], beginning))
    except zipfile.BadZipFile as error:
        raise _damaged(error) from None
    beginning.opening = False
    entries = {entry.filename: entry for entry in archive.infolist()}
    _check_entries(archive.infolist(), archive.start_dir)
    programs = [name for name in entries if name.endswith("data.pkl")]
    if not programs:
        raise RefusedPickle("is a zip archive, but none that torch.save wrote")

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except zipfile.BadZipFile as error:
            raise _damaged(error) from None

    contents = []
    for name in programs:
        if entries[name].file_size > _MAX_PROGRAM:
            raise _too_long()
        contents.append(_outline(io.BytesIO(read(name)))[0])
    if len(programs) > 1:
        raise RefusedPickle(f"archive with {len(programs)} state dicts, unlike torch")
    folder = programs[0].removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in entries and (entries[order].file_size != 6 or read(order) != b"little"):
        raise _big_endian()

    def values(storage: Storage) -> np.ndarray:
        entry = entries.get(f"{folder}data/{storage.key}")
        size = storage.length * storage.dtype.itemsize
        if entry is None or entry.file_size != size:
            got = "none" if entry is None else f"one of {entry.file_size} bytes"
            raise RefusedPickle(f"names a storage of {size} bytes, and has {got}")
        return np.frombuffer(read(entry.filename), storage.dtype)

    return Saved(contents[0], values)


def _check_entries(entries: list[zipfile.ZipInfo], end: int) -> None:
    """Refuse archives unlike those of torch; `end` is where their directory begins."""
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise RefusedPickle(
            "is a TorchScript archive, a program; ask for its state_dict or a .safetensors file"
        )
    for entry in entries:
        if ".." in entry.filename.split("/") or entry.filename.startswith(("/", "\\")):
            raise RefusedPickle(f"archive with an entry outside of it: {entry.filename}")
        # Torch stores as is. What is compressed may be a thousand times what the file is.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise RefusedPickle(f"archive with a compressed entry, unlike torch: {entry.filename}")
    if len(set(names)) < len(names):
        raise RefusedPickle("archive with two entries of one name")
    # Neither may many entries be the same bytes.
    for entry in sorted(entries, key=lambda entry: entry.header_offset, reverse=True):
        header = 30 + len(entry.orig_filename.encode())
        if entry.header_offset + header + entry.file_size > end:
            raise RefusedPickle(f"archive with entries that overlap: {entry.filename}")
        end = entry.header_offset


def open_pickles(file: IO[bytes]) -> Saved:
    """The same for a torch file of the old kind: pickles, then the values."""
    # The begin alone: a text of a pickle may be as long as the file, which may be huge and empty.
    start = io.BytesIO(file.read(_MAX_PROGRAM))
    is_torch = start.read(2 + len(_MAGIC))[2:] == _MAGIC
    start.seek(0)
    # Magic number, version, machine, the object, the keys of its storages.
    contents = [_outline(start) for _ in range(5 if is_torch else 1)]
    if not is_torch:
        raise RefusedPickle("is a pickle, but none that torch.save wrote")
    _, _, (machine, _), (content, storages), (keys, _) = contents
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _big_endian()
    first = start.tell()
    places: dict[Storage, int] = {}

    def values(storage: Storage) -> np.ndarray:
        if not places:
            places.update(_places(file, first, keys, storages))
        file.seek(places[storage])
        return np.fromfile(file, storage.dtype, storage.length)

    return Saved(content, values)


def _places(
    file: IO[bytes], position: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[Storage, int]:
    """Return where the values of each storage begin: they follow each other, each with a length."""
    end = file.seek(0, io.SEEK_END)
    found = {}
    for key in keys:
        storage = storages[key]
        file.seek(position)
        (length,) = struct.unpack("<q", file.read(8))
        position += 8
        found[storage] = position
        position += length * storage.dtype.itemsize
        if length != storage.length or position > end:
            raise RefusedPickle("is truncated, or has a storage of another length than it says")
    return found


def _damaged(error: Exception) -> RefusedPickle:
    return RefusedPickle(f"is a damaged or truncated torch file ({error})")


def _big_endian() -> RefusedPickle:
    return RefusedPickle("was written on a machine of another byte order; save it again on this")


def _too_long() -> RefusedPickle:
    return RefusedPickle("its pickle is longer than that of any network")


def _outline(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """Return what the pickle at the stream's position makes, and the storages that it names."""
    start = stream.tell()
    _check_pickle(stream)
    end = stream.tell()
    stream.seek(start)
    unpickler = _Unpickler(stream)
    content = unpickler.load()
    stream.seek(end)
    return content, unpickler.storages


def _check_pickle(stream: io.BytesIO) -> None:
    """Refuse a pickle that does more than to build plain weights; nothing in it is run."""
    unusual = None
    # Of the unpickler's stack: a text itself, for anything else how much there is to hash.
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        code, takes = instruction.name, instruction.stack_before
        if count == _MAX_INSTRUCTIONS:
            raise _too_long()
        if code not in _INSTRUCTIONS:
            unusual = unusual or code
        if code in ("GLOBAL", "INST"):
            _check_name(str(argument).replace(" ", "."))
        elif code == "STACK_GLOBAL":
            _check_name(f"{stack[-2]}.{stack[-1]}")
        if code == "MARK":
            marks.append(len(stack))
        elif code == "MEMOIZE" or code.endswith("PUT"):
            # The unpickler's memo is a list, as long as the largest number.
            if argument is not None and not 0 <= int(argument) <= count:
                raise RefusedPickle("its pickle is damaged: it counts beyond what it holds")
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code.endswith("GET"):
            stack.append(memo[argument])
        else:
            if pickletools.markobject in takes:
                start = marks.pop() - takes.index(pickletools.markobject)
            else:
                start = len(stack) - len(takes)
            if start < 0:
                raise RefusedPickle("its pickle is damaged: it takes more than there is")
            size = 1
            if "TUPLE" in code:
                size += sum(1 if isinstance(part, str) else part for part in stack[start:])
            if size > _MAX_TUPLE:
                raise RefusedPickle("its pickle nests tuples as only an attack does")
            made = argument if isinstance(argument, str) else size
            stack[start:] = [made] * len(instruction.stack_after)
    if unusual:
        raise RefusedPickle(
            f"its pickle has the instruction {unusual}, which torch.save does not write unless"
            " another protocol is asked for; save it again with the default"
        )


def _check_name(name: str) -> None:
    if name not in _NAMES:
        raise RefusedPickle(
            f"refers to {name}, which plain weights do not need; refused, nothing was run. Ask for"
            " a state_dict or .safetensors"
        )
