"""Files of weights that attack, lie or are damaged: one line each, and nothing of them is run.

Every payload also runs as a careless reader would run it, to show that the canary can see it. What
it does then is harmless: it creates an empty file and may set a variable.
"""

import collections
import contextlib
import copyreg
import functools
import gzip
import importlib
import io
import json
import operator
import os
import pathlib
import pickle
import runpy
import struct
import subprocess
import sys
import tarfile
import timeit
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
import torch._tensor
import torch._utils
import torch.hub

from reldepth_jax.weights.tensors import WeightsError, read_tensors

VARIABLE = "RELDEPTH_CANARY"


class Canary:
    """What a payload changes if it is run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.file = folder / "fired"
        self.code = (
            f"import os; os.environ[{VARIABLE!r}] = '1'; open({str(self.file)!r}, 'w').close()"
        )
        self.expression = f"exec({self.code!r})"
        self.command = f": > {self.file}"
        (folder / "planted.py").write_text(self.code)
        (folder / "hubconf.py").write_text(f"def fire():\n    {self.code}\n")

    def fired(self) -> bool:
        return self.file.exists() or VARIABLE in os.environ


@pytest.fixture
def canary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield Canary(tmp_path)
    os.environ.pop(VARIABLE, None)
    sys.modules.pop("planted", None)


class Call:
    """Unpickled as what a function returns (REDUCE)."""

    def __init__(self, function: Any, *arguments: Any):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Picklers want functions to be callable, also what is yet to return one."""


class State:
    """Runs its state (BUILD)."""

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: dict[str, str]):
        exec(state["code"])


class Items(dict):
    """Runs what is put in (SETITEM, SETITEMS)."""

    def __setitem__(self, key: str, value: str):
        exec(value)


class Elements(list):
    """Runs what is appended (APPEND, APPENDS)."""

    def append(self, code: str):
        exec(code)

    def extend(self, codes: Any):
        exec("\n".join(codes))


class New:
    """Runs the argument of its constructor (NEWOBJ)."""

    def __new__(cls, code: str):
        if cls.armed:
            exec(code)
        return super().__new__(cls)

    armed = True

    def __reduce_ex__(self, protocol: Any):
        # The stubs of copyreg lack it.
        return copyreg.__newobj__, (New, self.code)  # pyright: ignore[reportAttributeAccessIssue]: not public

    def __init__(self, code: str):
        self.code = code


class Network(torch.nn.Module):
    """What is pickled when a network is saved instead of its state dict."""


def saved(content: Any, protocol: int = 2, *, archive: bool = True) -> bytes:
    memory = io.BytesIO()
    torch.save(content, memory, pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
    return memory.getvalue()


def zipped(program: bytes, entries: dict[str, bytes] | None = None) -> bytes:
    """Return a torch file around a pickle, with one storage of 16 bytes."""
    memory = io.BytesIO()
    contents = {"a/data.pkl": program, "a/byteorder": b"little", "a/data/0": bytes(16)}
    with zipfile.ZipFile(memory, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Two entries of one name.
        for name, data in [*contents.items(), *(entries or {}).items(), ("a/version", b"3\n")]:
            archive.writestr(name, data)
    return memory.getvalue()


def legacy(program: bytes) -> bytes:
    """Return a torch file of the old kind around a pickle, without storages."""
    magic, version = 0x1950A86A20F9469CFC6C, 1001
    start = b"".join(pickle.dumps(x, 2) for x in (magic, version, {"little_endian": True}))
    return start + program + pickle.dumps([], 2)


STORAGE = ("storage", torch.FloatStorage, "0", "cpu", 4)


def rebuilt(*arguments: Any, key: Any = STORAGE) -> bytes:
    """Return a pickled state dict whose tensor torch makes of a storage and these arguments."""
    memory, storage = io.BytesIO(), State("")

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any):
            return key if obj is storage else None

    tensor = Call(torch._utils._rebuild_tensor_v2, storage, *arguments)
    Pickler(memory, 2).dump({"conv.weight": tensor})
    return memory.getvalue()


class WithAttributes:
    """Unpickled as a state dict with attributes of its own (BUILD)."""

    def __init__(self, **attributes: Any):
        self.attributes = attributes

    def __reduce__(self):
        items = iter([("a", torch.ones(2))])
        return collections.OrderedDict, (), self.attributes, None, items


def new(code: str) -> New:
    New.armed = False
    try:
        return New(code)
    finally:
        New.armed = True


def text(code: str) -> bytes:
    return b"X" + struct.pack("<I", len(code)) + code.encode()


CALLS: dict[str, tuple[str, Callable[[Canary], Any]]] = {
    "os_system": ("posix.system", lambda c: Call(os.system, c.command)),
    # As Python 2 called it; so does protocol 2.
    "subprocess": ("commands.run", lambda c: Call(subprocess.run, ["/bin/sh", "-c", c.command])),
    "eval": ("__builtin__.eval", lambda c: Call(eval, c.expression)),
    "exec": ("__builtin__.exec", lambda c: Call(exec, c.code)),
    "import": ("__import__", lambda c: Call(__import__, "planted")),
    "importlib": ("importlib.import_module", lambda c: Call(importlib.import_module, "planted")),
    "runpy": ("runpy.run_path", lambda c: Call(runpy.run_path, f"{c.folder}/planted.py")),
    "timeit": (
        "timeit.timeit", lambda c: Call(timeit.timeit, "pass", c.code, timeit.default_timer, 1)
    ),
    "pickle_loads": (
        "pickle.loads", lambda c: Call(pickle.loads, pickle.dumps(Call(exec, c.code)))
    ),
    "torch_hub_load": (
        "functools.partial",
        lambda c: Call(functools.partial(torch.hub.load, str(c.folder), "fire", source="local")),
    ),
    "torch_hub_local": (
        "torch.hub._load_local", lambda c: Call(torch.hub._load_local, str(c.folder), "fire")
    ),
    "torch_load": (
        "torch.serialization.load",
        lambda c: Call(
            torch.load,
            Call(io.BytesIO, zipped(pickle.dumps(Call(exec, c.code), 2))),
            None,
            Call(importlib.import_module, "pickle"),
        ),
    ),
    "torch_load_from_bytes": (
        "torch.storage._load_from_bytes",
        lambda c: Call(torch.storage._load_from_bytes, zipped(pickle.dumps(Call(exec, c.code), 2))),
    ),
    "torch_add_safe_globals": (
        "torch.serialization.add_safe_globals",
        lambda c: [Call(torch.serialization.add_safe_globals, []), Call(exec, c.code)],
    ),
    "torch_rebuild_from_type": (
        "torch._tensor._rebuild_from_type_v2",
        lambda c: Call(torch._tensor._rebuild_from_type_v2, exec, dict, (c.code,), {}),
    ),
    "partial": ("functools.partial", lambda c: Call(functools.partial(exec, c.code))),
    "getattr_chain": (
        "__builtin__.getattr",
        lambda c: Call(Call(getattr, Call(__import__, "os"), "system"), c.command),
    ),
    "methodcaller": (
        "operator.methodcaller",
        lambda c: Call(operator.methodcaller("system", c.command), Call(__import__, "os")),
    ),
    "numpy_objects": ("multiarray._reconstruct", lambda c: np.array([Call(exec, c.code)], object)),
    "argument_of_a_harmless_call": (
        "__builtin__.eval",
        lambda c: Call(collections.OrderedDict, Call(eval, f"{c.expression} or []")),
    ),
    "build": ("State", lambda c: State(c.code)),
    "new_object": ("New", lambda c: new(c.code)),
    "set_item": ("Items", lambda c: Items(a=c.code)),
    "set_items": ("Items", lambda c: Items(a=c.code, b=c.code)),
    "append": ("Elements", lambda c: Elements([c.code])),
    "appends": ("Elements", lambda c: Elements([c.code, c.code])),
}  # fmt: skip
"""What is run -> what the message must name, the object as a value of a state dict."""

PLACES: dict[str, Callable[[Any], Any]] = {
    "top": lambda payload: payload,
    "key": lambda payload: {payload: torch.zeros(1)},
    "beside_the_weights": lambda payload: {"state_dict": {"a": torch.zeros(1)}, "epoch": payload},
    "attribute_of_the_dict": lambda payload: WithAttributes(_metadata=payload),
    "hooks_of_a_parameter": lambda payload: {
        "a": Call(torch._utils._rebuild_parameter, torch.zeros(1), False, payload)
    },
}

TENSOR = (0, (4,), (1,), False, collections.OrderedDict())
OPCODES: dict[str, Callable[[Canary], bytes]] = {
    "inst": lambda c: b"(" + text(c.code) + b"i__builtin__\nexec\n.",
    "obj": lambda c: b"(c__builtin__\nexec\n" + text(c.code) + b"o.",
    "stack_global": lambda c: (
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93" + text(c.code) + b"\x85R."
    ),
    "stack_global_from_the_memo": lambda c: (
        b"\x80\x04\x8c\x08builtins\x94\x8c\x04exec\x9400h\x00h\x01\x93" + text(c.code) + b"\x85R."
    ),
    "result_thrown_away": lambda c: b"\x80\x02cbuiltins\nexec\n" + text(c.code) + b"\x85R0}.",
    "in_a_persistent_id": lambda c: rebuilt(
        *TENSOR, key=("storage", torch.FloatStorage, Call(exec, c.code), "cpu", 4)
    ),
    "before_a_persistent_id_of_text": lambda c: (
        b"\x80\x02cbuiltins\nexec\n" + text(c.code) + b"\x85RPmodule\n."
    ),
    "in_a_frozen_set": lambda c: b"\x80\x04(cbuiltins\nexec\n" + text(c.code) + b"\x85R\x91.",
    "framed": lambda c: pickle.dumps(Call(exec, c.code), 4),
}
"""Programs that torch does not write; all run `exec`."""


def refused(path: pathlib.Path) -> str:
    """Return what is said of a file, less its name."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(WeightsError) as caught:
            read_tensors(path)
    assert not said
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) <= 300
    assert "weights_only" not in line
    name, reason = line.split(": ", 1)
    assert name.endswith(path.name.encode("unicode_escape").decode()[-20:])
    return reason


def refusal(folder: pathlib.Path, content: bytes) -> str:
    path = folder / "weights.pth"
    path.write_bytes(content)
    return refused(path)


def check_attack(canary: Canary, content: bytes, named: str) -> None:
    reason = refusal(canary.folder, content)
    assert not canary.fired()
    assert f"refers to {named}" in reason or f".{named}, which" in reason
    # The positive control: the same file, as it is read without care.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.load(io.BytesIO(content), weights_only=False)
    assert canary.fired()


@pytest.mark.parametrize("name", CALLS)
def test_code_in_a_state_dict_is_refused_by_name(canary: Canary, name: str):
    named, make = CALLS[name]
    check_attack(canary, saved({"conv.weight": make(canary)}), named)


@pytest.mark.parametrize("place", PLACES)
def test_code_anywhere_in_a_checkpoint_is_refused(canary: Canary, place: str):
    content = saved(PLACES[place](Call(exec, canary.code)))
    check_attack(canary, content, "__builtin__.exec")


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_in_every_protocol(canary: Canary, protocol: int, archive: bool):
    pack = zipped if archive else legacy
    content = pack(pickle.dumps({"a": Call(os.system, canary.command)}, protocol))
    check_attack(canary, content, "posix.system")


@pytest.mark.parametrize("pack", [zipped, legacy])
@pytest.mark.parametrize("opcode", OPCODES)
def test_code_by_unusual_instructions_is_refused(
    canary: Canary, opcode: str, pack: Callable[[bytes], bytes]
):
    reason = refusal(canary.folder, pack(OPCODES[opcode](canary)))
    assert not canary.fired()
    assert "builtin" in reason
    assert "exec" in reason
    with contextlib.suppress(Exception):
        torch.load(io.BytesIO(pack(OPCODES[opcode](canary))), weights_only=False)
    assert canary.fired()


def test_a_whole_network_is_refused_with_its_class(tmp_path: pathlib.Path):
    content = saved(torch.nn.DataParallel(Network()))
    assert "refers to torch.nn.parallel.data_parallel.DataParallel" in refusal(tmp_path, content)
    assert f"refers to {__name__}.Network" in refusal(tmp_path, saved(Network()))


def test_what_other_code_of_the_process_allows_is_refused_all_the_same(canary: Canary):
    content = saved({"a": Call(eval, canary.expression)})
    with torch.serialization.safe_globals([(eval, "builtins.eval")]):
        assert "refers to __builtin__.eval" in refusal(canary.folder, content)
        assert not canary.fired()
        torch.load(io.BytesIO(content), weights_only=True)
    assert canary.fired()


def test_a_registered_extension_is_refused(canary: Canary):
    copyreg.add_extension("builtins", "exec", 240)
    try:
        content = zipped(pickle.dumps({"a": Call(exec, canary.code)}, 2))
        assert "instruction EXT1" in refusal(canary.folder, content)
        assert not canary.fired()
        torch.load(io.BytesIO(content), weights_only=False)
        assert canary.fired()
    finally:
        copyreg.remove_extension("builtins", "exec", 240)


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_is_refused(canary: Canary, protocol: int):
    content = pickle.dumps({"a": Call(exec, canary.code)}, protocol)
    reason = refusal(canary.folder, content)
    assert "exec" in reason if protocol >= 2 else "neither safetensors nor" in reason
    assert not canary.fired()
    pickle.loads(content)
    assert canary.fired()


def test_a_harmless_plain_pickle_is_refused(tmp_path: pathlib.Path):
    assert "none that torch.save wrote" in refusal(tmp_path, pickle.dumps({"a": 1}, 2))


@pytest.mark.parametrize("module", [b"torch.nn", b"os"])
def test_source_code_in_a_persistent_id_writes_no_patch(tmp_path: pathlib.Path, module: bytes):
    # Torch compares the source of a "module" with that of the class, and may write a patch file.
    name = b"Module" if module == b"torch.nn" else b"system"
    program = b"\x80\x02(" + text("module") + b"c" + module + b"\n" + name + b"\n"
    program += text("patch") + text("x = 1") + b"tQ."
    assert "refers to " + f"{module.decode()}.{name.decode()}" in refusal(tmp_path, legacy(program))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_torchscript_is_called_what_it_is(canary: Canary):
    entries = {"a/constants.pkl": b"\x80\x02).", "a/code/__torch__.py": canary.code.encode()}
    assert "TorchScript" in refusal(canary.folder, zipped(b"\x80\x02}.", entries))
    assert not canary.fired()


ARCHIVES: dict[str, tuple[str, dict[str, bytes]]] = {
    "second_program": ("posix.system", {"b/data.pkl": pickle.dumps(Call(os.system, ":"), 2)}),
    "climbing_name": ("outside of it", {"a/../../../evil": b"x"}),
    "absolute_name": ("outside of it", {"/tmp/evil": b"x"}),
    "one_name_twice": ("two entries", {"a/data/0": b"x"}),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives_unlike_those_of_torch_are_refused(tmp_path: pathlib.Path, case: str):
    said, entries = ARCHIVES[case]
    assert said in refusal(tmp_path, zipped(rebuilt(*TENSOR), entries))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_one_flipped_bit_of_an_archived_tensor_is_found(tmp_path: pathlib.Path):
    content = saved({"a": torch.full((100,), 0.5)})
    place = content.index(struct.pack("<100f", *[0.5] * 100)) + 200
    damaged = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    assert "damaged or truncated torch file" in refusal(tmp_path, damaged)
    (tmp_path / "weights.pth").write_bytes(content)
    assert read_tensors(tmp_path / "weights.pth").tensors["a"].shape == (100,)


def test_compressed_and_foreign_archives_are_refused(tmp_path: pathlib.Path):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(10**6))
    assert "compressed" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert "none that torch.save wrote" in refused(path)


NO_HOOKS = collections.OrderedDict()
LIES: dict[str, bytes] = {
    "larger_than_the_storage": rebuilt(0, (10**6,), (1,), False, NO_HOOKS),
    "expanded": rebuilt(0, (1000, 1000), (0, 0), False, NO_HOOKS),
    "negative_stride": rebuilt(0, (2,), (-1,), False, NO_HOOKS),
    "negative_size": rebuilt(0, (-2,), (1,), False, NO_HOOKS),
    "negative_offset": rebuilt(-1, (2,), (1,), False, NO_HOOKS),
    "huge_offset": rebuilt(2**62, (2,), (1,), False, NO_HOOKS),
    "size_of_text": rebuilt(0, ("4",), (1,), False, NO_HOOKS),
    "no_arguments": rebuilt(),
    "no_such_storage": rebuilt(*TENSOR, key=("storage", torch.FloatStorage, "9", "cpu", 4)),
    "climbing_storage": rebuilt(*TENSOR, key=("storage", torch.FloatStorage, "../../x", "cpu", 4)),
    "storage_larger_than_its_entry": rebuilt(
        *TENSOR, key=("storage", torch.FloatStorage, "0", "cpu", 2**40)
    ),
    "empty_persistent_id": rebuilt(*TENSOR, key=()),
    "persistent_id_of_another_kind": rebuilt(
        *TENSOR, key=("module", torch.FloatStorage, "0", "cpu", 4)
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_tensors_that_lie_about_their_storage_are_refused(tmp_path: pathlib.Path, case: str):
    refusal(tmp_path, zipped(LIES[case]))
    # The honest version of the same file.
    (tmp_path / "weights.pth").write_bytes(zipped(rebuilt(*TENSOR)))
    np.testing.assert_array_equal(
        read_tensors(tmp_path / "weights.pth").tensors["conv.weight"], np.zeros(4, np.float32)
    )


BOMBS: dict[str, bytes] = {
    # As keys, these are hashed: 2^50 steps, and 10^6 calls deep, which ends the process.
    "doubled_tuples": (
        b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(50)) + b"K\x01s."
    ),
    "nested_tuples": b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",
    # A value of 2^50 elements, if anyone walks or prints it.
    "doubled_lists": (
        b"\x80\x02}" + text("a") + b"".join(b"]q%c(" % i for i in range(50)) + b"]q2"
        + b"".join(b"h%ce" % (i + 1) for i in range(49, -1, -1)) + b"s."
    ),
    "nested_lists": b"\x80\x02}" + text("a") + b"]" * 10**5 + b"a" * (10**5 - 1) + b"s.",
    "more_taken_than_there_is": b"\x80\x02\x86\x86.",
    "no_mark": b"\x80\x02t.",
    "unknown_memo": b"\x80\x02h\x07.",
    "no_end": b"\x80\x02}",
    "unknown_instruction": b"\x80\x02\xff.",
    "text_beyond_the_end": b"\x80\x02X\xff\xff\xff\x7fa.",
    "text_not_utf8": b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("pack", [zipped, legacy])
@pytest.mark.parametrize("case", BOMBS)
def test_pickles_that_would_exhaust_the_reader_are_refused(
    tmp_path: pathlib.Path, case: str, pack: Callable[[bytes], bytes]
):
    refusal(tmp_path, pack(BOMBS[case]))


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_refused_at_any_length(tmp_path: pathlib.Path, kind: str):
    state = {"a": torch.ones(300), "b": torch.ones(())}
    content = (
        safetensors.numpy.save({name: value.numpy() for name, value in state.items()})
        if kind == "safetensors"
        else saved(state, archive=kind == "zip")
    )
    for length in [*range(0, 40, 3), *range(40, len(content), 97), len(content) - 1]:
        refusal(tmp_path, content[:length])


def test_damaged_torch_files_are_read_or_refused(tmp_path: pathlib.Path):
    generator = np.random.default_rng(0)
    path = tmp_path / "weights.pth"
    outcomes = collections.Counter()
    for archive in (True, False):
        content = saved({"a": torch.ones(20), "b": torch.ones(3, 4)}, archive=archive)
        for _ in range(100):
            damaged = bytearray(content)
            damaged[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
            path.write_bytes(damaged)
            outcomes["refused"] += 1
            with contextlib.suppress(WeightsError):
                outcomes[read_tensors(path).format] += 1
                outcomes["refused"] -= 1
    assert outcomes["torch"] > 10
    assert outcomes["refused"] > 10


def layout(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """Return a safetensors file."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def entry(begin: int, end: int, shape: Any = (1,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


GOOD = {"a": entry(0, 4), "b": entry(4, 8)}
MALFORMED: dict[str, tuple[str, bytes]] = {
    "length_2^63": ("header of 9223372036854775808 bytes", layout(GOOD, length=2**63)),
    "length_beyond_the_file": ("header of 500 bytes", layout(GOOD, length=500)),
    "length_of_20_MB": ("header of 20000000 bytes", layout(GOOD, bytes(20_000_000), 20_000_000)),
    "length_zero": ("damaged safetensors", layout(GOOD, length=0)),
    "length_too_short": ("damaged safetensors", layout(GOOD, length=10)),
    "no_object": ("neither safetensors", layout(b'[["a", 1]]')),
    "no_json": ("damaged safetensors", layout(b"{a: F32}")),
    "not_utf8": ("UTF-8", layout(b'{"\xff\xfe": 1}')),
    "overlap": ("damaged safetensors", layout({"a": entry(0, 4), "b": entry(2, 6)})),
    "hole": ("damaged safetensors", layout({"a": entry(0, 4), "b": entry(6, 10)}, bytes(10))),
    "beyond_the_file": ("damaged safetensors", layout({"a": entry(0, 80, (20,))})),
    "backwards": ("damaged safetensors", layout({"a": entry(8, 0, (2,))})),
    "negative_offset": ("damaged safetensors", layout({"a": entry(-8, 8, (2,))})),
    "negative_shape": ("damaged safetensors", layout({"a": entry(0, 8, (-2,))})),
    "overflowing_shape": ("damaged safetensors", layout({"a": entry(0, 8, (2**62, 8))})),
    "fractional_shape": ("damaged safetensors", layout({"a": entry(0, 8, (2.0,))})),
    "shape_of_another_size": ("damaged safetensors", layout({"a": entry(0, 8, (3,))})),
    "dtype_of_another_size": ("damaged safetensors", layout({"a": entry(0, 8, (2,), "F64")})),
    "unknown_dtype": ("damaged safetensors", layout({"a": entry(0, 8, (2,), "F33")})),
    "trailing_bytes": ("damaged safetensors", layout(GOOD, bytes(9))),
    "missing_field": ("damaged safetensors", layout({"a": {"dtype": "F32", "shape": [2]}})),
    "metadata_of_numbers": ("damaged safetensors", layout({"__metadata__": {"x": 1}, **GOOD})),
    "deep_nesting": ("damaged safetensors", layout(b'{"a":' * 50_000 + b"}" * 50_000)),
    "deep_nesting_in_another_field": (
        "damaged safetensors",
        layout(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":' + b"[" * 50_000),
    ),
    "name_twice": (
        "'a' is there twice",
        layout(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 8, (2,))).encode(),) * 2)),
    ),
    "metadata_twice": (
        "'x' is there twice",
        layout(b'{"__metadata__":{"x":"1","x":"2"},' + json.dumps(GOOD).encode()[1:]),
    ),
    "1000_dimensions": ("1000 dimensions", layout({"a": entry(0, 8, [2] + [1] * 999)})),
    "9_dimensions": ("9 dimensions", layout({"a": entry(0, 8, [2] + [1] * 8)})),
    "nan": ("not finite in float32: b", layout(GOOD, struct.pack("<ff", 1, np.nan))),
    "infinite": ("not finite in float32: a, b", layout(GOOD, struct.pack("<ff", np.inf, -np.inf))),
    "beyond_float32": (
        "not finite in float32: a", layout({"a": entry(0, 8, (1,), "F64")}, struct.pack("<d", 1e39))
    ),
    "integers": ("a is I32 (2,)", layout({"a": entry(0, 8, (2,), "I32")})),
    "booleans": ("a is BOOL (8,)", layout({"a": entry(0, 8, (8,), "BOOL")})),
    "one_boolean": ("a is BOOL ()", layout({"a": entry(0, 1, (), "BOOL")}, bytes(1))),
    "8_bit_floats": ("a is F8_E4M3 (8,)", layout({"a": entry(0, 8, (8,), "F8_E4M3")})),
    "complex": ("a is C64 (1,)", layout({"a": entry(0, 8, (1,), "C64")})),
    "nothing": ("holds no tensors", layout({}, b"")),
    "escape_in_a_name": ("\\x1b[2J", layout({"\x1b[2J\n": entry(0, 8, (2,), "I32")})),
    "name_of_a_million": ("dimensions", layout({"a" * 10**6: entry(0, 8, [2] + [1] * 8)})),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_safetensors_are_refused(tmp_path: pathlib.Path, case: str):
    said, content = MALFORMED[case]
    assert said in refusal(tmp_path, content)


def test_the_layout_that_the_malformed_ones_vary_is_read(tmp_path: pathlib.Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(layout({"__metadata__": {"x": "y"}, **GOOD}, struct.pack("<ff", 1.5, -2)))
    tensors, metadata, format = read_tensors(path)
    assert {name: (value.dtype, value.tolist()) for name, value in tensors.items()} == {
        "a": (np.float32, [1.5]),
        "b": (np.float32, [-2]),
    }
    assert metadata == {"x": "y"}
    assert format == "safetensors"


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_all_floating_point_types_become_float32(tmp_path: pathlib.Path, kind: str):
    values = [[1.0, -2.5, 0.15625], [3e-3, 0.1, 65504.0]]
    dtypes = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
    arrays = {np.dtype(dtype).name: np.array(values, dtype) for dtype in dtypes}
    arrays |= {"scalar": np.array(0.1, np.float32), "count": np.array(7, np.int64)}
    path = tmp_path / "weights"
    if kind == "safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        state = {
            name: torch.tensor(array.tolist(), dtype=getattr(torch, array.dtype.name))
            for name, array in arrays.items()
        }
        state["parameter"] = torch.nn.Parameter(state["float32"].T)
        arrays["parameter"] = arrays["float32"].T
        path.write_bytes(saved(state, archive=kind == "zip"))
    read = read_tensors(path)
    assert read.tensors.keys() == arrays.keys()
    assert read.metadata == {}
    assert read.format == ("safetensors" if kind == "safetensors" else "torch")
    for name, array in arrays.items():
        got = read.tensors[name]
        assert got.dtype == (np.int64 if name == "count" else np.float32)
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, array.astype(got.dtype), strict=True)


def test_a_header_that_begins_as_a_pickle_does_is_read(tmp_path: pathlib.Path):
    header = json.dumps(GOOD).encode().ljust(0x0280)
    (tmp_path / "weights").write_bytes(layout(header))
    assert (tmp_path / "weights").read_bytes().startswith(b"\x80\x02")
    assert read_tensors(tmp_path / "weights").format == "safetensors"


STATE = {"a.weight": torch.ones(2), "b.module.bias": torch.zeros(1)}
CHECKPOINT = {
    "epoch": 3,
    "optimizer": {"state": {0: {"step": torch.zeros(())}}, "groups": [{"betas": (0.9, 0.99)}]},
    "best": 0.1,
    "milestones": collections.Counter([2]),
}
WRAPPED = {
    "bare": STATE,
    "ordered": collections.OrderedDict(STATE),
    "state_dict": {"state_dict": STATE, **CHECKPOINT},
    "model": {"model": STATE, **CHECKPOINT},
    "model_state_dict": {"model_state_dict": STATE},
    "nested": {"model": {"state_dict": STATE, "name": "x"}},
    "beside_a_name": {"state_dict": STATE, "model": "resnet50"},
    "module": {f"module.{name}": value for name, value in STATE.items()},
    "module_twice": {f"module.module.{name}": value for name, value in STATE.items()},
    "compiled": {f"_orig_mod.{name}": value for name, value in STATE.items()},
    "compiled_in_parallel": {f"module._orig_mod.{name}": v for name, v in STATE.items()},
    "parallel_compiled": {f"_orig_mod.module.{name}": v for name, v in STATE.items()},
    "compiled_parts": {
        "_orig_mod.a.weight": STATE["a.weight"],
        "b.module._orig_mod.bias": STATE["b.module.bias"],
    },
    "lightning": {"state_dict": {f"model.{name}": v for name, v in STATE.items()}, **CHECKPOINT},
    "lightning_net": {"state_dict": {f"net.module.{name}": v for name, v in STATE.items()}},
    "flattened": {f"state_dict.{name}": value for name, value in STATE.items()},
    "net": {"net": STATE, **CHECKPOINT},
    "deepspeed": {"module": STATE, **CHECKPOINT},
    "module_wrapped": {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrappers_and_the_prefix_of_data_parallel_are_taken_off(
    tmp_path: pathlib.Path, wrapping: str
):
    (tmp_path / "a.pth.tar").write_bytes(saved(WRAPPED[wrapping]))
    tensors = read_tensors(tmp_path / "a.pth.tar").tensors
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "a.weight": [1, 1],
        "b.module.bias": [0],
    }


def test_hundreds_of_tensors_and_tied_ones_are_read(tmp_path: pathlib.Path):
    state = {str(index): torch.tensor(float(index)) for index in range(300)}
    state["tied"] = state["299"]
    (tmp_path / "a.pt").write_bytes(saved(state))
    tensors = read_tensors(tmp_path / "a.pt").tensors
    assert [float(value) for value in tensors.values()] == [*range(300), 299]


def test_our_own_names_are_taken_as_they_are(tmp_path: pathlib.Path):
    (tmp_path / "a.pt").write_bytes(saved({"model._orig_mod.a": torch.ones(1)}))
    assert read_tensors(tmp_path / "a.pt", as_named=True).tensors.keys() == {"model._orig_mod.a"}


def test_a_prefix_that_only_some_names_have_stays(tmp_path: pathlib.Path):
    (tmp_path / "a.pt").write_bytes(saved({"module.a": torch.ones(1), "b": torch.ones(1)}))
    assert read_tensors(tmp_path / "a.pt").tensors.keys() == {"module.a", "b"}


def test_attributes_that_hide_the_methods_of_a_dict_do_not_matter(tmp_path: pathlib.Path):
    hidden = dict.fromkeys(("items", "keys", "values", "get", "__iter__", "__class__"), "x")
    (tmp_path / "a.pt").write_bytes(saved(WithAttributes(**hidden)))
    assert read_tensors(tmp_path / "a.pt").tensors["a"].tolist() == [1, 1]


UNFIT: dict[str, tuple[str, Any]] = {
    "tensor": ("holds Tensor, not a state dict", torch.ones(2)),
    "list": ("holds list, not a state dict", [torch.ones(2)]),
    "empty": ("holds no tensors", {}),
    "number": ("int under 'step'", {"a": torch.ones(1), "step": 3}),
    "dict": ("dict under 'ema'", {"ema": {"a": torch.ones(1)}}),
    "key": ("Tensor under 3", {3: torch.ones(1)}),
    "several": ("several state dicts, state_dict, model", {"model": STATE, "state_dict": STATE}),
    "nested_thrice": ("several|dict under 'model'", {"model": {"model": {"model": STATE}}}),
    "sparse": ("_rebuild_sparse_tensor", {"a": torch.eye(2).to_sparse()}),
    "complex": ("ComplexFloatStorage", {"a": torch.ones(2, dtype=torch.complex64)}),
    "integers": ("a is torch.int64 (2,)", {"a": torch.ones(2, dtype=torch.int64)}),
    "boolean": ("a is torch.bool ()", {"a": torch.tensor(True)}),
    "nan": ("not finite in float32: a", {"a": torch.tensor([np.nan]), "b": torch.ones(1)}),
    "9_dimensions": ("9 dimensions", {"a": torch.ones([1] * 9)}),
    "numpy": ("numpy", {"a": np.ones(2)}),
    "protocol_4": ("instruction FRAME", None),
}


@pytest.mark.parametrize("case", UNFIT)
def test_content_that_is_no_state_dict_is_refused(tmp_path: pathlib.Path, case: str):
    said, content = UNFIT[case]
    data = saved({"a": 1.0}, 4) if case == "protocol_4" else saved(content)
    reason = refusal(tmp_path, data)
    assert any(part in reason for part in said.split("|"))


def test_quantised_tensors_are_refused(tmp_path: pathlib.Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = saved({"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)})
    assert "_rebuild_qtensor" in refusal(tmp_path, quantised)


def _tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return memory.getvalue()


OTHER_FILES = {
    "empty": ("is empty", b""),
    "one_byte": ("neither", b"x"),
    "quota_page": ("web page", b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"),
    "web_page": ("web page", b"\xef\xbb\xbf\n <HTML>"),
    "git_lfs": ("git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "gzip": ("unpack", gzip.compress(b"x")),
    "tar": ("unpack", _tar()),
    "jpeg": ("neither safetensors nor", b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_other_files_are_called_what_they_are(tmp_path: pathlib.Path, case: str):
    said, content = OTHER_FILES[case]
    assert said in refusal(tmp_path, content)


def test_missing_files_folders_and_pipes_are_refused(tmp_path: pathlib.Path):
    assert refused(tmp_path / "missing.pth") == "no such file"
    assert refused(tmp_path) == "is not a regular file"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe") == "is not a regular file"
    assert "cannot be read" in refused(tmp_path / ("x" * 300))
    refused(tmp_path / "line\nbreak\x1b[2J")


def test_the_exit_code_is_that_of_unusable_data():
    assert WeightsError.exit_code == 3


VIEWS: dict[str, torch.Tensor] = {
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "part": torch.arange(12.0).reshape(3, 4)[1:, 1::2],
    "expanded": torch.arange(3.0).expand(2, 3),
    "scalar_of_many": torch.arange(12.0)[7],
    "nothing": torch.zeros(0, 3),
    "last_channels": torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "half": torch.arange(5, dtype=torch.float16)[2:],
    "parameter": torch.nn.Parameter(torch.arange(4.0), requires_grad=False),
}


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_views_are_what_torch_reads_and_no_torch_is_needed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, archive: bool
):
    shared = torch.arange(20.0)
    state = VIEWS | {"first": shared[:5], "second": shared[3:].reshape(17, 1), "tied": shared}
    content = saved({"state_dict": state, **CHECKPOINT}, archive=archive)
    (tmp_path / "a.pt").write_bytes(content)
    expected = torch.load(io.BytesIO(content), weights_only=True)["state_dict"]
    monkeypatch.setitem(sys.modules, "torch", None)
    tensors = read_tensors(tmp_path / "a.pt").tensors
    assert tensors.keys() == expected.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, expected[name].float().numpy(), strict=True)


@pytest.mark.parametrize("name", ["torch.FloatStorage", "torch.Size", "collections.OrderedDict"])
def test_names_of_torch_are_given_no_attributes(tmp_path: pathlib.Path, name: str):
    module, _, attribute = name.rpartition(".")
    found = b"\x80\x02c" + f"{module}\n{attribute}\n".encode()
    for state in (b"}" + text("x") + b"K\x01s", b"N}" + text("__call__") + b"Ns\x86"):
        assert "gives attributes" in refusal(tmp_path, zipped(found + state + b"b."))


def overlapping() -> bytes:
    """Return a torch file in which 300 storages are the same 16 kB."""
    content = saved({str(index): torch.full((4096,), 1.0 + index) for index in range(300)})
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        # Nothing but the directory says where an entry is.
        start = archive.start_dir
        first = entries["archive/data/0"]
        for name, entry in entries.items():
            if "/data/" in name:
                entry.header_offset, entry.CRC = first.header_offset, first.CRC
        directory = io.BytesIO()
        archive.fp, archive.start_dir = directory, 0
        archive._write_end_record()  # pyright: ignore[reportAttributeAccessIssue]: not public
    end = directory.getvalue()
    place = end.rindex(b"PK\x05\x06") + 16
    return content[:start] + end[:place] + struct.pack("<I", start) + end[place + 4 :]


def huge_legacy() -> bytes:
    storage = ("storage", torch.FloatStorage, "0", "cpu", 2**29)
    program = rebuilt(0, (2**29,), (1,), False, NO_HOOKS, key=storage)
    return (
        legacy(program)[: -len(pickle.dumps([], 2))]
        + pickle.dumps(["0"], 2)
        + bytes([0, 0, 0, 32, 0, 0, 0, 0])
    )


def in_one_storage() -> bytes:
    return saved({"a": torch.zeros(2**24)[:4]})


def long_directory() -> tuple[bytes, bytes]:
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, 2**31 - 100, 0, 0)
    return b"PK\x03\x04" + bytes(2**20), end


SPARSE = 2**31
HUGE: dict[str, tuple[str, bytes | tuple[bytes, bytes]]] = {
    "overlapping_entries": ("overlap", overlapping()),
    "sparse_safetensors": (
        "no network", layout({"a": entry(0, SPARSE, (2**29,))}, b"")
    ),
    "sparse_legacy": ("no network", huge_legacy()),
    "sparse_text_of_a_pickle": ("damaged", b"\x80\x02X" + struct.pack("<I", 2**31 - 1)),
    "sparse_directory_of_an_archive": ("directory", long_directory()),
    "large_storage": ("storages are much larger", in_one_storage()),
    "memo_of_4_billions": ("counts beyond", zipped(b"\x80\x02}r\xff\xff\xff\xff.")),
    "100_dimensions": (
        "100 dimensions", zipped(rebuilt(0, (2**30,) * 100, (1,) * 100, False, NO_HOOKS))
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_files_are_refused_before_they_take_memory(tmp_path: pathlib.Path, case: str):
    said, content = HUGE[case]
    start, end = content if isinstance(content, tuple) else (content, b"")
    path = tmp_path / "weights.pth"
    path.write_bytes(start)
    if case.startswith("sparse"):
        size = len(start) + SPARSE if "safetensors" in case or "legacy" in case else SPARSE
        with open(path, "rb+") as file:
            file.truncate(size - len(end))
            file.seek(0, os.SEEK_END)
            file.write(end)

    def none(outlines: Any, metadata: Any) -> list[str]:
        raise WeightsError(f"{path}: no network")

    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=said):
            read_tensors(path, none if said == "no network" else None)
        assert tracemalloc.get_traced_memory()[1] < 2e8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_only_what_is_wanted_is_read(tmp_path: pathlib.Path, kind: str):
    state = {"a": torch.ones(3), "large": torch.zeros(2**23)}
    content = (
        safetensors.numpy.save({name: value.numpy() for name, value in state.items()})
        if kind == "safetensors"
        else saved(state, archive=kind == "zip")
    )
    (tmp_path / "a").write_bytes(content)
    shapes = {}

    def wanted(outlines: Any, metadata: Any) -> list[str]:
        shapes.update({name: outline.shape for name, outline in outlines.items()})
        return ["a"]

    tracemalloc.start()
    tensors = read_tensors(tmp_path / "a", wanted).tensors
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shapes == {"a": (3,), "large": (2**23,)}
    assert {name: value.tolist() for name, value in tensors.items()} == {"a": [1, 1, 1]}
    # Of 33 MB; of an old torch file the begin is read, and of an archive the directory looked for.
    assert peak < {"legacy": 20e6, "zip": 5e6, "safetensors": 1e6}[kind]


def test_negative_variances_are_refused(tmp_path: pathlib.Path):
    state = {"bn.running_var": torch.tensor([1.0, -1e-9]), "bn.running_mean": -torch.ones(2)}
    assert "negative variances: bn.running_var" in refusal(tmp_path, saved(state))
    state["bn.running_var"] = torch.tensor([0.0, 1.0])
    (tmp_path / "a").write_bytes(saved(state))
    assert read_tensors(tmp_path / "a").tensors["bn.running_var"].tolist() == [0, 1]
