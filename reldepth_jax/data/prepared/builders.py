"""TFDS builders of declared data sets: array_record, no TensorFlow.

`ShardBasedBuilder` rather than `GeneratorBasedBuilder`: the latter's writer sorts by key in memory
and, above a gigabyte, in temporary files that it opens with TensorFlow. This one writes shard after
shard in the order of the records, and lets every shard be written by another Apache Beam worker.

`reldepth prepare` prepares with worker processes and checks more; without it:

    builder("diw")(data_dir="prepared", file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="DIW", beam_runner=…))
"""

import functools
import itertools
import math
import os
import sys
import types
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from reldepth_jax.data.data_set import declared
from reldepth_jax.data.prepared import shards
from reldepth_jax.data.reading.declaration import DataSet
from reldepth_jax.data.reading.records import PARTS, Part, Record, Records

SHARD_BYTES = 64 << 20
"""About the size of a shard."""
SAMPLES = 32
"""Records that are read to estimate the size of all."""

Write = Callable[[Part, Records, list[tuple[range, str]]], list[bytes]]
"""Writes the shards of a part (which records, path); returns the digests of all its records."""


def builder(data_set: str) -> type["RecordsBuilder"]:
    """Return the builder of a data set, given by the name of its source."""
    source = declared(data_set)
    return types.new_class(
        source.__name__,
        (RecordsBuilder,),
        # Registered with tfds it could clash with one of its own (it has another nyu_depth_v2).
        {"skip_registration": True},
        lambda body: body.update(
            __module__=__name__,
            name=data_set,
            data_set=source.data_set,
            description=sys.modules[source.__module__].__doc__ or "",
        ),
    )


class RecordsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """What the builders share."""

    data_set: DataSet
    description: str

    VERSION = tfds.core.Version(shards.VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The extracted folder, as the data set's reader describes it."

    parts: Mapping[Part, Records | None] | None = None
    """What to write, None for a part that the folder lacks. By default all there is."""
    write: Write | None = None
    """Reads and writes. By default tfds or Beam does."""
    shard_bytes = SHARD_BYTES

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.description,
            homepage=self.data_set.home or None,
            license=self.data_set.licence or None,
            features=shards.features(self.data_set.dtypes),
            metadata=tfds.core.MetadataDict(published=dict(self.data_set.counts)),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        root = os.fspath(dl_manager.manual_dir)
        return {
            part: [
                functools.partial(_examples, self.name, root, part, chosen)
                for chosen in self.ranges(part, records)
            ]
            for part, records in self._parts(dl_manager).items()
            if records is not None
        }

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        fingerprints: dict[str, str] = {}
        if self.write is None:
            super()._download_and_prepare(dl_manager, download_config)
            for part, records in self._parts(dl_manager).items():
                if records is None:
                    continue
                split = self.info.splits[part]
                # Only what is described can be read.
                self.info.write_to_directory(self.data_dir)
                written = zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True)
                records = shards.ShardRecords(self.data_dir, part, tuple(written))
                digests = (shards.digest(records[index]) for index in range(len(records)))
                fingerprints[part] = shards.fingerprint(digests)
        else:
            splits = []
            for part, records in self._parts(dl_manager).items():
                if records is not None:
                    split, fingerprints[part] = self._write(part, records, self.write)
                    splits.append(split)
            self.info.set_splits(tfds.core.SplitDict(splits))
        described: dict[str, Any] = dict.fromkeys(self._parts(dl_manager))
        for part, found in fingerprints.items():
            split = self.info.splits[part]
            described[part] = {
                "records": split.num_examples,
                "fingerprint": found,
                "shard_bytes": [os.path.getsize(path) for path in split.filepaths],
            }
        metadata: Any = self.info.metadata
        metadata["parts"] = described

    def _write(self, part: Part, records: Records, write: Write) -> tuple[tfds.core.SplitInfo, str]:
        """Write the shards of a part; return its description and fingerprint."""
        template = self._get_filename_template(part)
        ranges = self.ranges(part, records)
        paths = [os.fspath(path) for path in template.sharded_filepaths(len(ranges))]
        digests = write(part, records, list(zip(ranges, paths, strict=True)))
        split = tfds.core.SplitInfo(
            name=part,
            shard_lengths=list(map(len, ranges)),
            num_bytes=sum(map(os.path.getsize, paths)),
            filename_template=template,
        )
        return split, shards.fingerprint(digests)

    def estimate(self, part: Part, records: Records) -> int:
        """Return about how many bytes the shards of a part take."""
        if part not in self._sizes:
            chosen = np.linspace(0, len(records) - 1, min(SAMPLES, len(records))).astype(int)
            sizes = [_stored_bytes(records[int(index)]) for index in chosen]
            self._sizes[part] = int(np.mean(sizes) * len(records))
        return self._sizes[part]

    def total_bytes(self) -> int:
        """Return about how many bytes the shards of `parts` take."""
        given = (self.parts or {}).items()
        return sum(self.estimate(part, records) for part, records in given if records is not None)

    def ranges(self, part: Part, records: Records) -> list[range]:
        """Return which records go into each shard."""
        count = len(records)
        number = min(count, max(1, math.ceil(self.estimate(part, records) / self.shard_bytes)))
        bounds = [count * shard // number for shard in range(number + 1)]
        return [range(*pair) for pair in itertools.pairwise(bounds)]

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return {}

    def _parts(self, dl_manager: Any) -> Mapping[Part, Records | None]:
        if self.parts is None:
            root = os.fspath(dl_manager.manual_dir)
            self.parts = {part: self.data_set.read(root, part) for part in PARTS}
        return self.parts


def _stored_bytes(record: Record) -> int:
    # About what Zstandard makes of them.
    maps = (len(zlib.compress(values.tobytes(), 1)) for values in record["maps"].values())
    return len(record["image"]) + record["pairs"].nbytes + sum(maps)


# Every worker of Beam reads the lists for itself, once: they would be too large to send along with
# each of hundreds of shards.
@functools.lru_cache(maxsize=1)
def _read(data_set: str, root: str, part: Part) -> Records:
    return declared(data_set).data_set.read(root, part)


def _examples(
    data_set: str, root: str, part: Part, chosen: range
) -> Iterator[tuple[int, dict[str, Any]]]:
    records = _read(data_set, root, part)
    for index in chosen:
        yield index, shards.to_example(records[index])
