"""Pieces of a film of colours, and the film that they are joined to."""

import contextlib
import fractions
import heapq
import io
import os
import pathlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from reldepth_jax.data.images.io import atomic_write

if TYPE_CHECKING:
    from av.packet import Packet

_ENCODERS = ("libx264", "mpeg4")
"""The first that PyAV was built with."""
# Without B-frames decoding order is that of display, so that pieces join without a gap.
_OPTIONS = {
    "libx264": {"crf": "20", "preset": "fast", "bf": "0"},
    "mpeg4": {"qmin": "3", "bf": "0"},
}
_BT709 = 1
"""Number of ITU-R BT.709 in FFmpeg's lists of matrices, primaries and transfer functions."""


@contextlib.contextmanager
def piece(
    path: pathlib.Path, time_base: fractions.Fraction, aspect: fractions.Fraction
) -> Iterator["Piece"]:
    """Open a piece for writing, which is at `path` once all its frames are complete."""
    import av

    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        # NUT keeps any time base and any first time stamp as they are.
        with av.open(os.fspath(temporary), "w", format="nut") as container:
            made = Piece(container, time_base, aspect)
            yield made
            made.end()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Piece:
    """Takes the frames of a piece in their order."""

    def __init__(self, container: Any, time_base: fractions.Fraction, aspect: fractions.Fraction):
        self._container, self._time_base, self._aspect = container, time_base, aspect
        self._stream: Any = None

    def add(self, pixels: UInt8[np.ndarray, "h w 3"], pts: int) -> None:
        """Encode a frame; all have one size, with sides that are even."""
        import av

        if self._stream is None:
            self._stream = self._made(pixels.shape[1], pixels.shape[0])
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = pts, self._time_base
        self._container.mux(self._stream.encode(frame))

    def end(self) -> None:
        """Encode what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    def _made(self, width: int, height: int) -> Any:
        import av

        name = next(each for each in _ENCODERS if each in av.codecs_available)
        stream = self._container.add_stream(name, options=_OPTIONS[name])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._time_base
        context = stream.codec_context
        context.sample_aspect_ratio = self._aspect
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        return stream


def ending(film: str | os.PathLike[str]) -> str:
    """Return the extension of what `join` writes: .mp4 where that can hold the sound, else .mkv."""
    import av

    with av.open(os.fspath(film)) as container, av.open(io.BytesIO(), "w", "mp4") as output:
        names = {stream.codec_context.name for stream in container.streams.audio}
        return ".mp4" if names <= output.supported_codecs else ".mkv"


def join(
    pieces: Sequence[pathlib.Path],
    film: str | os.PathLike[str],
    path: pathlib.Path,
    notes: Mapping[str, str],
) -> None:
    """Write the film of all pieces with the sound of `film`, whole or not at all.

    Nothing is encoded again. Raises OSError.
    """
    import av

    kind = {".mp4": "mp4", ".mkv": "matroska"}[path.suffix]
    options = {"movflags": "faststart"} if kind == "mp4" else {}
    with atomic_write(path) as file, av.open(os.fspath(film)) as source:
        with av.open(file, "w", format=kind, options=options) as output:
            output.metadata.update(notes)
            with av.open(os.fspath(pieces[0])) as first:
                picture = output.add_stream_from_template(first.streams.video[0])
            sound = {
                stream: output.add_stream_from_template(stream) for stream in source.streams.audio
            }
            packets = [_pictures(pieces, picture)]
            if sound:
                packets.append(_sounds(source, sound))
            for packet in heapq.merge(*packets, key=_seconds):
                output.mux(packet)


def _pictures(pieces: Sequence[pathlib.Path], stream: Any) -> Iterator["Packet"]:
    import av

    for path in pieces:
        with av.open(os.fspath(path)) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.dts is not None:  # else it marks the end
                    packet.stream = stream
                    yield packet


def _sounds(source: Any, streams: Mapping[Any, Any]) -> Iterator["Packet"]:
    for packet in source.demux(*streams):
        if packet.dts is not None:
            packet.stream = streams[packet.stream]
            yield packet


def _seconds(packet: "Packet") -> float:
    return float((packet.dts or 0) * packet.time_base)
