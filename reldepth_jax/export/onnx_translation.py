"""A traced function as an ONNX graph: a translator of JAX's own intermediate form.

It knows primitives of JAX, not networks: whatever layers are traced becomes a graph, with sizes
that stay symbolic. Three things make the graph as small as one written by hand:

- What depends on weights alone is computed now.
- A tensor remembers in which order its axes lie in memory. Transposing changes that order, and a
  node moves data only where an operator needs another one: convolutions of ONNX have channels
  first, ours last.
- Factors and summands of the channels of a convolution become part of it.

Functions of the names in `onnx_primitives.FUNCTIONS` become one operator; all others are taken
apart.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr

from reldepth_jax.export.onnx_graph import (
    Convolution,
    Graph,
    Tensor,
    Untranslatable,
    Value,
    known,
)
from reldepth_jax.export.onnx_primitives import FUNCTIONS, PRIMITIVES


def translate(graph: Graph, closed: Any, arguments: Sequence[Value]) -> list[Value]:
    """Add what a `jax.core.ClosedJaxpr` computes; return its results.

    Raises Untranslatable for a primitive that has no translation.
    """
    jaxpr = closed.jaxpr
    values: dict[Any, Value] = dict(zip(jaxpr.invars, arguments, strict=True))
    values.update(zip(jaxpr.constvars, map(np.asarray, closed.consts), strict=True))
    uses = Counter(
        each
        for each in [*(v for e in jaxpr.eqns for v in e.invars), *jaxpr.outvars]
        if not hasattr(each, "val")
    )

    def read(each: Any, *, fold: bool = False) -> Value:
        if hasattr(each, "val"):
            return np.asarray(each.val, each.aval.dtype)
        value = values[each]
        if isinstance(value, Convolution) and not (fold and uses[each] == 1 and not graph.half):
            value = values[each] = graph.written(value)
        return value

    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inputs = [read(each, fold=name in ("add", "sub", "mul")) for each in equation.invars]
        inner = next((equation.params[key] for key in _INNER if key in equation.params), None)
        if inner is not None:
            whole = FUNCTIONS.get(equation.params.get("name", ""))
            if whole is not None and any(isinstance(each, Tensor) for each in inputs):
                results = whole(graph, equation, *inputs)
            else:
                if not hasattr(inner, "consts"):
                    inner = ClosedJaxpr(inner, ())
                results = translate(graph, inner, inputs)
        elif (
            all(isinstance(each, np.ndarray) for each in inputs)
            and known(size for out in equation.outvars for size in out.aval.shape)
            and name != "dim_as_value"
        ):
            results = _computed_now(equation, inputs)
        elif (folded := _folded(name, inputs, equation)) is not None:
            results = folded
        elif name in PRIMITIVES:
            inputs = [graph.written(each) for each in inputs]
            results = PRIMITIVES[name](graph, equation, *inputs)
        else:
            raise Untranslatable(
                f"no translation of JAX's {name} to ONNX: write the layer with another one, or add"
                " it to reldepth_jax/export/onnx_primitives.py"
            )
        results = results if isinstance(results, list) else [results]
        values.update(zip(equation.outvars, results, strict=True))
    return [read(each) for each in jaxpr.outvars]


_INNER = ("jaxpr", "call_jaxpr")


# In no time; JAX would compile each for each shape.
_NUMPY: dict[str, Callable[..., Any]] = {
    "add": lambda x, y, **_: x + y,
    "sub": lambda x, y, **_: x - y,
    "mul": lambda x, y, **_: x * y,
    "rsqrt": lambda x, **_: np.reciprocal(np.sqrt(x)),
    "reshape": lambda x, new_sizes, **_: x.reshape(new_sizes),
}


def _computed_now(equation: Any, inputs: list[Any]) -> list[np.ndarray]:
    if equation.primitive.name in _NUMPY:
        return [np.asarray(_NUMPY[equation.primitive.name](*inputs, **equation.params))]
    made = equation.primitive.bind(*inputs, **equation.params)
    return [np.asarray(each) for each in (made if equation.primitive.multiple_results else [made])]


def _folded(name: str, inputs: list[Any], equation: Any) -> Convolution | None:
    """Return a convolution of which a factor or summand of its channels is a part, if it is one."""
    places = [place for place, each in enumerate(inputs) if isinstance(each, Convolution)]
    if len(places) != 1 or len(inputs) != 2:
        return None
    conv, other = inputs[places[0]], inputs[1 - places[0]]
    if not isinstance(other, np.ndarray):
        return None
    channels = conv.kernel.shape[0]
    lie = [1] * len(conv.order)
    lie[conv.order[1]] = channels
    if other.ndim and list(other.shape) not in (lie, [1] * len(lie)):
        return None
    each = np.broadcast_to(other.reshape(-1), (channels,))
    if name == "mul":
        kernel = conv.kernel * each.reshape(-1, 1, 1, 1)
        return dataclasses.replace(conv, kernel=kernel, bias=conv.bias * each)
    if name == "sub" and places == [1]:
        return dataclasses.replace(conv, kernel=-conv.kernel, bias=each - conv.bias)
    return dataclasses.replace(conv, bias=conv.bias + (each if name == "add" else -each))
