"""A network as one ONNX file: what goes in and out, what it says of itself, and the check of it.

Input `image`: float32 (batch, 3, height, width), RGB in [0, 1]. Output `depth` or `disparity`:
float32 (batch, height, width), larger is farther or nearer. All sizes may differ from call to call;
height and width are multiples of the metadata's `multiple`.
"""

from collections.abc import Mapping
from typing import Any

from reldepth_jax import runtime
from reldepth_jax.errors import require
from reldepth_jax.export import traced
from reldepth_jax.export.verification import HALF_BOUND, largest_error
from reldepth_jax.inference.networks import Model
from reldepth_jax.weights.facts import facts

INPUT = "image"
_IR_VERSION = 10
"""Of the file format: the newest that onnxruntime 1.18 reads."""


def export(model: Model, name: str, *, half: bool = False) -> tuple[bytes, float]:
    """Return the file, and its largest error in onnxruntime (`verification.largest_error`).

    With `half` weights are stored as float16; the graph is compared before they are rounded too.

    Raises ExportError if the error is too large, UserError without onnx and onnxruntime.
    """
    require("export", "onnx", "onnxruntime")
    model = traced.in_float32(model)
    told = facts(model.weights(), name)
    with runtime.for_any_device():
        closed = traced.function(model).trace(traced.image(model.config.multiple)).jaxpr
    data = assemble(closed, told)
    error = largest_error(model, runner(data))
    if half:
        data = assemble(closed, told, half=True)
        error = largest_error(model, runner(data), HALF_BOUND)
    return data, error


def runner(data: bytes) -> Any:
    """Return the function of a file in onnxruntime on CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Else its threads keep the cores busy after each call.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {INPUT: image})[0]


def assemble(closed: Any, about: Mapping[str, str], *, half: bool = False) -> bytes:
    """Return the file of a function that was traced for `traced.image`, with these metadata."""
    import onnx
    from onnx import helper

    from reldepth_jax.export.onnx_graph import Graph, Tensor
    from reldepth_jax.export.onnx_primitives import CHANNELS_FIRST, OPSET
    from reldepth_jax.export.onnx_translation import translate

    graph = Graph(half=half)
    shape = graph.add("Shape", INPUT)
    for size, axis in {"b": 0, "h": 2, "w": 3}.items():
        graph.sizes[size] = graph.add("Gather", shape, graph.integers(axis), axis=0)
        if size != "b":
            multiple = graph.integers(int(about["multiple"]))
            graph.sizes[size] = graph.add("Div", graph.sizes[size], multiple)
    (result,) = translate(graph, closed, [Tensor(INPUT, CHANNELS_FIRST)])
    output = about["output"]
    graph.nodes.append(helper.make_node("Identity", [graph.laid(result)], [output], name=output))
    image = ["batch", 3, "height", "width"]
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            about["name"],
            [_of_float(INPUT, image)],
            [_of_float(output, [image[0], *image[2:]])],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="reldepth_jax",
        doc_string=__doc__ or "",
    )
    helper.set_model_props(made, dict(about))
    # Each is copied, and given back at once: some networks have more than a gigabyte.
    graph.constants.reverse()
    while graph.constants:
        made.graph.initializer.append(graph.constants.pop())
    data = made.SerializeToString()
    del made
    onnx.checker.check_model(data, full_check=True)
    return data


def _of_float(name: str, shape: list[str | int]) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
