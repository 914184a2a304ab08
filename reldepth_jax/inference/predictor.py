"""From a photograph of any size to its score map."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float32, UInt8

from reldepth_jax.data.images.given import Given, as_rgb
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.types import Polarity, with_polarity

NetworkFunction = Callable[
    [UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]],
    Float32[np.ndarray, "b h w"] | Float32[Array, "b h w"],
]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Scores an image of any size; the score grows with distance, whatever the network returns.

    Each new size of the padded image compiles the network once.
    """

    network: NetworkFunction
    """For heights and widths as `preprocessing` gives them, and for images of uint8 in 0..255 or
    float32 in 0..1."""
    preprocessing: Preprocessing
    """How the image is resized and padded; best is what the network was trained with."""
    output: Polarity = "depth"
    """The sign of what the network returns."""

    def __call__(self, image: Given) -> Float32[np.ndarray, "h w"]:
        """Return the score at the size of the image; UserError for what `as_rgb` refuses."""
        pixels = as_rgb(image)
        height, width = pixels.shape[:2]
        return self.preprocessing.at_image_size(self.unresized(pixels), (height, width))

    def unresized(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the whole image at the size that the network saw."""
        network_image, (height, width) = self.preprocessing.network_image(image)
        output = np.asarray(self.network(network_image[None]), np.float32)
        return with_polarity(output, self.output)[0, :height, :width]
