"""A graph of ONNX while it is made: nodes, constants, sizes, and how tensors lie in memory."""

import ast
import dataclasses
import hashlib
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from reldepth_jax.errors import UserError

Size = Any
"""An int, or a dimension of JAX's that is not known before the graph runs."""
_LEAST_HALVED = 256
"""Numbers in a kernel or matrix from which it is stored as float16."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A value of the graph: its name, and which axis lies at each place in memory."""

    name: str
    order: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution that is not written yet: what follows may become part of it."""

    image: str
    kernel: np.ndarray
    """(out, in / groups, height, width)."""
    bias: np.ndarray
    options: dict[str, Any]
    order: tuple[int, ...]


Value = Tensor | Convolution | np.ndarray


class Untranslatable(UserError):
    """A computation that has no translation."""


class Graph:
    """Nodes and constants, as they come."""

    def __init__(self, *, half: bool) -> None:
        """Start empty; with `half` kernels and matrices are stored as float16.

        Then nothing becomes part of a convolution: the kernel of a file that is in float16 already
        stays exact. Runtimes fuse such nodes when they load the file.
        """
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.sizes: dict[str, str] = {}
        """Names of int64 [1] by what they hold, as JAX writes it: `16*h`."""
        self.half = half
        self._kept: dict[tuple[Any, ...], str] = {}

    def add(self, kind: str, *inputs: str, outputs: int = 1, **options: Any) -> Any:
        """Add a node; return the name of its output, or a list of several."""
        names = [f"{kind}_{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **options))
        return names[0] if outputs == 1 else names

    def constant(self, array: np.ndarray) -> str:
        """Return the name of an array; equal ones are kept once."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._kept:
            name = f"constant_{len(self.constants)}"
            sides = sum(side > 1 for side in array.shape)
            halved = (
                self.half
                and array.dtype == np.float32
                and array.size >= _LEAST_HALVED
                and sides > 1
            )
            stored = array
            if halved:
                with np.errstate(over="ignore"):
                    stored = array.astype(np.float16)
                if not np.isfinite(stored).all():
                    raise UserError("float16 cannot hold a weight of this network: leave it out")
            self.constants.append(numpy_helper.from_array(stored, name))
            self._kept[key] = self.add("Cast", name, to=onnx.TensorProto.FLOAT) if halved else name
        return self._kept[key]

    def integers(self, *values: int) -> str:
        """Return the name of a list of int64."""
        return self.constant(np.array(values, np.int64))

    def laid(self, value: Value, order: Sequence[int] | None = None) -> str:
        """Return the name of a value whose axes lie in this order; None: one after the other."""
        if isinstance(value, Convolution):
            value = self.written(value)
        axes = value.ndim if isinstance(value, np.ndarray) else len(value.order)
        order = tuple(range(axes)) if order is None else tuple(order)
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order))
        if value.order == order:
            return value.name
        moved = [value.order.index(axis) for axis in order]
        return self.add("Transpose", value.name, perm=moved)

    def written(self, value: Value) -> Tensor | np.ndarray:
        """Return the value, its convolution written."""
        if not isinstance(value, Convolution):
            return value
        inputs = [value.image, self.constant(value.kernel)]
        if value.bias.any():
            inputs.append(self.constant(value.bias))
        return Tensor(self.add("Conv", *inputs, **value.options), value.order)

    def shape(self, sizes: Iterable[Size]) -> str:
        """Return the name of a list of int64."""
        sizes = list(sizes)
        if known(sizes):
            return self.integers(*map(int, sizes))
        names = tuple(self.size(size) for size in sizes)
        if names not in self._kept:
            self._kept[names] = self.add("Concat", *names, axis=0)
        return self._kept[names]

    def size(self, size: Size) -> str:
        """Return the name of one int64 [1]."""
        text = str(size).replace("^", "**")
        if text not in self.sizes:
            self.sizes[text] = self._named(self._computed(ast.parse(text, mode="eval").body))
        return self.sizes[text]

    def _named(self, value: int | str) -> str:
        return self.integers(value) if isinstance(value, int) else value

    def _computed(self, node: ast.expr) -> int | str:
        """Return a number, or the name of one int64 [1], for an expression as JAX writes it."""
        text = ast.unparse(node)
        if text in self.sizes:
            return self.sizes[text]
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                kind, parts = "Mul", [ast.Constant(-1), operand]
            case ast.BinOp(left=left, op=operation, right=right):
                kind, parts = _OPERATIONS[type(operation).__name__], [left, right]
            case ast.Call(func=ast.Name(id=name), args=parts):
                kind = _OPERATIONS[name]
            case _:
                raise Untranslatable(f"no translation of the size {text}")
        values = [self._computed(part) for part in parts]
        if all(isinstance(value, int) for value in values):
            return _INTEGERS[kind](*values)
        left, right = map(self._named, values)
        if kind == "Div":
            # ONNX rounds towards 0; JAX writes ceilings as floors of negative numbers.
            left = self.add("Sub", left, self.add("Mod", left, right))
        self.sizes[text] = self.add(kind, left, right)
        return self.sizes[text]


_OPERATIONS = {
    "Add": "Add", "Sub": "Sub", "Mult": "Mul", "Pow": "Pow",
    "floordiv": "Div", "mod": "Mod", "max": "Max", "min": "Min",
}  # fmt: skip
_INTEGERS: dict[str, Callable[..., int]] = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Pow": operator.pow,
    "Div": operator.floordiv, "Mod": operator.mod, "Max": max, "Min": min,
}  # fmt: skip


def as_int(size: Size) -> int | None:
    """Return a size that is known, else None."""
    return int(size) if isinstance(size, int | np.integer) else None


def known(shape: Iterable[Size]) -> bool:
    """Return whether all sizes are."""
    return all(as_int(size) is not None for size in shape)
