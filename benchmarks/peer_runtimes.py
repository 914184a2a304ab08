"""ONNX Runtime and OpenVINO on CPU, and torch's export of a module for them."""

import importlib
import io
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reldepth_jax import processor

Forward = Callable[[np.ndarray], np.ndarray]


class NotInstalled(Exception):
    """A package that would be needed."""


def onnx_runtime(file: bytes, example: np.ndarray) -> Forward:
    """Return input -> first output of an ONNX file, with all optimisations."""
    del example
    runtime = _package("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = processor.cores()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Else its threads keep the cores busy while the next call is timed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino(file: bytes, example: np.ndarray) -> Forward:
    """Return the same in OpenVINO, float32, for inputs of the shape of the example."""
    # Else it reports its use to its makers, from a fork that JAX's threads may not survive.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    runtime = _package("openvino")
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = runtime.Core()
    model = core.read_model(io.BytesIO(file))
    model.reshape(list(example.shape))
    compiled = core.compile_model(model, "CPU", options)
    return lambda x: compiled(x)[0]


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


def exported(module: torch.nn.Module, images: np.ndarray) -> bytes:
    """Return the ONNX file that torch makes of a module of uint8 images of that shape."""
    _package("onnx")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # That this exporter is the older one.
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder, "network.onnx")
        torch.onnx.export(
            module.eval(), (torch.from_numpy(images),), path, dynamo=False,
            input_names=["images"], output_names=["scores"], opset_version=17,
        )  # fmt: skip
        return path.read_bytes()


def _package(name: str) -> Any:
    """Import a package that the project does not depend on."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalled(f"{name} not installed") from error
