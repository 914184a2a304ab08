"""Is an exported network the function that it was exported from?"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from reldepth_jax.errors import UserError
from reldepth_jax.inference.networks import Model

BOUND = 1e-4
"""Largest difference, relative to the `scale` of the output, in float32."""
_OF_LAST_BITS = 4
"""The bound, as a multiple of what the last bits of the image change, where that is more."""
_MOST_OF_LAST_BITS = 1e-3
"""The bound is never above this for that reason."""
HALF_BOUND = 3e-2
"""The same where weights are stored as float16."""

Runner = Callable[[Float32[np.ndarray, "b 3 h w"]], Float32[np.ndarray, "b h w"]]


class ExportError(UserError):
    """An exported network that is not the function it should be."""

    exit_code = 5


def sizes(model: Model) -> list[tuple[int, int, int]]:
    """Return batch, height and width of the images that are compared.

    Two small ones, higher than wide, and one of the size that the network sees, as a square.
    """
    unit = model.config.multiple
    own = -(-model.preprocessing.size // unit) * unit
    return [(2, _near(160, unit), _near(96, unit)), (1, own, own)]


def _near(side: int, unit: int) -> int:
    return max(1, round(side / unit)) * unit


def test_images(batch: int, height: int, width: int) -> Float32[np.ndarray, "b h w 3"]:
    """Return images of patches of colour under a little noise, always the same."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(batch, -(-height // 16), -(-width // 16), 3))
    smooth = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    noise = rng.uniform(size=smooth.shape)
    return (0.9 * smooth + 0.1 * noise).astype(np.float32)


def scale(output: Float32[np.ndarray, "b h w"]) -> float:
    """Return the standard deviation; at least a twentieth of the largest value.

    Of a map that hardly varies about a large mean, rounding alone would be many deviations.
    """
    return float(max(output.std(), np.abs(output).max() / 20))


def largest_error(model: Model, run: Runner, bound: float = BOUND) -> float:
    """Return the largest |difference| to `model`, relative to the `scale` of the output.

    A network may magnify rounding beyond the bound: DPT-Hybrid with random weights turns that of
    its input into 1e-4, and is as far from float64 in PyTorch as here. Then the bound is 4 times
    what the last bits of the image change, at most 1e-3.

    Raises ExportError if it is above the bound, or if nothing can be compared.
    """
    worst = 0.0
    for batch, height, width in sizes(model):
        images = test_images(batch, height, width)
        expected = np.asarray(model(images))
        got = np.asarray(run(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
        place = f"at {height}x{width}, batch {batch}"
        if got.shape != expected.shape:
            raise ExportError(f"its output is {got.shape} {place}, expected {expected.shape}")
        if not expected.std() > 0:
            raise ExportError(
                f"the network gives the same number for every pixel {place}: nothing can be"
                " compared, so nothing is written; are these trained weights?"
            )
        error = _difference(got, expected)
        allowed = bound
        if not error <= bound:
            allowed = max(bound, _allowed_by_last_bits(model, images, expected))
        if not error <= allowed:
            raise ExportError(
                f"its output differs from this package's {place}: largest difference"
                f" {error:.1e} of the standard deviation, allowed are {allowed:.0e}; nothing is"
                " written"
            )
        worst = max(worst, error)
    return worst


def _difference(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(got - expected).max() / scale(expected))


def _allowed_by_last_bits(
    model: Model, images: Float32[np.ndarray, "b h w 3"], expected: Float32[np.ndarray, "b h w"]
) -> float:
    """Return the bound for a network that magnifies the rounding of its input."""
    up = np.random.default_rng(1).uniform(size=images.shape) < 0.5
    moved = np.where(up, np.nextafter(images, np.float32(2)), images)
    changed = _difference(np.asarray(model(moved)), expected)
    return min(_OF_LAST_BITS * changed, _MOST_OF_LAST_BITS)
