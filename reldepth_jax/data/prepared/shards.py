"""Reading prepared shards: the same records as the original folder gives, in the same order.

`PREPARED/NAME/VERSION/` is a data set of TensorFlow Datasets in the array_record format, written by
`reldepth prepare`; no TensorFlow is needed. An example holds `name`, `image` (the encoded
file, byte for byte), `pairs` (int32, n 5) and `map_NAME` (h w, the type of the file) for every map.
`metadata.json` says what was written: number of records, fingerprint and size of every shard.

A fingerprint is the SHA-256 of the records' digests, in their order; see `digest`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from reldepth_jax.data.images import io
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import Part, Record, Records

VERSION = "1.0.0"
"""Of what an example holds; shards with another first number are not read."""
FILE_FORMAT = "array_record"
METADATA = "metadata.json"
# A group of one record: random access reads no others. Zstandard is unpacked in a third of the time
# that zlib takes, and takes about as much space.
_WRITING = "group_size:1,zstd:3"


def import_tfds() -> Any:
    """Return the module; DataError if it is not installed."""
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f'prepared shards need TensorFlow Datasets: pip install "reldepth-jax[tfds]" ({error})'
        ) from None
    return tensorflow_datasets


def features(maps: Mapping[str, np.dtype]) -> Any:
    """Return the tfds features of a data set with these maps (name, type)."""
    tfds = import_tfds()
    return tfds.features.FeaturesDict(
        {
            "name": tfds.features.Text(),
            # Bytes that are given as bytes are stored as they are.
            "image": tfds.features.Image(),
            "pairs": tfds.features.Tensor(shape=(None, 5), dtype=np.int32),
        }
        | {
            f"map_{name}": tfds.features.Tensor(
                shape=(None, None), dtype=dtype, encoding=tfds.features.Encoding.BYTES
            )
            for name, dtype in maps.items()
        }
    )


def to_example(record: Record) -> dict[str, Any]:
    """Return the record as tfds takes it."""
    return {
        # A file name need not be valid UTF-8.
        "name": os.fsencode(record["name"]),
        "image": record["image"],
        "pairs": record["pairs"],
    } | {f"map_{name}": values for name, values in record["maps"].items()}


def to_record(example: Mapping[str, Any]) -> Record:
    """Return what `to_example` was given."""
    return {
        "name": os.fsdecode(example["name"]),
        "image": example["image"],
        # Copied, so that they can be written to, as those from the folder.
        "maps": {
            name.removeprefix("map_"): np.array(values)
            for name, values in example.items()
            if name.startswith("map_")
        },
        "pairs": np.array(example["pairs"]),
    }


def digest(record: Record) -> bytes:
    """Return the SHA-256 of name, image, maps in the order of their names, and pairs.

    Each is preceded by a line with its kind, type, shape and number of bytes.
    """
    found = hashlib.sha256()

    def add(what: str, data: bytes) -> None:
        found.update(f"{what} {len(data)}\n".encode())
        found.update(data)

    add("name", os.fsencode(record["name"]))
    add("image", record["image"])
    for name, values in [*sorted(record["maps"].items()), ("", record["pairs"])]:
        kind = f"map {name}" if name else "pairs"
        add(f"{kind} {values.dtype.str} {values.shape}", values.tobytes())
    return found.digest()


def fingerprint(digests: Iterable[bytes]) -> str:
    """Return the SHA-256 of digests in their order, in hexadecimal."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


class Writer:
    """Writes records into one shard, as tfds would; what the disk refuses becomes DataError."""

    def __init__(self, path: str, maps: Mapping[str, np.dtype]):
        from array_record.python import array_record_module  # type: ignore[attr-defined]: compiled

        self._path, self._features = path, features(maps)
        self._writer = self._reporting(array_record_module.ArrayRecordWriter, path, _WRITING)

    def write(self, record: Record) -> None:
        """Add one record."""
        self._reporting(self._writer.write, self._features.serialize_example(to_example(record)))

    def close(self) -> None:
        """Complete the file."""
        self._reporting(self._writer.close)

    def _reporting(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:
            raise DataError(f"{io.printable(self._path)} cannot be written: {error}") from error


@dataclasses.dataclass(frozen=True)
class ShardRecords:
    """The records of one part; picklable, each process opens the files for itself."""

    folder: str
    """PREPARED/NAME/VERSION."""
    part: Part
    shards: tuple[tuple[str, int], ...]
    """Path and number of records of each shard."""

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(count for _, count in self.shards)

    def __getitem__(self, index: int) -> Record:
        """Read one; IndexError outside, UnreadableFile if its shard is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            return to_record(self._source[index])
        except Exception as error:
            # array_record, protobuf and zlib raise nearly every type on damaged input.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise io.UnreadableFile(
                self._path(index), f"is damaged; delete {self.folder} and prepare again ({reason})"
            ) from error

    def __reduce__(self):
        """Leave the open files behind."""
        return type(self), (self.folder, self.part, self.shards)

    def _path(self, index: int) -> str:
        for path, count in self.shards:
            if index < count:
                return path
            index -= count
        raise AssertionError

    @functools.cached_property
    def _source(self) -> Any:
        tfds = import_tfds()
        return _builder(self.folder).as_data_source(
            self.part, decoders={"image": tfds.decode.SkipDecoding()}
        )


@dataclasses.dataclass(frozen=True)
class NotPrepared:
    """A part that the data set has but that was left out when the shards were made."""

    folder: str
    part: Part

    def __len__(self) -> int:
        """Raise DataError."""
        raise self._error()

    def _error(self) -> DataError:
        return DataError(
            f"{io.printable(self.folder)} was prepared without the part {self.part!r}; delete it"
            " and prepare again with that part in --parts"
        )

    def __getitem__(self, index: int) -> Record:
        """Raise DataError."""
        raise self._error()


def read_part(data_set: str, prepared: str, part: Part) -> Records | None:
    """Return the records of a part; None if the data set has no such part.

    A part that was left out on purpose (--parts) is `NotPrepared`: that there is one decides
    whether training samples are held out for validation.

    Raises DataError: tfds is not installed, nothing is prepared, another version, a file that is
    missing or has another size than was written.
    """
    import_tfds()
    folder = newest(data_set, prepared)
    written = describe(folder)["parts"]
    if part in written and written[part] is None:
        return None
    if part not in written:
        return NotPrepared(os.fspath(folder), part)
    try:
        split = _builder(os.fspath(folder)).info.splits[part]
        paths, counts = [os.fspath(path) for path in split.filepaths], list(split.shard_lengths)
    except Exception as error:
        # What tfds raises on damaged descriptions has no common type.
        raise _damaged(folder, f"dataset_info.json or features.json: {error}") from error
    sizes = written[part]["shard_bytes"]
    if sum(counts) != written[part]["records"] or len(sizes) != len(paths):
        raise _damaged(folder, f"dataset_info.json and {METADATA} contradict each other")
    for path, size in zip(paths, sizes, strict=True):
        if not os.path.isfile(path):
            raise _damaged(folder, f"{path} is missing")
        if os.path.getsize(path) != size:
            raise _damaged(folder, f"{path} has {os.path.getsize(path)} bytes instead of {size}")
    return ShardRecords(os.fspath(folder), part, tuple(zip(paths, counts, strict=True)))


def newest(data_set: str, prepared: str | os.PathLike[str]) -> pathlib.Path:
    """Return the folder of the newest version that can be read; DataError if there is none."""
    home = pathlib.Path(prepared) / data_set
    found = versions(home)
    readable = [version for version in found if version[0] == _numbers(VERSION)[0]]
    if readable:
        return home / ".".join(map(str, max(readable)))
    if found:
        raise DataError(
            f"{io.printable(home)} holds version {'.'.join(map(str, max(found)))} of the prepared"
            f" data, this program reads version {VERSION}; prepare the data set again"
        )
    raise DataError(
        f"{io.printable(prepared)} holds no prepared {data_set}; run reldepth prepare"
        f" {data_set} --manual-dir FOLDER --data-dir {io.printable(prepared)}"
    )


def versions(home: pathlib.Path) -> list[tuple[int, ...]]:
    """Return the versions that are complete below PREPARED/NAME."""
    if not home.is_dir():
        return []
    return [
        _numbers(path.name)
        for path in home.iterdir()
        # Shards that are being written lie in a folder of another name.
        if re.fullmatch(r"\d+\.\d+\.\d+", path.name) and path.is_dir()
    ]


def describe(folder: pathlib.Path) -> dict[str, Any]:
    """Return what `metadata.json` says of a prepared folder; DataError if it is damaged."""
    try:
        content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        parts = content["parts"]
        assert isinstance(content["published"], dict)
        for part in parts.values():
            assert part is None or part.keys() >= {"records", "fingerprint", "shard_bytes"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise _damaged(folder, f"{METADATA}: {error or 'not as written'}") from None
    return content


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _damaged(folder: pathlib.Path, reason: str) -> DataError:
    text = io.printable(" ".join(reason.split()))
    return DataError(f"{io.printable(folder)} is damaged, delete it and prepare again ({text})")


@functools.lru_cache(maxsize=8)
def _opened(folder: str, changed: int) -> Any:
    return import_tfds().builder_from_directory(folder)


def _builder(folder: str) -> Any:
    return _opened(folder, os.stat(os.path.join(folder, METADATA)).st_mtime_ns)
