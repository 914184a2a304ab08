"""The forward pass in ONNX Runtime and OpenVINO, exported from the torch network. On CPU."""

import contextlib
import importlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from benchmarks import machine, peer_network
from reldepth_jax.config import Config

Arrays = Mapping[str, np.ndarray]
Forward = Callable[[np.ndarray], np.ndarray]


class NotInstalled(Exception):
    """A package that would be needed."""


def onnx_runtime(config: Config, arrays: Arrays, images: np.ndarray) -> Forward:
    """Return uint8 (b, h, w, 3) of the size of `images` -> scores, with all optimisations."""
    runtime = _package("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = machine.cores()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Else its threads keep the cores busy while the next call is timed.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    with _exported(config, arrays, images) as path:
        session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def openvino(config: Config, arrays: Arrays, images: np.ndarray) -> Forward:
    """Return the same in OpenVINO, float32, one image after the other."""
    # Else it reports its use to its makers, from a fork that JAX's threads may not survive.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    runtime = _package("openvino")
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with _exported(config, arrays, images) as path:
        core = runtime.Core()
        compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda images: compiled(images)[0]


RUNTIMES = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


@contextlib.contextmanager
def _exported(config: Config, arrays: Arrays, images: np.ndarray) -> Iterator[str]:
    _package("onnx")
    module = peer_network.network(config.model, arrays, torch.device("cpu")).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # That this exporter is the older one.
        warnings.simplefilter("ignore")
        path = os.path.join(folder, "network.onnx")
        torch.onnx.export(
            module, (torch.from_numpy(images),), path, dynamo=False,
            input_names=["images"], output_names=["scores"], opset_version=17,
        )  # fmt: skip
        yield path


def _package(name: str) -> Any:
    """Import a package that the project does not depend on."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NotInstalled(f"{name} not installed") from error
