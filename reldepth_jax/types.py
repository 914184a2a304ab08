"""Axes, units, signs and the types that pass between modules: stated here, once.

Axes (jaxtyping letters): b batch, h height, w width, c channels, n point pairs.
Images are channels-last, rows from top to bottom.

Sign: `score` and `depth` both **grow with distance**. Maps in which larger means nearer (disparity,
inverse depth, the output of some networks) are converted where they enter or leave; `Polarity`
names the two kinds there and `with_polarity` is the one function that turns a sign.

Units: `score` has none and only its order means something. `depth` is positive, planar (along the
optical axis) and known up to a scale per image. `depth == inf` is valid ground truth: sky, farther
than everything finite and equal to itself. A pixel without ground truth has `mask == False`; its
`depth` may hold anything, including NaN.

Ordinal annotations: a data set may say of single point pairs which point is farther, instead of or
beside a depth map. Relation +1 means that the first point is farther, -1 that it is nearer, 0 that
both are equally far. Coordinates are pixels from 0, row before column.
"""

from collections.abc import Mapping, Sequence
from typing import (
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Protocol,
    TypedDict,
    TypeVar,
    runtime_checkable,
)

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Key, UInt8

MapSize = tuple[Any, Any]
"""Height and width of a map: ints; while a network is exported, JAX's symbolic dimensions."""
Split = Literal["train", "val", "test"]
Polarity = Literal["depth", "disparity"]
"""`depth`: larger is farther. `disparity`: larger is nearer; zero is infinitely far."""
LARGER_IS: Mapping[Polarity, Literal["farther", "nearer"]] = {
    "depth": "farther",
    "disparity": "nearer",
}
"""The sign of each polarity, as files and `Model.larger_is` state it."""
DepthIs = Literal["depth", "disparity", "relative", "ordinal", "pairs"]
"""What the depth of a source's samples is known to be. `depth`: depth up to scale. `disparity`:
the reciprocal of disparity that is known up to scale and shift. `relative`: values that grow with
depth, on a scale of their own. `ordinal`: any values in the right order. `pairs`: there is none."""
Compares = Literal["relations", "order", "values", "inverse depth"]
"""What a loss compares scores with. `relations`: those of pairs, annotated or from depth. `order`:
that of depths. `values`, `inverse depth`: the values of these, up to scale and shift."""
Values = TypeVar("Values", np.ndarray, Array)


def with_polarity(values: Values, polarity: Polarity) -> Values:
    """Return a score as values of `polarity`, or values of `polarity` as a score."""
    return -values if polarity == "disparity" else values


UNKNOWN = 2
"""In place of a relation: there is none (a row that pads, a pair that was cropped away), or it
follows from the depths of the two points."""
NO_PAIRS = np.zeros((0, 5), np.int32)
"""The annotated pairs of a sample that has none."""


class Sample(TypedDict):
    """One image with ground truth, on the host."""

    image: UInt8[np.ndarray, "h w 3"]
    depth: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    """All False where the data set has annotated pairs only."""
    pairs: NotRequired[Int32[np.ndarray, "n 5"]]
    """Annotated pairs: row and column of the first point, of the second, relation."""
    instances: NotRequired[Int32[np.ndarray, "h w"]]
    """Which instance each pixel shows; 0: none. Only of sources that were asked for it."""
    certainty: NotRequired[Float32[np.ndarray, ""] | np.float32]
    """How sure the order of depths is: that of two points has the log odds `certainty` times the
    difference of log depth. Only of maps that a network made, and that say so; inf: measured."""
    unreadable: NotRequired[Bool[np.ndarray, ""] | np.bool_]
    """Whether this stands in for a sample that could not be read."""


class Batch(TypedDict):
    """Samples stacked for the device."""

    image: UInt8[Array, "b h w 3"]
    depth: Float[Array, "b h w"]
    mask: Bool[Array, "b h w"]
    pairs: NotRequired[Int32[Array, "b g 5"]]
    """As in `Sample`, padded to one number for all images; relation UNKNOWN means no pair."""
    instances: NotRequired[Int32[Array, "b h w"]]
    """As in `Sample`; all 0 for images of a source without instances."""
    certainty: NotRequired[Float32[Array, "b"]]
    """As in `Sample`; inf for images of other sources."""


class Pairs(NamedTuple):
    """Point pairs of a batch: flat pixel indices (`row * w + column`) and which of them count."""

    first: Int[Array, "b n"]
    second: Int[Array, "b n"]
    valid: Bool[Array, "b n"]
    relation: Int[Array, "b n"] | None = None
    """What annotators said. UNKNOWN, or None for all pairs: depth decides (`ops.pairs.label`)."""


@runtime_checkable
class PairSampler(Protocol):
    """Chooses point pairs inside the compiled step: fixed `n`, a function of `key` alone.

    An attribute `needs`, if there is one, names the optional keys of a batch that it reads.
    """

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw the pairs of one step."""
        ...


@runtime_checkable
class Loss(Protocol):
    """Compares scores with ground truth.

    `pairs` are the step's sampled pairs; dense losses ignore them. An attribute `compares`, if
    there is one, holds the `Compares` of the loss: sources that do not know them are refused. An
    attribute `needs`, if there is one, names optional keys of a batch without which the loss has
    no use.
    """

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the scalar to minimise.

        Finite for any ground truth and for scores up to 1e15; 0 where nothing is valid.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """Random access to the samples of one split; picklable, `self[i]` twice gives equal samples.

    An attribute `instances`, if there is one, says whether samples have instances; `temperature`,
    if it is greater than 0, that they have a certainty. A method `open`,
    if there is one, returns a `data.cropping.Opened`, of which a crop can be read. A method
    `names`, if there is one, returns a name for each sample, or None. An attribute `depth_is`, if
    there is one, says what depth is known to be (else "depth"), and `depth_hint` by which of its
    options the source could know more.
    """

    @property
    def pairs_per_image(self) -> int:
        """Most annotated pairs of a sample that a training step uses; 0: none has any."""
        ...

    def __len__(self) -> int:
        """Return how many samples there are."""
        ...

    def __getitem__(self, index: int) -> Sample:
        """Read or render one sample."""
        ...


class Tokens(NamedTuple):
    """What a transformer knows of each patch, and its class token: one tap of an encoder."""

    patches: Float[Array, "b h w c"]
    summary: Float[Array, "b 1 1 c"]


class DropPath(NamedTuple):
    """Blocks of a transformer that a training step leaves out (stochastic depth)."""

    key: Key[Array, ""]
    share: float
    """Of the images, for the last block; it grows linearly from 0 for the first one."""


@runtime_checkable
class Encoder(Protocol):
    """Four taps, finest first, with these channels: maps at strides 4, 8, 16 and 32, or tokens.

    An attribute `tokens`, if there is one, says which taps are `Tokens`. Sides of images are
    multiples of 32; of a transformer's patch, or of another number, if it is registered with
    `patch=14` or `multiple=16`. A transformer with `blocks` says how many, and takes a `DropPath`
    as second argument.
    """

    channels: tuple[int, int, int, int]

    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> Sequence[Float[Array, "b _h _w _c"] | Tokens]:
        """Return the taps for images normalised as the encoder's weights expect."""
        ...
