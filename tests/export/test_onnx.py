"""Networks in onnxruntime against torch modules, and against our own forward: any size and batch.

Weights are random. Sizes of the transformers' images give odd numbers of patches, the grid of their
table of positions, and others.
"""

import dataclasses
import importlib.util
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from flax import nnx
from jax import lax
from onnx import numpy_helper
from PIL import Image

from reldepth_jax import runtime
from reldepth_jax.cli import export as command
from reldepth_jax.config import Choice, ConfigError, ModelConfig
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.export import onnx_file, traced, verification
from reldepth_jax.export.onnx_graph import Graph, Tensor, Untranslatable
from reldepth_jax.export.onnx_translation import translate
from reldepth_jax.inference import networks
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.encoders.resnet import Bottleneck32x8d
from reldepth_jax.models.network import build
from reldepth_jax.registry import PRESETS
from reldepth_jax.weights import arrays, facts, presets
from tests.export.networks import (
    BAR,
    error,
    expected,
    images,
    random_weights,
    small,
    tiny_encoders,
)
from tests.parity import test_transformer_parity as transformers
from tests.parity.test_network_parity import ALL_OPTIONS
from tests.references.torch_midas import MidasV21Small
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import load, randomise

__all__ = ["tiny_encoders"]

ABOUT = {"name": "test", "output": "depth", "multiple": "32"}


def exported(raw: Callable[..., Any], multiple: int) -> Callable[[np.ndarray], np.ndarray]:
    closed = jax.jit(raw).trace(traced.image(multiple)).jaxpr
    about = ABOUT | {"multiple": str(multiple)}
    return onnx_file.runner(onnx_file.assemble(closed, about))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("depth_anything_v2_vits", [(56, 70), (70, 70), (84, 28)]),
        (transformers.METRIC, [(28, 56)]),
        ("dpt_large", [(48, 80), (64, 64)]),
        ("dpt_hybrid", [(48, 32), (64, 64)]),
    ],
)
def test_transformers_agree_with_torch(name: str, sizes: list[tuple[int, int]]):
    module = transformers.reference(name)
    with runtime.for_any_device():
        model, preset = transformers.ours(name, module)
        run = exported(model.raw, preset.model.multiple)
    for size in sizes:
        assert error(run(images(size)), expected(module, images(size))) < BAR


def test_a_resnet_with_every_option_agrees_with_torch():
    """Bottlenecks: below; the decoder without options: that of the network of the package."""
    module = TorchRelDepthNet(Options(encoder="resnet18", decoder_width=8, **ALL_OPTIONS)).eval()
    randomise(module, seed=0)
    config = ModelConfig(encoder=Choice("resnet18"), decoder_width=8, **ALL_OPTIONS)
    assert_agrees(module, config, [(64, 96), (96, 32)])


def test_midas_small_agrees_with_torch():
    """Depthwise convolutions, TensorFlow's padding, ReLU6, a decoder that widens."""
    module = MidasV21Small().eval()
    randomise(module, seed=1)
    preset = presets.get("midas_v21_small")
    assert_agrees(module, preset.model, [(64, 96)], preset.key_maps[0], preset.dead)


def assert_agrees(
    module: torch.nn.Module,
    config: ModelConfig,
    sizes: list[tuple[int, int]],
    *names: Any,
) -> None:
    with runtime.for_any_device():
        model = abstract_network(lambda rngs: build(config, rngs=rngs))
        load(model, module, *names)
        model = nnx.view(model, use_running_average=True, raise_if_not_found=False)
        run = exported(model.raw, config.multiple)
    for size in sizes:
        # A copy: the original works in place.
        assert error(run(images(size)), expected(module, images(size))) < BAR


# Others are compared with torch above.
@pytest.mark.parametrize("name", ["midas_v1", "sgrl"])
def test_decoders_of_wide_networks(name: str, tiny_encoders: None):
    """Narrow, against our own, which test_preset_parity compares with torch."""
    model = random_weights(small(presets.get(name)))
    data, worst = onnx_file.export(model, name)
    assert worst < BAR
    (output,) = onnx.load_from_string(data).graph.output
    assert output.name == {"farther": "depth", "nearer": "disparity"}[model.larger_is]


def run_graph(f: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    """Return what onnxruntime makes of a function of (b, h, w, c) images."""
    sizes = (*traced.image(1).shape[:3], x.shape[3])
    closed = jax.jit(f).trace(jax.ShapeDtypeStruct(sizes, jnp.float32)).jaxpr
    graph = Graph(half=False)
    for place, size in enumerate("bhw"):
        all_sizes = graph.add("Shape", "x")
        graph.sizes[size] = graph.add("Gather", all_sizes, graph.integers(place), axis=0)
    (result,) = translate(graph, closed, [Tensor("x", (0, 1, 2, 3))])
    name = graph.laid(result)
    value = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, "f", [value("x", 1, [None] * 4)], [value(name, 1, None)], graph.constants
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return np.asarray(session.run(None, {"x": x})[0])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "indexing": lambda x: x[:, 1:, :, 0] + x[:, :-1, :, 1],
    "every second": lambda x: x[:, ::2],
    "ceilings": lambda x: x / -(-x.shape[1] // 2) + x / -(x.shape[2] // -4),
    "mean, variance": lambda x: (x - x.mean((1, 2), keepdims=True)) / (x.var(3)[..., None] + 1),
    "merging axes that lie apart": lambda x: x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1),
    "splitting channels": lambda x: x.reshape(*x.shape[:3], 2, 2).sum((1, 4)).transpose(2, 0, 1),
    "padding": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 1)), constant_values=3.0),
    "cases": lambda x: jnp.where(x > 0.5, x**3, -x) * jnp.clip(x, 0.2, 0.7),
    "sizes as numbers": lambda x: x / (x.shape[1] // 2 + x.shape[2] ** 2),
    "products": lambda x: jnp.einsum("bhwc,bhvc->bwhv", x, x),
    "products with a matrix": lambda x: jnp.einsum(
        "bhwc,cd->bdhw", x, jnp.arange(12.0).reshape(4, 3)
    ),
    "logistic, tanh, log": lambda x: jax.nn.sigmoid(x) + jnp.tanh(x) * jnp.log(x + 1),
    "softmax, gelu": lambda x: jax.nn.softmax(x, 2) + jax.nn.gelu(x, approximate=False),
    "largest, smallest": lambda x: x.max((1, 3)) - x.min((1, 3)),
    "mirroring": lambda x: jnp.flip(x, (1, 2)),
    "stacking": lambda x: jnp.stack([x, 2 * x], 1).reshape(x.shape[0], -1, *x.shape[2:]),
    "constants of unknown size": lambda x: jnp.concatenate(
        [jnp.ones((x.shape[0], 1, *x.shape[2:])), x], 1
    ),
}
"""What layers may do beside what the networks of today do."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_layers_may_do(name: str):
    x = np.random.default_rng(0).uniform(size=(2, 7, 9, 4)).astype(np.float32)
    got = run_graph(FUNCTIONS[name], x)
    np.testing.assert_allclose(got, FUNCTIONS[name](jnp.asarray(x)), rtol=1e-5, atol=1e-6)


def test_convolutions_take_in_factors_and_groups():
    """A block of ResNeXt: 32 groups, BatchNorm that becomes part of the convolution."""
    with runtime.for_any_device():
        block = Bottleneck32x8d(256, 64, 1, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    for norm in (block.bn1, block.bn2, block.bn3):
        norm.mean[...] = jnp.arange(float(norm.mean.size)) / norm.mean.size
        norm.var[...] = 1 + norm.mean[...]
    block = nnx.view(block, use_running_average=True)
    x = np.random.default_rng(0).normal(size=(1, 6, 8, 256)).astype(np.float32)
    np.testing.assert_allclose(run_graph(block, x), jax.jit(block)(x), rtol=1e-4, atol=1e-4)


def test_the_graph_is_as_small_as_one_written_by_hand():
    """No BatchNorm, no transposing and no resizing by hand is left in a convolutional network."""
    config = ModelConfig(encoder=Choice("efficientnet_lite0"), decoder_width=64)
    shapes = arrays.shapes(config, "network")
    model = networks.Model(
        config,
        arrays.variables({name: np.ones(shape, np.float32) for name, shape in shapes.items()}),
        Preprocessing(),
        {},
    )
    with runtime.for_any_device():
        closed = traced.function(model).trace(traced.image(32)).jaxpr
    nodes = onnx.load_from_string(onnx_file.assemble(closed, ABOUT)).graph.node
    kinds = {node.op_type for node in nodes}
    sizes = {"Shape", "Gather", "Mul", "Div", "Concat", "Reshape"}
    assert kinds - sizes == {"Conv", "Clip", "Relu", "Add", "Resize", "Identity"}
    assert sum(node.op_type == "Conv" for node in nodes) == sum(
        len(shape) == 4 for shape in shapes.values()
    )
    assert len(nodes) < 160


def test_an_untranslatable_layer_is_named():
    with pytest.raises(Untranslatable, match="no translation of JAX's cumsum to ONNX"):
        run_graph(lambda x: lax.cumsum(x, 1), np.zeros((1, 2, 2, 1), np.float32))


def test_weights_in_float16_are_half_as_large_and_nearly_as_good(tiny_encoders: None):
    model = random_weights(small(presets.get("midas_v21")))
    whole, error = onnx_file.export(model, "x")
    assert error < BAR
    half, worst = onnx_file.export(model, "x", half=True)
    kinds = {each.data_type for each in onnx.load_from_string(half).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert len(half) < 0.75 * len(whole)  # the nodes remain
    assert 1e-5 < worst < 1e-2


@pytest.fixture
def tiny(tiny_encoders: None) -> networks.Model:
    return random_weights(small(presets.get("sgrl")))


def test_weights_that_float16_cannot_hold_are_refused(tiny: networks.Model):
    held = tiny.weights().arrays
    held["head.conv1.weight"][0, 0] = 1e5
    model = dataclasses.replace(tiny, variables=arrays.variables(held))
    with pytest.raises(UserError, match="float16 cannot hold a weight"):
        onnx_file.export(model, "x", half=True)


def test_another_function_is_refused(
    tiny: networks.Model, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    """One weight is broken between tracing and comparing."""
    assemble = onnx_file.assemble

    def broken(*args: Any, **options: Any) -> bytes:
        made = onnx.load_from_string(assemble(*args, **options))
        kernel = max(made.graph.initializer, key=lambda each: len(each.raw_data))
        values = numpy_helper.to_array(kernel).copy()
        values.flat[0] += 1e-2
        kernel.CopyFrom(numpy_helper.from_array(values, kernel.name))
        return made.SerializeToString()

    monkeypatch.setattr(onnx_file, "assemble", broken)
    networks.save_model(tiny, tmp_path / "x.safetensors")
    words = ["--weights", f"{tmp_path}/x.safetensors", "--output", f"{tmp_path}/x.onnx"]
    with pytest.raises(verification.ExportError, match=r"differs .* allowed are 1e-04; nothing"):
        command.main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


class Waves(networks.Model):
    """A network that magnifies rounding: the sine of so many times the red channel."""

    frequency = 1.0

    def __call__(self, images: Any) -> jax.Array:
        # As exact as an image of float32 can be.
        return jnp.asarray(np.sin(self.frequency * np.asarray(images, float)[..., 0]), jnp.float32)


@pytest.mark.parametrize(
    ("frequency", "accepted", "refused"),
    # The last bit is up to 6e-8, and the deviation 0.7; of the slow one 0.25.
    [(1.0, 0.9e-4, 1.1e-4), (2e3, 4e-4, 1e-3), (1e6, 0.9e-3, 1.1e-3)],
)
def test_a_network_that_magnifies_rounding_is_allowed_that_much(
    tiny: networks.Model, frequency: float, accepted: float, refused: float
):
    model = Waves(tiny.config, {}, tiny.preprocessing, {})
    object.__setattr__(model, "frequency", frequency)

    def runner(error: float) -> verification.Runner:
        def run(image: np.ndarray) -> np.ndarray:
            exact = np.asarray(model(image.transpose(0, 2, 3, 1)))
            return exact + np.float32(error * verification.scale(exact))

        return run

    error = verification.largest_error(model, runner(accepted))
    assert error == pytest.approx(accepted, rel=0.05)
    with pytest.raises(verification.ExportError, match="nothing is written"):
        verification.largest_error(model, runner(refused))


def test_constant_output_cannot_be_compared(tiny: networks.Model):
    zero = dataclasses.replace(tiny, variables={k: 0 * x for k, x in tiny.variables.items()})
    with pytest.raises(verification.ExportError, match="the same number for every pixel"):
        onnx_file.export(zero, "x")


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the network of the package as the command writes it."""
    path = tmp_path_factory.mktemp("exported") / "folder" / "depth.onnx"
    assert command.main(["--output", str(path), "--name", "mine", "--float16"]) == 0
    return path


def test_the_command_writes_a_file_that_says_what_it_is(packaged: pathlib.Path):
    told = {each.key: each.value for each in onnx.load(packaged).metadata_props}
    assert told["name"] == "mine"
    assert told["output"] == "depth"
    assert told["larger_is"] == "farther"
    assert told["multiple"] == "32"
    seen = presets.get("reldepth_small").preprocessing.to_dict()
    assert f"shorter side is {seen['size']} " in told["size_rule"]
    assert json.loads(told["preprocessing"]) == seen
    assert float(told["confidence_temperature"]) == networks.load_model().temperature
    assert "research" in told["licence"]
    assert told["weights_digest"] == networks.load_model().digest
    with pytest.raises(ConfigError, match="exists; choose another name, or --force"):
        command.main(["--output", str(packaged)])


def test_the_example_predicts_without_this_package_what_it_predicts(packaged: pathlib.Path):
    """The file is in float16 and loses nothing by that: the network's own file is."""
    numbers = sum(array.size for array in networks.load_model().weights().arrays.values())
    assert packaged.stat().st_size < 2.1 * numbers
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 17, 3), np.uint8))
    coarse.resize((511, 307)).save(packaged.with_name("photo.jpg"))
    page = pathlib.Path("docs/export.md").read_text(encoding="utf-8")
    (example,) = (each for each in page.split("```python\n") if "onnxruntime.Inf" in each)
    program = [
        'import sys; sys.modules["reldepth_jax"] = sys.modules["jax"] = None',
        example.partition("```")[0],
        'np.save("depth.npy", depth)',
    ]
    words = [sys.executable, "-c", "\n".join(program)]
    done = subprocess.run(words, cwd=packaged.parent, check=True, capture_output=True, text=True)
    assert done.stdout == "(307, 511) farther\n"
    got = np.load(packaged.with_name("depth.npy"))
    wanted = networks.load_model().predict(packaged.with_name("photo.jpg"))
    assert np.abs(got - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.parametrize("name", PRESETS.entries)
def test_every_preprocessing_is_told_in_words(name: str):
    preset = presets.get(name)
    rule = facts.size_rule(preset.preprocessing)
    assert str(preset.preprocessing.size) in rule
    assert "{" not in rule


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.pb"], r"x.pb: ends in neither .onnx nor .stablehlo"),
        (["--output", "tests.onnx", "--model", "midas"], "no public weights are called 'midas'"),
        (["--output", "x.onnx", "--checkpoint", "3"], "--checkpoint belongs to --workdir"),
    ],
)
def test_mistakes(words: list[str], message: str):
    with pytest.raises(UserError, match=message):
        command.main(words)


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else find(name, *a)
    )
    with pytest.raises(
        UserError, match=r"onnx is not installed: pip install 'reldepth-jax\[export"
    ):
        onnx_file.export(networks.load_model(), "x")
