"""From a photograph of any size to its score map."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float32, UInt8

from reldepth_jax.data.images.given import Given, as_rgb
from reldepth_jax.data.images.preprocessing import NetworkImage, Preprocessing
from reldepth_jax.types import Polarity, with_polarity

NetworkFunction = Callable[
    [UInt8[np.ndarray, "b h w 3"] | Float32[np.ndarray, "b h w 3"]],
    Float32[np.ndarray, "b h w"] | Float32[Array, "b h w"],
]


class Prepared(NamedTuple):
    """An image as the network sees it."""

    image: NetworkImage
    shown: tuple[int, int]
    """Height and width of its part, at the top left, that shows the photograph."""
    size: tuple[int, int]
    """Height and width of the photograph."""


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
        return self.scores([self.prepared(image)])[0]

    def prepared(self, image: Given) -> Prepared:
        """Return the input of the network; UserError for what `as_rgb` refuses."""
        pixels = as_rgb(image)
        network_image, shown = self.preprocessing.network_image(pixels)
        return Prepared(network_image, shown, (pixels.shape[0], pixels.shape[1]))

    def scores(self, images: Sequence[Prepared]) -> list[Float32[np.ndarray, "_h _w"]]:
        """Return the scores of images in one call of the network, each at the size of its own.

        What the network sees of them must have one size.
        """
        found = zip(images, self.at_network_size(images), strict=True)
        return [self.preprocessing.at_image_size(score, image.size) for image, score in found]

    def unresized(self, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "_h _w"]:
        """Return the score of the whole image at the size that the network saw."""
        return self.at_network_size([self.prepared(image)])[0]

    def at_network_size(self, images: Sequence[Prepared]) -> list[Float32[np.ndarray, "_h _w"]]:
        """Return the scores as `scores` does, at the sizes of what the network saw of each."""
        output = np.asarray(self.network(np.stack([each.image for each in images])), np.float32)
        scores = with_polarity(output, self.output)
        shown = (each.shown for each in images)
        return [score[:h, :w] for score, (h, w) in zip(scores, shown, strict=True)]
