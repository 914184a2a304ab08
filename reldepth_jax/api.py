"""Networks with weights, for other programs: `model = reldepth_jax.load_model("x.safetensors")`."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, UInt8

from reldepth_jax import runs
from reldepth_jax.config import ModelConfig
from reldepth_jax.data.preprocessing import Preprocessing
from reldepth_jax.models.reldepth_net import RelDepthNet
from reldepth_jax.predict import Predictor
from reldepth_jax.train.state import graph_definition
from reldepth_jax.train.step import as_float
from reldepth_jax.weights import arrays
from reldepth_jax.weights.file import Weights, read, write
from reldepth_jax.weights.tensors import WeightsError


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its weights and the preprocessing that belongs to them."""

    config: ModelConfig
    params: nnx.State
    stats: nnx.State
    preprocessing: Preprocessing
    provenance: Mapping[str, str]

    @property
    def larger_is(self) -> Literal["farther", "nearer"]:
        """The sign of what `__call__` and `predict` return; "nearer": inverse depth."""
        return "farther" if self.config.output == "depth" else "nearer"

    @property
    def step(self) -> int:
        """The training step of a run's network, 0 of a published one."""
        return int(self.provenance.get("step", "0"))

    def __call__(
        self, images: Float[Array | np.ndarray, "b h w 3"] | UInt8[np.ndarray, "b h w 3"]
    ) -> Float[Array, "b h w"]:
        """Return the raw output of the network for float32 RGB images in [0, 1], or uint8 ones.

        Heights and widths must be multiples of 32. The network's own normalisation is applied.
        Each new shape compiles once. `larger_is` tells the sign.
        """
        return self._forward(self.params, self.stats, images)

    def predict(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        """Return the map of an RGB image of any size, preprocessed as the original does.

        `larger_is` tells its sign. It has no unit: its values are comparable within one image.
        """
        score = self.predictor()(image)
        return score if self.larger_is == "farther" else -score

    def predictor(self, size: int = 0) -> Predictor:
        """Return the function from images to scores, which grow with distance.

        Args:
          size: instead of the preprocessing's own; 0: that.
        """
        preprocessing = self.preprocessing
        if size:
            preprocessing = dataclasses.replace(preprocessing, size=size)
        sign = np.float32(1 if self.larger_is == "farther" else -1)

        def score(images: np.ndarray) -> np.ndarray:
            return sign * np.asarray(self(images))

        return Predictor(score, preprocessing)

    def weights(self) -> Weights:
        """Return the arrays under their names, with what they are."""
        return Weights(
            model=self.config,
            preprocessing=self.preprocessing,
            arrays=arrays.from_state(self.params, self.stats),
            provenance=self.provenance,
        )

    @functools.cached_property
    def _forward(self) -> Callable[..., Float[Array, "b h w"]]:
        network = arrays.abstract(self.config, "network")
        assert isinstance(network, RelDepthNet)
        graph = graph_definition(network, training=False)

        def forward(params: nnx.State, stats: nnx.State, images: Array) -> Array:
            return nnx.merge(graph, params, stats).raw(as_float(images))

        return jax.jit(forward)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a file of weights (see `scripts/convert_weights.py`), or a run directory's newest.

    Raises WeightsError or RunError, in one line, if that is not what is there.
    """
    if pathlib.Path(path).is_dir():
        return from_run(path)
    held = read(path)
    if held.part != "network":
        raise WeightsError(
            f"{path}: holds an encoder ({held.architecture}) without a decoder: train it, with"
            f" --config.init_from={path} --config.init_part=encoder"
        )
    states = arrays.to_states(held.model, held.part, held.arrays)
    return Model(held.model, *states, held.preprocessing, held.provenance)


def from_run(workdir: str | os.PathLike[str], step: int | Literal["best"] | None = None) -> Model:
    """Load the network of a run directory at `step` (default: the newest checkpoint)."""
    run = runs.load_run(workdir, step)
    told = {"run": os.fspath(workdir), "step": str(run.step)}
    preprocessing = Preprocessing(size=runs.image_size(run.config))
    return Model(run.config.model, run.params, run.stats, preprocessing, told)


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a network to one `.safetensors` file, whole or not at all."""
    write(path, model.weights())
