"""Frames of a film file as they are displayed, with the times at which they are."""

import contextlib
import fractions
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import UInt8

from reldepth_jax.data.images import io
from reldepth_jax.data.images.decoding import MAX_PIXELS
from reldepth_jax.errors import UserError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class Frame(NamedTuple):
    """A frame, turned as it is displayed."""

    pixels: Callable[[], UInt8[np.ndarray, "h w 3"]]
    """Converts it to RGB."""
    turned: bool
    """Whether by a quarter, so that width and height change places."""
    pts: int
    """When it is displayed, in time bases of its film; larger than that of the frame before."""


class Film:
    """A film that is open for reading; see `opened`."""

    def __init__(self, path: str | os.PathLike[str], container: "InputContainer"):
        self._path, self._container = path, container
        self._stream: VideoStream = container.streams.video[0]
        self.undecodable: int = 0
        """Packets that were damaged, so far."""

    @property
    def time_base(self) -> fractions.Fraction:
        """The unit of time stamps, in seconds."""
        return self._stream.time_base or fractions.Fraction(1, 90_000)

    @property
    def expected(self) -> int:
        """How many frames there may be, as the file says; 0: it does not say."""
        stream = self._stream
        if stream.frames:
            return stream.frames
        seconds = (self._container.duration or 0) / 1e6
        return round(seconds * float(stream.average_rate or 0))

    @property
    def interval(self) -> int:
        """What may lie between two frames, in time bases."""
        rate = self._stream.average_rate or fractions.Fraction(25)
        return max(1, round(1 / (rate * self.time_base)))

    def pixel_aspect(self, turned: bool) -> fractions.Fraction:
        """Width of a pixel over its height, as displayed; `turned` by a quarter."""
        aspect = self._stream.codec_context.sample_aspect_ratio or fractions.Fraction(1)
        return 1 / aspect if turned else aspect

    def frames(self) -> Iterator[Frame]:
        """Yield the frames; damaged ones are left out and counted.

        Raises UnreadableFile if the file cannot be read on.
        """
        from av.error import InvalidDataError

        last: int | None = None
        with _reporting(self._path):
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except InvalidDataError:
                    self.undecodable += 1
                    continue
                for frame in decoded:
                    pts = frame.pts
                    if last is not None and (pts is None or pts <= last):
                        # Without a time stamp, or with one of a damaged file.
                        pts = last + (self.interval if pts is None else 1)
                    last = pts or 0
                    yield Frame(_Displayed(frame), bool(frame.rotation % 180), last)


class _Displayed:
    def __init__(self, frame: "VideoFrame"):
        self._frame = frame

    def __call__(self) -> UInt8[np.ndarray, "h w 3"]:
        pixels = self._frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(pixels, self._frame.rotation // 90))


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Iterator[Film]:
    """Open a film.

    Raises UnreadableFile for a file that is none or has frames above `max_pixels`, UserError
    without PyAV.
    """
    library()
    import av

    with contextlib.ExitStack() as open_files:
        with _reporting(path):
            if not os.path.isfile(path):
                there = os.path.lexists(path)
                raise ValueError("is not a regular file" if there else "no such file")
            container = open_files.enter_context(av.open(os.fspath(path)))
            if not container.streams.video:
                raise ValueError("is no film: it has no pictures")
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise ValueError(
                    f"has frames of {stream.width}x{stream.height}, above"
                    f" {max_pixels / 1e6:.0f} million pixels (--max-pixels)"
                )
            stream.thread_type = "AUTO"
        yield Film(path, container)


def library() -> None:
    """Raise UserError if PyAV is not installed."""
    try:
        import av  # noqa: F401
    except ImportError:
        raise UserError("films need PyAV: pip install 'reldepth-jax[video]'") from None


@contextlib.contextmanager
def _reporting(path: str | os.PathLike[str]) -> Iterator[None]:
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise io.UnreadableFile(path, " ".join(reason.split())) from None
