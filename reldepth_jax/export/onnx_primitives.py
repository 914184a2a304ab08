"""What each primitive of JAX becomes in ONNX (operator set 18).

Only operators of the standard set, so that every runtime has them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from reldepth_jax.export.onnx_graph import (
    Convolution,
    Graph,
    Size,
    Tensor,
    Untranslatable,
    Value,
    as_int,
    known,
)

OPSET = 18
CHANNELS_FIRST = (0, 3, 1, 2)
"""The order in which ONNX has images."""

Translation = Callable[..., Value | list[Value]]
PRIMITIVES: dict[str, Translation] = {}
"""By the name of the primitive: (graph, equation, *inputs) -> its results."""
FUNCTIONS: dict[str, Translation] = {}
"""By the name of a function under `jax.jit`, the same; for one result."""


def _primitive(*names: str) -> Callable[[Translation], Translation]:
    def register(translation: Translation) -> Translation:
        PRIMITIVES.update(dict.fromkeys(names, translation))
        return translation

    return register


def _function(*names: str) -> Callable[[Translation], Translation]:
    def register(translation: Translation) -> Translation:
        FUNCTIONS.update(dict.fromkeys(names, translation))
        return translation

    return register


def _shape(equation: Any, place: int = 0) -> tuple[Size, ...]:
    return equation.outvars[place].aval.shape


def _input_shape(equation: Any, place: int = 0) -> tuple[Size, ...]:
    return equation.invars[place].aval.shape


def _common_order(inputs: Sequence[Value], axes: int) -> tuple[int, ...]:
    """Return the order in which the first tensor of so many axes lies."""
    orders = [each.order for each in inputs if isinstance(each, Tensor)]
    return next((order for order in orders if len(order) == axes), tuple(range(axes)))


def _elementwise(kind: str, graph: Graph, equation: Any, *inputs: Value, **options: Any) -> Tensor:
    axes = len(_shape(equation))
    order = _common_order(inputs, axes)
    names = [
        graph.laid(each, order if len(equation.invars[place].aval.shape) == axes else ())
        for place, each in enumerate(inputs)
    ]
    return Tensor(graph.add(kind, *names, **options), order)


for _name, _kind in {
    "add": "Add", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "floor": "Floor",
    "erf": "Erf", "logistic": "Sigmoid", "tanh": "Tanh", "sign": "Sign", "pow": "Pow",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "and": "And", "or": "Or", "not": "Not",
}.items():  # fmt: skip
    PRIMITIVES[_name] = functools.partial(_elementwise, _kind)


@_primitive("copy", "copy_p", "stop_gradient", "sharding_constraint", "optimization_barrier")
def _same(graph: Graph, equation: Any, x: Value) -> Value:
    return x


@_primitive("sub")
def _sub(graph: Graph, equation: Any, x: Value, y: Value) -> Tensor:
    if isinstance(y, np.ndarray):
        # Runtimes make sums a part of convolutions, not differences.
        return _elementwise("Add", graph, equation, x, np.asarray(-y))
    return _elementwise("Sub", graph, equation, x, y)


@_primitive("square")
def _square(graph: Graph, equation: Any, x: Value) -> Tensor:
    return _elementwise("Mul", graph, _Twice(equation), x, x)


class _Twice:
    """An equation that takes its one input twice."""

    def __init__(self, equation: Any):
        self.invars, self.outvars = equation.invars * 2, equation.outvars


@_primitive("integer_pow")
def _integer_pow(graph: Graph, equation: Any, x: Value) -> Tensor:
    power = graph.constant(np.array(equation.params["y"], np.float32))
    order = _common_order([x], len(_shape(equation)))
    return Tensor(graph.add("Pow", graph.laid(x, order), power), order)


@_primitive("rsqrt")
def _rsqrt(graph: Graph, equation: Any, x: Value) -> Tensor:
    root = _elementwise("Sqrt", graph, equation, x)
    return Tensor(graph.add("Reciprocal", root.name), root.order)


@_primitive("erfc")
def _erfc(graph: Graph, equation: Any, x: Value) -> Tensor:
    erf = _elementwise("Erf", graph, equation, x)
    one = graph.constant(np.array(1, np.float32))
    return Tensor(graph.add("Sub", one, erf.name), erf.order)


@_primitive("ne")
def _differs(graph: Graph, equation: Any, *inputs: Value) -> Tensor:
    equal = _elementwise("Equal", graph, equation, *inputs)
    return Tensor(graph.add("Not", equal.name), equal.order)


@_primitive("rem")
def _rem(graph: Graph, equation: Any, *inputs: Value) -> Tensor:
    return _elementwise("Mod", graph, equation, *inputs, fmod=1)  # with the sign of the dividend


@_primitive("select_n")
def _select(graph: Graph, equation: Any, which: Value, *cases: Value) -> Tensor:
    no, yes = cases
    axes = len(_shape(equation))
    order = _common_order([which, yes, no], axes)
    names = [
        graph.laid(each, order if len(equation.invars[place].aval.shape) == axes else ())
        for place, each in ((0, which), (2, yes), (1, no))
    ]
    return Tensor(graph.add("Where", *names), order)


@_primitive("convert_element_type")
def _convert(graph: Graph, equation: Any, x: Value) -> Value:
    dtype = np.dtype(equation.params["new_dtype"])
    if isinstance(x, Tensor) and dtype == equation.invars[0].aval.dtype:
        return x
    to = onnx.helper.np_dtype_to_tensor_dtype(dtype)
    return _elementwise("Cast", graph, equation, x, to=to)


@_primitive("dim_as_value")
def _dimension(graph: Graph, equation: Any) -> Tensor:
    to = onnx.helper.np_dtype_to_tensor_dtype(equation.outvars[0].aval.dtype)
    size = graph.add("Squeeze", graph.size(equation.params["dim"]), graph.integers(0))
    return Tensor(graph.add("Cast", size, to=to), ())


@_primitive("iota")
def _iota(graph: Graph, equation: Any) -> Value:
    shape, axis = _shape(equation), equation.params["dimension"]
    start, step = (graph.constant(np.array(k, np.int64)) for k in (0, 1))
    length = graph.add("Squeeze", graph.size(shape[axis]), graph.integers(0))
    to = onnx.helper.np_dtype_to_tensor_dtype(equation.outvars[0].aval.dtype)
    line = graph.add("Cast", graph.add("Range", start, length, step), to=to)
    return _broadcast_to(graph, Tensor(line, (0,)), (shape[axis],), shape, (axis,))


@_primitive("transpose")
def _transpose(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    new = {old: axis for axis, old in enumerate(equation.params["permutation"])}
    return Tensor(x.name, tuple(new[axis] for axis in x.order))


@_primitive("reshape", "squeeze", "expand_dims")
def _reshape(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    return _reshaped(graph, x, _input_shape(equation), _shape(equation))


@_primitive("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Any, x: Value, *_: Value) -> Value:
    places = tuple(map(int, equation.params["broadcast_dimensions"]))
    return _broadcast_to(graph, x, _input_shape(equation), _shape(equation), places)


def _broadcast_to(
    graph: Graph,
    x: Value,
    old: tuple[Size, ...],
    new: tuple[Size, ...],
    places: tuple[int, ...],
) -> Value:
    """Return `x` with its axes at these places of the new ones, repeated along all others."""
    sides: list[Size] = [1] * len(new)
    for place, size in zip(places, old, strict=True):
        sides[place] = size
    if isinstance(x, np.ndarray):
        x = x.reshape([int(side) for side in sides])
    else:
        assert isinstance(x, Tensor)
        x = _reshaped(graph, x, old, tuple(sides))
    if tuple(sides) == new:
        return x
    order = _common_order([x], len(new))
    shape = graph.shape([new[axis] for axis in order])
    return Tensor(graph.add("Expand", graph.laid(x, order), shape), order)


def _reshaped(graph: Graph, x: Tensor, old: tuple[Size, ...], new: tuple[Size, ...]) -> Tensor:
    """Return `x` in its new shape, its memory as it lies where the axes allow that."""
    if old == new:
        return x
    groups = _groups(old, new)
    lying = [axis for axis in x.order if not _equal(old[axis], 1)]
    order: list[int] = []
    while lying:
        before, after = next(each for each in groups if lying[0] in each[0])
        if tuple(lying[: len(before)]) != before:
            # Axes that become one do not lie beside each other.
            x, order = Tensor(graph.laid(x), tuple(range(len(old)))), list(range(len(new)))
            break
        order += after
        del lying[: len(before)]
    # Sides of 1 may lie anywhere.
    order = [axis for axis in range(len(new)) if axis not in order] + order
    target = _target(graph, [new[axis] for axis in order])
    return Tensor(graph.add("Reshape", x.name, target), tuple(order))


def _target(graph: Graph, sizes: list[Size]) -> str:
    """Return the new shape for Reshape: one size that is not known need not be computed."""
    ints = [as_int(size) for size in sizes]
    if ints.count(None) == 1:
        return graph.integers(*(-1 if size is None else size for size in ints))
    return graph.shape(sizes)


def _groups(
    old: tuple[Size, ...], new: tuple[Size, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return which axes become which, without sides of 1: groups with as many elements."""
    left, right = (
        [(axis, size) for axis, size in enumerate(shape) if not _equal(size, 1)]
        for shape in (old, new)
    )
    groups = []
    while left and right:
        before, after = [left.pop(0)], [right.pop(0)]
        while not _equal(sizes := _count(before), others := _count(after)):
            # The side that the other one is a multiple of is too small.
            smaller, rest = (after, right) if _is_multiple(sizes, others) else (before, left)
            if not rest:
                break
            smaller.append(rest.pop(0))
        groups.append(tuple(tuple(axis for axis, _ in part) for part in (before, after)))
    if left or right or not all(_matches(old, new, *group) for group in groups):
        raise Untranslatable(f"no translation of a reshape from {old} to {new}")
    return groups


def _matches(
    old: tuple[Size, ...], new: tuple[Size, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> bool:
    return _equal(_product([old[axis] for axis in before]), _product([new[axis] for axis in after]))


def _count(axes: list[tuple[int, Size]]) -> Size:
    return _product([size for _, size in axes])


def _equal(left: Size, right: Size) -> bool:
    return bool(left == right)  # false where JAX cannot decide it


def _is_multiple(whole: Size, part: Size) -> bool:
    try:
        return bool(whole % part == 0)
    except Exception:  # JAX cannot decide it
        return False


@_primitive("slice")
def _slice(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    params, shape = equation.params, _input_shape(equation)
    steps = params["strides"] or (1,) * len(shape)
    bounds = zip(
        range(len(shape)), params["start_indices"], params["limit_indices"], steps, strict=True
    )
    cut = [
        (axis, start, stop, step)
        for axis, start, stop, step in bounds
        if not (_equal(start, 0) and step == 1 and _equal(stop, shape[axis]))
    ]
    return _cut(graph, x, cut)


@_primitive("rev")
def _rev(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    # Stops before the first element: beyond the start of any axis.
    return _cut(graph, x, [(axis, -1, -(2**31), -1) for axis in equation.params["dimensions"]])


@_primitive("gather")
def _gather(graph: Graph, equation: Any, x: Tensor, indices: Value) -> Tensor:
    """Return what JAX makes of `x[:, 1:]` and `x[:, ::2]` where sizes are symbolic."""
    params, shape = equation.params, _input_shape(equation)
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes = [int(axis) for axis in numbers.start_index_map]
    dropped = [int(axis) for axis in numbers.collapsed_slice_dims]
    if isinstance(indices, np.ndarray) and indices.ndim == 1:
        starts = dict(zip(axes, map(int, indices), strict=True))
        bounds = [(axis, starts.get(axis, 0), sizes[axis]) for axis in range(len(shape))]
        cut = [each for each in bounds if not _equal(each[2], shape[each[0]])]
        piece = _cut(graph, x, [(axis, start, start + size, 1) for axis, start, size in cut])
        return _reshaped(graph, piece, tuple(sizes), _shape(equation))
    lines = len(axes) == 1 and axes == dropped and len(_input_shape(equation, 1)) == 2
    if not lines or _shape(equation)[axes[0]] != _input_shape(equation, 1)[0]:
        raise Untranslatable("no translation of this kind of indexing to ONNX")
    chosen = graph.add("Squeeze", graph.laid(indices), graph.integers(1))
    return Tensor(graph.add("Gather", x.name, chosen, axis=x.order.index(axes[0])), x.order)


def _cut(graph: Graph, x: Tensor, bounds: Sequence[tuple[int, Size, Size, int]]) -> Tensor:
    """Return the parts from start to stop by step of some axes."""
    if not bounds:
        return x
    axes, starts, stops, steps = zip(*bounds, strict=True)
    inputs = [graph.shape(starts), graph.shape(stops)]
    inputs += [graph.integers(*map(x.order.index, axes)), graph.integers(*map(int, steps))]
    return Tensor(graph.add("Slice", x.name, *inputs), x.order)


@_primitive("split")
def _split(graph: Graph, equation: Any, x: Tensor) -> list[Value]:
    axis, sizes = equation.params["axis"], equation.params["sizes"]
    names = graph.add(
        "Split",
        x.name,
        graph.shape(sizes),
        outputs=len(sizes),
        axis=x.order.index(axis),
    )
    return [Tensor(name, x.order) for name in ([names] if isinstance(names, str) else names)]


@_primitive("concatenate")
def _concatenate(graph: Graph, equation: Any, *parts: Value) -> Tensor:
    order = _common_order(parts, len(_shape(equation)))
    names = [graph.laid(part, order) for part in parts]
    return Tensor(
        graph.add("Concat", *names, axis=order.index(equation.params["dimension"])), order
    )


@_primitive("stack")
def _stack(graph: Graph, equation: Any, *parts: Value) -> Tensor:
    axis, shape = equation.params["axis"], _input_shape(equation)
    one = (*shape[:axis], 1, *shape[axis:])
    places = tuple(place for place in range(len(one)) if place != axis)
    wide = [_broadcast_to(graph, part, shape, one, places) for part in parts]
    order = _common_order(wide, len(one))
    names = [graph.laid(part, order) for part in wide]
    return Tensor(graph.add("Concat", *names, axis=order.index(axis)), order)


@_primitive("pad")
def _pad(graph: Graph, equation: Any, x: Value, value: Value) -> Tensor:
    sides = equation.params["padding_config"]
    if any(int(between) for _, _, between in sides):
        raise Untranslatable("no translation of padding between elements to ONNX")
    order = _common_order([x], len(sides))
    lows, highs = ([sides[axis][end] for axis in order] for end in (0, 1))
    pads = graph.shape([*lows, *highs])
    return Tensor(graph.add("Pad", graph.laid(x, order), pads, graph.laid(value)), order)


@_primitive("reduce_sum", "reduce_max", "reduce_min")
def _reduce(graph: Graph, equation: Any, x: Tensor) -> Tensor:
    kind = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}[
        equation.primitive.name
    ]
    axes = {int(axis) for axis in equation.params["axes"]}
    places = [place for place, axis in enumerate(x.order) if axis in axes]
    name = graph.add(kind, x.name, graph.integers(*places), keepdims=0)
    kept = [axis for axis in x.order if axis not in axes]
    return Tensor(name, tuple(sorted(kept).index(axis) for axis in kept))


@_primitive("dot_general")
def _dot(graph: Graph, equation: Any, *sides: Value) -> Tensor:
    """Return a product of matrices, of the two orders the one that moves fewer operands."""
    contracted, batches = equation.params["dimension_numbers"]
    shapes = [_input_shape(equation, place) for place in (0, 1)]
    free = [
        [axis for axis in range(len(shape)) if axis not in (*contracted[k], *batches[k])]
        for k, shape in enumerate(shapes)
    ]
    wanted = {
        # (side, as the left or right operand): how it must lie.
        (k, left): (
            (*batches[k], *free[k], *contracted[k])
            if left
            else (*batches[k], *contracted[k], *free[k])
        )
        for k in (0, 1)
        for left in (True, False)
    }

    def moved(first: int) -> int:
        return sum(
            isinstance(each := sides[k], Tensor) and each.order != wanted[k, k == first]
            for k in (0, 1)
        )

    first = min((0, 1), key=moved)
    names = []
    for k in (first, 1 - first):
        left = k == first
        name = graph.laid(sides[k], wanted[k, left])
        lead = [shapes[k][axis] for axis in batches[k]]
        inner = _product([shapes[k][axis] for axis in contracted[k]])
        outer = _product([shapes[k][axis] for axis in free[k]])
        # A left operand without batches may have any number of axes in front.
        if len(contracted[k]) != 1 or (len(free[k]) != 1 and (batches[k] or not left)):
            target = [*lead, outer, inner] if left else [*lead, inner, outer]
            name = graph.add("Reshape", name, _target(graph, target))
        names.append(name)
    product = graph.add("MatMul", *names)
    lead = [shapes[0][axis] for axis in batches[0]]
    sizes = [[shapes[k][axis] for axis in free[k]] for k in (first, 1 - first)]
    whole_left = bool(batches[0]) or len(contracted[0]) != 1
    if (whole_left and len(sizes[0]) != 1) or len(sizes[1]) != 1:
        product = graph.add("Reshape", product, _target(graph, [*lead, *sizes[0], *sizes[1]]))
    count = len(lead)
    places = {0: range(count, count + len(free[0]))}
    places[1] = range(count + len(free[0]), count + len(free[0]) + len(free[1]))
    return Tensor(product, (*range(count), *places[first], *places[1 - first]))


def _product(sizes: Sequence[Size]) -> Size:
    return functools.reduce(lambda a, b: a * b, sizes, 1)


@_primitive("conv_general_dilated")
def _conv(graph: Graph, equation: Any, x: Value, kernel: Value) -> Convolution:
    params = equation.params
    if not isinstance(kernel, np.ndarray):
        raise Untranslatable("no translation of a convolution whose kernel depends on the image")
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise Untranslatable("no translation of this kind of convolution to ONNX")
    image, weights, output = params["dimension_numbers"]
    pads = [side for sides in zip(*params["padding"], strict=True) for side in sides]
    if not known(pads):
        raise Untranslatable(f"no translation of a padding that depends on sizes: {pads}")
    oihw = kernel.transpose(weights)
    return Convolution(
        graph.laid(x, image),
        oihw,
        np.zeros(len(oihw), np.float32),
        {
            "kernel_shape": oihw.shape[2:],
            "strides": [int(step) for step in params["window_strides"]],
            "pads": [int(side) for side in pads],
            "dilations": [int(step) for step in params["rhs_dilation"]],
            "group": int(params["feature_group_count"]),
        },
        tuple(output),
    )


@_function("relu")
def _relu(graph: Graph, equation: Any, x: Value) -> Tensor:
    return _elementwise("Relu", graph, equation, x)


@_function("relu6")
def _relu6(graph: Graph, equation: Any, x: Value) -> Tensor:
    bounds = (graph.constant(np.array(bound, np.float32)) for bound in (0, 6))
    order = _common_order([x], len(_shape(equation)))
    return Tensor(graph.add("Clip", graph.laid(x, order), *bounds), order)


@_function("dot_product_attention")
def _attention(graph: Graph, equation: Any, queries: Value, keys: Value, values: Value) -> Tensor:
    """Return attention of (b, n, heads, c) with a softmax of one operator, without masks."""
    width = as_int(_input_shape(equation)[3])
    assert width is not None
    scale = graph.constant(np.array(width**-0.5, np.float32))
    # The smaller operand is scaled.
    scaled = graph.add("Mul", graph.laid(queries, (0, 2, 1, 3)), scale)
    products = graph.add("MatMul", scaled, graph.laid(keys, (0, 2, 3, 1)))
    shares = graph.add("Softmax", products, axis=-1)
    return Tensor(graph.add("MatMul", shares, graph.laid(values, (0, 2, 1, 3))), (0, 2, 1, 3))


@_function("resize_corners", "resize_edges")
def _resize(graph: Graph, equation: Any, x: Value) -> Tensor:
    """Return `ops.resize.resize` as one operator."""
    aligned = equation.params["name"] == "resize_corners"
    old, new = _input_shape(equation), _shape(equation)
    name = graph.laid(x, CHANNELS_FIRST)
    by = [_factor(old[axis], new[axis]) for axis in (1, 2)]
    inputs = [name, ""]
    if None in by:
        inputs += ["", graph.shape([new[axis] for axis in CHANNELS_FIRST])]
    else:
        inputs.append(graph.constant(np.array([1, 1, *by], np.float32)))
    resized = graph.add(
        "Resize",
        *inputs,
        mode="linear",
        coordinate_transformation_mode="align_corners" if aligned else "half_pixel",
    )
    return Tensor(resized, CHANNELS_FIRST)


def _factor(old: Size, new: Size) -> int | None:
    return next((factor for factor in (1, 2, 4) if _equal(factor * old, new)), None)
