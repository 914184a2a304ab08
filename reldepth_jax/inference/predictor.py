"""From a photograph of any size to its score map at that size."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from reldepth_jax.data.images.preprocessing import Preprocessing

ModelFn = Callable[
    [UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]], Float32[np.ndarray, "b h w"]
]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Scores an image of any size at that size; larger is farther.

    Each new size of the padded image compiles the network anew.
    """

    model_fn: ModelFn
    """The network, for heights and widths that are multiples of 32 and for images of uint8 in
    0..255 or float32 in 0..1."""
    preprocessing: Preprocessing
    """How it is shown the image; what it was trained with is best."""

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
        """Return the score at the size of the image."""
        height, width = image.shape[:2]
        return self.preprocessing.at_image_size(self.unresized(image), (height, width))

    def unresized(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the whole image at the size that the network saw."""
        network_image, (height, width) = self.preprocessing.network_image(image)
        scores = self.model_fn(network_image[None])
        return np.asarray(scores, np.float32)[0, :height, :width]
