"""Networks with weights, for other programs: `model = reldepth_jax.load_model("x.safetensors")`."""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from reldepth_jax import kept, runtime
from reldepth_jax.config import ModelConfig
from reldepth_jax.data.images.given import Given
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.errors import UserError
from reldepth_jax.inference.order import Order, Point, order
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.public_files import SHIPPED
from reldepth_jax.registry import did_you_mean
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.temperature import fitted_temperature
from reldepth_jax.types import LARGER_IS, with_polarity
from reldepth_jax.weights import arrays, by_name, hub, presets
from reldepth_jax.weights.file import Weights, read, unit_of, write
from reldepth_jax.weights.tensors import WeightsError

if TYPE_CHECKING:
    from flax import nnx

    from reldepth_jax.models.network import RelDepthNet

MOST_SHAPES = 32
"""Shapes of images for which a network is kept compiled: each takes 10 to 60 MB. Photographs of one
camera have two, of all cameras up to 79 at a size of 384 (17 standard ones)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights and the preprocessing that belongs to them."""

    config: ModelConfig
    variables: Mapping[str, jax.Array | np.ndarray] = dataclasses.field(repr=False)
    """Parameters and statistics, float32, as `weights.arrays.variables` returns them."""
    preprocessing: Preprocessing
    provenance: Mapping[str, str]
    fast: bool = False
    """On CPU, use Winograd convolutions: about half the time, 4 times the memory for weights, and
    rounding errors as between runtimes (`reldepth_jax.models.cpu.winograd_network`)."""
    temperature: float | None = None
    """Of the confidence (`metrics.confidence`), in units of the output; None: not fitted."""

    @property
    def larger_is(self) -> Literal["farther", "nearer"]:
        """The sign of what `__call__` and `predict` return; "nearer": inverse depth."""
        return LARGER_IS[self.config.output]

    @property
    def unit(self) -> Literal["metre"] | None:
        """The unit of what `__call__` and `predict` return; None: it has none."""
        return unit_of(self.config, self.provenance)

    @property
    def step(self) -> int:
        """The training step of a run's network, 0 of a published one."""
        return int(self.provenance.get("step", "0"))

    def __call__(self, images: Array | np.ndarray) -> Float[Array, "b h w"]:
        """Return the network's output, with the sign of `larger_is`.

        The network's own normalisation is applied. Each new shape compiles once; the compiled of
        up to `MOST_SHAPES` is kept.

        Args:
          images: RGB (b, h, w, 3), float32 in [0, 1] or uint8; h and w are multiples
            of `config.multiple`.

        Raises UserError for another shape or type, and for NumPy arrays with values below -1 or
        above 2, farther from [0, 1] than the overshoot of a cubic kernel.
        """
        if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise UserError(f"images must be (b, h, w, 3), got {images.shape}")
        multiple = self.config.multiple
        if images.shape[1] % multiple or images.shape[2] % multiple:
            raise UserError(
                f"height and width must be multiples of {multiple}, got"
                f" {images.shape[1]}x{images.shape[2]}; predict() takes images of any size"
            )
        is_float = jnp.issubdtype(images.dtype, jnp.floating)
        if not is_float and images.dtype != np.uint8:
            raise UserError(f"images must be float32 in [0, 1], or uint8, got {images.dtype}")
        if is_float and isinstance(images, np.ndarray):
            low, high = images.min(), images.max()
            if not (low >= -1 and high <= 2):  # NaN is neither
                raise UserError(f"images must be in [0, 1], got values from {low:g} to {high:g}")
        return self._forward(runtime.ready(jax.device_put(images)))

    def predict(self, image: Given) -> Float32[np.ndarray, "h w"]:
        """Return the map of an image of any size, as it is displayed, with the sign of `larger_is`.

        Preprocessed as the original does. Without a `unit` its values are comparable within one
        image. `predictor` returns the same map as a score, which always grows with distance.

        Args:
          image: the path of a photograph, an image of Pillow, or an array of uint8: RGB (h, w, 3),
            or grey (h, w); see `data.images.given`.

        Raises UserError for anything else, UnreadableFile for a file that is no photograph.
        """
        return with_polarity(self.predictor()(image), self.config.output)

    def nearer(self, image: Given, first: Point, second: Point) -> Order:
        """Return which of two points of an image is nearer, and how sure that is.

        Args:
          image: as for `predict`, which each call runs: compare the map's values for many points.
          first: x to the right and y down, in pixels from 0, of the image as it is displayed.
          second: the other point.

        Raises UserError for a point outside, and as `predict`.
        """
        return order(self.predictor()(image), first, second, self.temperature)

    def predictor(self, size: int = 0, *, standard_shapes: bool = False) -> Predictor:
        """Return the function from images of any size to scores, which grow with distance.

        Args:
          size: replaces the preprocessing's own size unless it is 0.
          standard_shapes: stretch images to the nearest of 17 shapes (`preprocessing.STANDARD`),
            so that those of many sizes compile 17 times at most, for seconds each; docs/models.md
            says what that changes.

        Raises UserError if the preprocessing cannot have the size.
        """
        preprocessing = self.preprocessing
        if standard_shapes:
            preprocessing = dataclasses.replace(preprocessing, shapes="standard")
        if size:
            try:
                preprocessing = dataclasses.replace(preprocessing, size=size)
            except UserError as error:
                raise UserError(f"images of size {size}: {error}") from None
        return Predictor(self, preprocessing, self.config.output)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of all arrays and their names."""
        return self.weights().digest

    def weights(self) -> Weights:
        """Return the arrays under their names, with what they are."""
        return Weights(
            model=self.config,
            preprocessing=self.preprocessing,
            arrays=arrays.in_torch_axes(self.variables),
            provenance=self.provenance,
            temperature=self.temperature,
        )

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, fast: bool = False
    ) -> "Model":
        """Load a folder that `save_pretrained` wrote, or USER/REPOSITORY of the Hugging Face hub.

        What is no folder here is fetched from the hub, once per revision (extra `hub`). Raises as
        `load_model`, and DownloadError.
        """
        folder = pathlib.Path(source)
        if folder.is_dir():
            return _model(read(folder / hub.FILE), folder, fast)
        return _model(read(hub.fetch(os.fspath(source), revision)), source, fast)

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, name: str = "", half: bool = False
    ) -> None:
        """Write a new folder as the hub has it (`weights.hub`); UserError if it is there already.

        Args:
          name: what the card calls the network; default: the folder's name.
          half: store numbers as float16.
        """
        name = name or pathlib.Path(folder).name
        hub.write_folder(folder, self.weights(), name, half=half)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload the network to USER/REPOSITORY; options and errors as of `weights.hub.push`."""
        return hub.push(self.weights(), repository, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields alone: what is compiled cannot be sent to another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_forward"}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Model":
        """Copy all but the arrays, which cannot change."""
        variables, told = dict(self.variables), dict(self.provenance)
        return dataclasses.replace(self, variables=variables, provenance=told)

    def states(self) -> "tuple[nnx.State, nnx.State]":
        """Return parameters and statistics as Flax has them."""
        return arrays.states(self.config, "network", dict(self.variables))

    @functools.cached_property
    def _forward(self) -> Callable[..., Float[Array, "b h w"]]:
        values = dict(self.variables)
        if self.fast:
            from reldepth_jax.models.cpu.winograd_network import fast_params

            params, stats = self.states()
            params = jax.jit(functools.partial(fast_params, _network(self.config)))(params)
            values = (params, stats)
        return functools.partial(_compiled(self.config, self.fast), values)


def _network(config: ModelConfig) -> "RelDepthNet":
    from reldepth_jax.models.network import RelDepthNet

    network = arrays.abstract(config, "network")
    assert isinstance(network, RelDepthNet)
    return network


@functools.lru_cache(maxsize=8)
def _compiled(config: ModelConfig, fast: bool) -> Callable[..., Float[Array, "b h w"]]:
    """Return (values, images) -> output, compiled once for all weights of a process.

    Values are the variables of a network; of a fast one its parameters and statistics.
    """
    if not fast and arrays.is_of_package(config):
        program = kept.programs(f"network {config}", lambda: _function(config, fast=False))
        if program is not None:
            return _bounded(program)
    function, options = _function(config, fast)
    jitted: Any = jax.jit(function, compiler_options=options)
    return _bounded(lambda *_: jitted, jitted.clear_cache)


def _function(
    config: ModelConfig, fast: bool
) -> tuple[Callable[..., Array], dict[str, str] | None]:
    """Return what `_compiled` compiles, and with which options."""
    # Imported late: a program that is kept needs neither Flax nor our layers.
    from flax import nnx

    from reldepth_jax.models.cpu.winograd_network import exact_network, fast_network
    from reldepth_jax.models.network import as_float, graph_definition

    plain = _network(config)
    network = (fast_network if fast else exact_network)(plain)
    # Small networks gain nothing from them.
    options = None if network is plain else runtime.compiler_options()
    graph = graph_definition(network, training=False)

    def forward(values: Any, images: Array) -> Array:
        states = values if fast else arrays.states(config, "network", values)
        return nnx.merge(graph, *states).raw(as_float(images).astype(jnp.float32))

    return forward, options


def _bounded(
    program: Callable[..., Callable[..., Any]], forget: Callable[[], None] = lambda: None
) -> Callable[..., Float[Array, "b h w"]]:
    """Return (values, images) -> output by the program for images of that shape.

    All programs are forgotten as soon as a shape comes that would be one too many.

    Args:
      program: returns that of the values and images that it is given.
      forget: is called when all are forgotten.
    """
    found: dict[tuple[Any, ...], Callable[..., Any]] = {}
    lock = threading.Lock()

    def forward(values: Any, images: Array) -> Array:
        shape = (*images.shape, images.dtype)
        with lock:
            if shape not in found and len(found) >= MOST_SHAPES:
                forget()
                found.clear()
            own = found.get(shape)
        if own is None:
            own = program(values, images)
            with lock:
                found[shape] = own
        return own(values, images)

    return forward


def load_model(path: str | os.PathLike[str] = SHIPPED, *, fast: bool = False) -> Model:
    """Load a file of weights (see `reldepth convert`), or the newest checkpoint of a run directory.

    Without a path it is the network that comes with the package (docs/model_card.md).

    Where nothing is of this path, the name of public weights, as "midas_v21_small", is taken as in
    `load_public`. `fast` as in `Model`. Raises WeightsError or RunError if the path holds neither.
    """
    name = hub.located(os.fspath(path))
    if os.path.isdir(name):
        return from_run(path, fast=fast)
    if not os.path.exists(name):
        known = presets.public(encoders=False)
        if name in known:
            return load_public(name, fast=fast)
        if hint := did_you_mean(name, known):
            raise WeightsError(f"{name}: no such file, and no public weights of that name.{hint}")
    return _model(read(name), path, fast)


def load_public(name: str, *, fast: bool = False) -> Model:
    """Load public weights by the name that `reldepth models` lists; fetched once, then kept.

    `hub:USER/REPOSITORY` is one of the Hugging Face hub. Raises UserError for unknown names,
    DownloadError for what cannot be fetched.
    """
    if name.startswith(hub.PREFIX):
        return Model.from_pretrained(name.removeprefix(hub.PREFIX), fast=fast)
    return _model(by_name.load(name), name, fast)


def _model(held: Weights, path: str | os.PathLike[str], fast: bool) -> Model:
    if held.part != "network":
        raise WeightsError(
            f"{path}: holds an encoder ({held.architecture}) without a decoder: train it, with"
            f" --config.init_from={path} --config.init_part=encoder"
        )
    variables = arrays.variables(held.arrays)
    return Model(held.model, variables, held.preprocessing, held.provenance, fast, held.temperature)


def from_run(
    workdir: str | os.PathLike[str],
    step: int | Literal["best"] | None = None,
    *,
    fast: bool = False,
) -> Model:
    """Load the network of a run directory at `step` (default: the newest checkpoint)."""
    with _logging_as_it_was():
        # Imported late: Orbax takes longer to import than a file of weights to load.
        from reldepth_jax.weights.from_run import load_run

        run = load_run(workdir, step)
    provenance = {"run": os.fspath(workdir), "step": str(run.step)}
    if run.config.init_from:
        provenance["started_from"] = run.config.init_from
    if run.inverse_depth:
        provenance["values"] = "inverse depth"
    preprocessing = Preprocessing.of_training(run.config)
    evaluation = layout.evaluation_folder(pathlib.Path(workdir))
    temperature = fitted_temperature(evaluation / layout.TEMPERATURE, run.step, preprocessing.size)
    # A checkpoint gives arrays of NumPy, which each prediction would send again.
    variables = jax.device_put(arrays.of_states(run.params, run.stats))
    return Model(run.config.model, variables, preprocessing, provenance, fast, temperature)


@contextlib.contextmanager
def _logging_as_it_was() -> Iterator[None]:
    """Remove the handlers that absl gives the root logger as soon as Orbax logs anything."""
    before = list(logging.root.handlers)
    try:
        yield
    finally:
        logging.root.handlers[:] = [each for each in logging.root.handlers if each in before]


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a network to one `.safetensors` file, whole or not at all."""
    write(path, model.weights())
