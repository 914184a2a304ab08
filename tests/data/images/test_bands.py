"""Large results are computed a band of rows at a time: in little memory, and the same."""

import contextlib
import errno
import pathlib
import tracemalloc
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np
import pytest
import torch
from PIL import Image

from reldepth_jax.data.images import bands, io, pictures, resampling
from reldepth_jax.inference.writer import stretched

RNG = np.random.default_rng(7)
SIZE = (1111, 1503)
"""Of no whole number of bands."""


def peak(make: Callable[[], np.ndarray]) -> tuple[np.ndarray, int]:
    """Return a result and the largest number of bytes that Python and NumPy held meanwhile."""
    tracemalloc.start()
    try:
        return make(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["RGB", "L", "F", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), SIZE, (70_001, 2), (2, 300_000)])
def test_pixels_of_images_are_those_of_numpy(mode, size):
    values = RNG.integers(0, 60_000, (*size, 3) if mode == "RGB" else size)
    types = {"RGB": np.uint8, "L": np.uint8, "F": np.float32, "I;16": np.uint16}
    image = Image.fromarray(values.astype(types[mode]))
    assert image.mode == mode
    found = bands.as_array(image)
    assert found.dtype == types[mode]
    np.testing.assert_array_equal(found, values.astype(types[mode]))


def test_bands_cover_every_row_once():
    for height, width in ((1, 1), (0, 5), (5, 10**6), (10**5, 3), SIZE):
        rows = [row for each in bands.bands(height, width) for row in range(each.start, each.stop)]
        assert rows == list(range(height))


@pytest.mark.parametrize(
    ("kernel", "mode", "aligned"),
    [
        ("cubic", "bicubic", False),
        ("linear", "bilinear", False),
        ("linear_aligned", "bilinear", True),
    ],
)
@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (1, 7), SIZE[::-1]])
def test_large_maps_are_enlarged_as_torch_does_in_little_more_than_their_own_memory(
    kernel, mode, aligned, shape
):
    score = RNG.normal(size=shape).astype(np.float32)
    found, most = peak(lambda: resampling.resample(score, SIZE, kernel, np.float32))
    assert found.dtype == np.float32
    given = torch.from_numpy(score.astype(np.float64))[None, None]
    expected = torch.nn.functional.interpolate(given, SIZE, mode=mode, align_corners=aligned)
    np.testing.assert_allclose(found, expected[0, 0].numpy(), rtol=0, atol=1e-5)
    assert most < found.nbytes + 8 * shape[0] * SIZE[1] + 12e6


def test_colours_of_large_maps_take_little_more_than_their_own_memory():
    score = RNG.normal(size=SIZE).astype(np.float32)
    picture, most = peak(lambda: pictures.colorize(score))
    # The picture, which pixels are finite, and the bands.
    assert most < 4 * score.size + 12e6
    # By rank: each of 256 colours on a 256th of the pixels, but for the sample.
    packed = picture @ np.array([1 << 16, 1 << 8, 1])
    _, counts = np.unique(packed, return_counts=True)
    assert abs(counts / score.size * 256 - 1).max() < 0.15


def test_values_arestretched_to_16_bits_and_rounded_in_every_band():
    values = np.linspace(-3, 5, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    found, most = peak(lambda: stretched(values, -3.0, 5.0))
    exact = (values.astype(np.longdouble) + 3) / 8 * 65535
    assert abs(found - exact).max() < 0.5001
    assert most < 2 * values.size + 12e6


@pytest.mark.parametrize("write", [io.write_npy, io.write_pfm, io.write_png])
def test_a_full_disk_is_named_by_every_writer(tmp_path: pathlib.Path, monkeypatch, write):
    @contextlib.contextmanager
    def full(path: pathlib.Path) -> Iterator[IO[bytes]]:
        with open("/dev/full", "wb") as file:
            yield file

    monkeypatch.setattr(io, "atomic_write", full)
    array = RNG.integers(0, 255, (300, 300)).astype(np.uint8 if write is io.write_png else "f4")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write(tmp_path / "x", array)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("layout", [lambda a: a, lambda a: a[::-1, ::2], np.asfortranarray])
def test_maps_of_any_layout_are_written_as_they_are(tmp_path, layout):
    array = layout(RNG.normal(size=(40, 60)).astype(np.float32))
    io.write_npy(tmp_path / "a.npy", array)
    io.write_pfm(tmp_path / "a.pfm", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    np.testing.assert_array_equal(io.read_map(tmp_path / "a.pfm"), array)
