"""Reading HDF5 files by h5py, which is optional, for data sets that store arrays in them.

A file is opened for each read: a handle can be neither pickled nor shared between processes.
Between threads h5py locks itself.
"""

import contextlib
import io as memory
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.errors import UserError


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Return whether there is a regular file with HDF5's signature; DataError without h5py."""
    # Checked before it is opened: opening a pipe would wait for a writer.
    return os.path.isfile(path) and bool(_h5py(path).is_hdf5(path))


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open for reading (an `h5py.File`).

    Whatever fails inside becomes UnreadableFile; DataError where h5py is not installed.
    """
    if not os.path.isfile(path):
        is_there = os.path.exists(path)
        raise io.UnreadableFile(path, "is not a regular file" if is_there else "no such file")
    h5py = _h5py(path)
    try:
        if not h5py.is_hdf5(path):
            raise ValueError("is not HDF5 (MATLAB v7.3); download it again")
        # Nobody writes these files, and some network file systems cannot lock.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except UserError:
        raise
    except Exception as error:
        # h5py raises many types on damaged input.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise io.UnreadableFile(path, reason) from error


def dataset(file: Any, name: str) -> Any:
    """Return an `h5py.Dataset`, of which nothing is read yet; ValueError if there is none."""
    found = file.get(name)
    # Without a shape it was made to hold nothing.
    if getattr(found, "shape", None) is None:
        raise ValueError(f"has no data set {name!r}")
    return found


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return an array as a PNG file, for records: they hold images as encoded files."""
    buffer = memory.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _h5py(path: str | os.PathLike[str]) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(
            f'{io.printable(path)}: reading HDF5 takes h5py; pip install "reldepth-jax[nyu]"'
        ) from None
    return h5py
