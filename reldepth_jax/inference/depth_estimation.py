"""The call that users of HuggingFace's `transformers` know: `pipeline("depth-estimation")(image)`.

Contract and code of theirs: huggingface.co/docs/transformers, `DepthEstimationPipeline`.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, overload

import numpy as np
from jaxtyping import Float32
from PIL import Image

from reldepth_jax.data.images import io
from reldepth_jax.data.images.given import Given
from reldepth_jax.errors import UserError, printable
from reldepth_jax.inference.networks import Model, load_model
from reldepth_jax.inference.predictor import Prepared
from reldepth_jax.public_files import SHIPPED, is_safe
from reldepth_jax.types import with_polarity
from reldepth_jax.weights import https
from reldepth_jax.weights.by_name import offline

TASK = "depth-estimation"
_MOST_BYTES = 1 << 28
"""Of a photograph that is fetched."""


class DepthEstimation(TypedDict):
    """What the pipeline returns for an image, at its size, as it is displayed."""

    predicted_depth: Float32[np.ndarray, "h w"]
    """Metres if the network has a unit, else larger is nearer, without a unit."""
    depth: Image.Image
    """The same in 8-bit grey, from 0 for its minimum to 255 for its maximum, rounded down."""


class _Waiting(NamedTuple):
    number: int
    prepared: Prepared


class DepthEstimationPipeline:
    """A network that is called as `transformers`' pipeline of the same name; see `pipeline`."""

    def __init__(self, model: Model, batch_size: int = 1):
        self.model: Model = model
        self.batch_size: int = _checked(batch_size)
        self._predictor = model.predictor()

    @overload
    def __call__(self, inputs: Given, *, batch_size: int | None = None) -> DepthEstimation: ...

    @overload
    def __call__(
        self, inputs: Sequence[Given], *, batch_size: int | None = None
    ) -> list[DepthEstimation]: ...

    @overload
    def __call__(
        self, inputs: Iterator[Given], *, batch_size: int | None = None
    ) -> Iterator[DepthEstimation]: ...

    def __call__(self, inputs: Any, *, batch_size: int | None = None) -> Any:
        """Return the depth of an image, a list for a list or tuple, an iterator for an iterator.

        Args:
          inputs: images as `Model.predict` takes them, or https addresses of photographs.
          batch_size: of images whose inputs to the network have one size, in one call of it; for
            an iterator those among that many which follow each other. Each number of images
            compiles, for seconds. Default: that of the pipeline.

        Raises UserError for what is no image, UnreadableFile for what cannot be read or fetched.
        """
        size = self.batch_size if batch_size is None else _checked(batch_size)
        if isinstance(inputs, list | tuple):
            return self._estimated(inputs, size)
        if isinstance(inputs, Iterator):
            return self._one_after_another(inputs, size)
        return self._estimated([inputs], 1)[0]

    def _one_after_another(
        self, images: Iterator[Given], batch_size: int
    ) -> Iterator[DepthEstimation]:
        while window := list(itertools.islice(images, batch_size)):
            yield from self._estimated(window, batch_size)

    def _estimated(self, images: Iterable[Given], batch_size: int) -> list[DepthEstimation]:
        found: dict[int, DepthEstimation] = {}
        waiting: dict[tuple[int, ...], list[_Waiting]] = {}

        def flush(group: list[_Waiting]) -> None:
            scores = self._predictor.scores([each.prepared for each in group])
            for each, score in zip(group, scores, strict=True):
                found[each.number] = self._formatted(score)
            group.clear()

        for number, image in enumerate(images):
            prepared = self._predictor.prepared(_fetched(image))
            group = waiting.setdefault(prepared.image.shape, [])
            group.append(_Waiting(number, prepared))
            if len(group) == batch_size:
                flush(group)
        for group in filter(None, waiting.values()):
            flush(group)
        return [found[number] for number in sorted(found)]

    def _formatted(self, score: Float32[np.ndarray, "h w"]) -> DepthEstimation:
        values = with_polarity(score, "depth" if self.model.unit else "disparity")
        low, high = values.min(), values.max()
        unit = (values - low) / ((high - low) or np.float32(1))
        grey = Image.fromarray((255 * unit).astype(np.uint8))
        return {"predicted_depth": values, "depth": grey}


def pipeline(
    task: str = TASK,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    batch_size: int = 1,
    fast: bool = False,
) -> DepthEstimationPipeline:
    """Return what is called with images as `transformers.pipeline("depth-estimation")` is.

    ```python
    depth_estimator = reldepth_jax.pipeline("depth-estimation")
    result = depth_estimator("photo.jpg")
    result["predicted_depth"]  # float32 (h, w)
    result["depth"]  # an 8-bit image of Pillow
    ```

    As there: `predicted_depth` has the size of the photograph as it is displayed; larger is nearer
    for networks without a unit, whatever `Model.larger_is` says, and it is metres for metric ones,
    where larger is farther; `depth` is stretched to 0..255 for each image and rounded down; a list
    gives a list in its order; `batch_size` can be given here or in the call.

    Deviations: arrays are NumPy's, not torch's. `predicted_depth` of a network without a unit may
    be negative. An image of one value gives a black `depth`, where theirs divides by 0. Images may
    also be paths (`pathlib`) and arrays of uint8; images of Pillow are refused where EXIF leaves
    open whether they were turned. Addresses must be https (theirs: also http), up to 268 MB, and
    30 s without a byte end them; RELDEPTH_OFFLINE=1 forbids them. No images in base64. A tuple is
    a list; an iterator (a generator) gives an iterator, other iterables (their data sets) do not:
    call it with `iter(…)`. There is no `device`, `dtype`, `timeout`, `num_workers`: JAX chooses
    the device. With `batch_size` images are put together by the size of the network's input;
    theirs stacks what follows each other. `post_process` of `transformers` enlarges maps
    bicubically; ours as the network's authors do (docs/models.md).

    Args:
      task: "depth-estimation", the only one.
      model: as `load_model` takes it, or what it returns; None: the network of the package.
      batch_size: see `DepthEstimationPipeline.__call__`.
      fast: as in `Model`; of no use beside a `Model`.

    Raises UserError for another task or number, and what `load_model` raises.
    """
    if task != TASK:
        raise UserError(f"task: there is {TASK} alone, got {task!r}")
    if not isinstance(model, Model):
        model = load_model(SHIPPED if model is None else model, fast=fast)
    return DepthEstimationPipeline(model, batch_size)


def _checked(batch_size: int) -> int:
    if type(batch_size) is not int or batch_size < 1:
        raise UserError(f"batch_size: must be a whole number from 1 on, got {batch_size!r}")
    return batch_size


def _fetched(image: Given) -> Given:
    """Return the pixels behind an address; anything else as it is."""
    if not isinstance(image, str) or not image.startswith(("https://", "http://")):
        return image
    if not is_safe(image):
        raise io.UnreadableFile(image, "only https is fetched; fetch it yourself, give its path")
    if offline():
        raise io.UnreadableFile(image, "RELDEPTH_OFFLINE forbids to fetch it")
    return io.decode_image(_bytes_of(image), image, displayed=True)


def _bytes_of(address: str) -> bytes:
    data = bytearray()
    try:
        with https.get(address, 0, "") as response:
            while block := https.read(response, address):
                data += block
                if len(data) > _MOST_BYTES:
                    raise https.Final(f"it is larger than {_MOST_BYTES / 1e6:.0f} MB")
    except (https.Passing, https.Final) as error:
        raise io.UnreadableFile(address, f"cannot be fetched: {printable(str(error))}") from None
    return bytes(data)
