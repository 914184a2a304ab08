"""What the protocols share: the images of this process, and states merged over all of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float64, Int8, UInt8

from reldepth_jax.data.images import pictures
from reldepth_jax.evaluation.protocols.report import Report
from reldepth_jax.metrics.merge import merge_everywhere, process_block
from reldepth_jax.metrics.ordinal import ErrorCounts, PixelPairs
from reldepth_jax.types import Sample, Source

Predict = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "_h _w"]]
"""A network on a whole image of any size: the score at the size that it computed, not brought to
the size of the image; larger is farther. Protocols resize as their authors did."""
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
Counts = Mapping[str, ErrorCounts]
"""By variant or measure."""

RULE = "lower is nearer"
PICTURES = 6


@runtime_checkable
class EvaluationProtocol(Protocol):
    """One published way to judge a network on one data set."""

    def __call__(
        self, predict: Predict, data_dir: str, *, num_images: int, progress: Progress
    ) -> Report:
        """Judge on the first `num_images` (0: all) of the data set in `data_dir`.

        Raises DataError or UnreadableFile for a data set that cannot be used.
        """
        ...


class AnnotatedPairs(NamedTuple):
    """The annotated pairs of one image, in its own pixels."""

    pairs: PixelPairs
    relation: Int8[np.ndarray, "n"]


def count_of(source: Source, num_images: int) -> int:
    """Return how many images are used."""
    return min(num_images or len(source), len(source))


def block(source: Source, num_images: int, progress: Progress) -> Iterator[tuple[int, Sample]]:
    """Yield the samples that this process judges, with their indices; reports its progress."""
    indices = process_block(count_of(source, num_images))
    for done, index in enumerate(indices, 1):
        yield index, source[index]
        progress(done, len(indices))


def merge_counts(parts: Sequence[Counts], keys: Sequence[str]) -> dict[str, ErrorCounts]:
    """Append the images of this process, then those of the other processes, in order."""
    return {key: merge_everywhere(ErrorCounts, [part[key] for part in parts]) for key in keys}


def annotated(sample: Sample) -> AnnotatedPairs:
    """Return the annotated pairs of a sample as flat indices."""
    rows = sample.get("pairs", np.zeros((0, 5), np.int32)).astype(np.int64)
    width = sample["mask"].shape[1]
    pairs = PixelPairs(rows[:, 0] * width + rows[:, 1], rows[:, 2] * width + rows[:, 3])
    return AnnotatedPairs(pairs, rows[:, 4].astype(np.int8))


def lower_is_nearer(height: int, width: int) -> Float64[np.ndarray, "h w"]:
    """Return the score of the location rule: minus the row."""
    return np.broadcast_to(-np.arange(height, dtype=np.float64)[:, None], (height, width))


def picture_row(sample: Sample, score: Float[np.ndarray, "h w"]) -> list[UInt8[np.ndarray, "..."]]:
    """Return image and prediction, thinned to at most 384 pixels a side."""
    step = -(-max(score.shape) // 384)
    image, small = (np.ascontiguousarray(a[::step, ::step]) for a in (sample["image"], score))
    return [pictures.enlarge(image), pictures.enlarge(pictures.colorize(small))]


def contact_sheet(
    rows: Sequence[list[UInt8[np.ndarray, "..."]]], captions: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return image and prediction side by side; None without rows."""
    return pictures.grid(rows, ["image", "prediction"], captions) if rows else None
