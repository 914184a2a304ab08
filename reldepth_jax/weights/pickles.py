"""Reading pickles of torch without running them.

A pickle is a program. Here its instructions are read one by one, and only those and only the names
that plain weights need are let through. This goes before `torch.load(weights_only=True)`, which
lets through more, and more again where other code of the process has asked it to.
"""

import io
import pickletools
import zipfile
from typing import IO, Any


class RefusedPickle(ValueError):
    """What a file does beyond holding weights, as half a sentence."""


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
_NAMES = frozenset(
    "collections.OrderedDict collections.Counter torch.Size torch.device"
    " torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter"
    " torch.nn.parameter.Parameter torch.FloatStorage torch.DoubleStorage torch.HalfStorage"
    " torch.BFloat16Storage torch.LongStorage torch.IntStorage torch.ShortStorage torch.CharStorage"
    " torch.ByteStorage torch.BoolStorage".split()
)
"""What plain weights, and the state of an optimiser beside them, refer to."""


def check_archive(file: IO[bytes]) -> None:
    """Refuse what in a zip archive is not as `torch.save` writes plain weights."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_entries(archive.infolist())
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"checksum of {damaged}")
            programs = [name for name in archive.namelist() if name.endswith("data.pkl")]
            contents = [archive.read(name) for name in programs]
    except zipfile.BadZipFile as error:
        raise RefusedPickle(f"is a damaged or truncated torch file ({error})") from None
    if not programs:
        raise RefusedPickle("is a zip archive, but none that torch.save wrote")
    for content in contents:
        _check_pickle(io.BytesIO(content))


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise RefusedPickle(
            "is a TorchScript archive, a program; ask for its state_dict or a .safetensors file"
        )
    for entry in entries:
        if ".." in entry.filename.split("/") or entry.filename.startswith(("/", "\\")):
            raise RefusedPickle(f"archive with an entry outside of it: {entry.filename}")
        # Torch stores as is. What is compressed may be a thousand times what the file is.
        if entry.compress_type != zipfile.ZIP_STORED:
            raise RefusedPickle(f"archive with a compressed entry, unlike torch: {entry.filename}")
    if len(set(names)) < len(names):
        raise RefusedPickle("archive with two entries of one name")


def check_pickles(file: IO[bytes]) -> None:
    """The same for a torch file of the old kind: pickles, then the values."""
    is_torch = file.read(2 + len(_MAGIC))[2:] == _MAGIC
    file.seek(0)
    # Magic number, version, machine, the object, the keys of its storages.
    for _ in range(5 if is_torch else 1):
        _check_pickle(file)
    if not is_torch:
        raise RefusedPickle("is a pickle, but none that torch.save wrote")


def _check_pickle(stream: IO[bytes] | io.BytesIO) -> None:
    """Refuse a pickle that does more than to build plain weights; nothing in it is run."""
    unusual = None
    # Of the unpickler's stack: a text itself, for anything else how much there is to hash.
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
        code, takes = instruction.name, instruction.stack_before
        if count == _MAX_INSTRUCTIONS:
            raise RefusedPickle("its pickle is longer than that of any network")
        if code not in _INSTRUCTIONS:
            unusual = unusual or code
        if code in ("GLOBAL", "INST"):
            _check_name(str(argument).replace(" ", "."))
        elif code == "STACK_GLOBAL":
            _check_name(f"{stack[-2]}.{stack[-1]}")
        if code == "MARK":
            marks.append(len(stack))
        elif code == "MEMOIZE" or code.endswith("PUT"):
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
