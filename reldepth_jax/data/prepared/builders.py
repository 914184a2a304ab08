"""TFDS builders of the data sets that are read from a folder: array_record, no TensorFlow.

`ShardBasedBuilder` rather than `GeneratorBasedBuilder`: the latter's writer sorts by key in memory
and, above a gigabyte, in temporary files that it opens with TensorFlow. This one writes shard after
shard in the order of the records, and lets every shard be written by another Apache Beam worker.

`scripts/prepare_data.py` prepares with worker processes and checks more; without it:

    DIW(data_dir="prepared", file_format="array_record").download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="DIW", beam_runner=…))
"""

import functools
import importlib
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from reldepth_jax.data.prepared import shards
from reldepth_jax.data.reading.records import Part, Record, Records

SHARD_BYTES = 64 << 20
"""About as large becomes a shard."""
SAMPLES = 32
"""So many records are read to estimate the size of all."""

Write = Callable[[Part, Records, list[tuple[range, str]]], list[bytes]]
"""Writes the shards of a part (which records, path); returns the digests of all its records."""


# Registered with tfds they could clash with builders of its own (it has another nyu_depth_v2).
class RecordsBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """What the builders share; `name` is that of the module that reads the folder."""

    VERSION = tfds.core.Version(shards.VERSION)
    MANUAL_DOWNLOAD_INSTRUCTIONS = "The extracted folder, as the data set's reader describes it."

    parts: Mapping[Part, Records | None] | None = None
    """What to write, None for a part that the folder lacks; as a whole None: all there is."""
    write: Write | None = None
    """Where given, it reads and writes; else, tfds or Beam does."""
    shard_bytes = SHARD_BYTES

    @classmethod
    def reader(cls) -> Any:
        """Return what reads the folder: COUNTS, MAPS, `read_part` and a docstring."""
        return importlib.import_module(f"reldepth_jax.data.sources.{cls.name}")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.reader().__doc__ or "",
            features=shards.features(self.reader().MAPS),
            metadata=tfds.core.MetadataDict(published=self.reader().COUNTS),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Any]]:
        root = os.fspath(dl_manager.manual_dir)
        return {
            part: [
                functools.partial(_examples, type(self), root, part, chosen)
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
            self.parts = {part: self.reader().read_part(root, part) for part in shards.PARTS}
        return self.parts


def _stored_bytes(record: Record) -> int:
    # About what Zstandard makes of them.
    maps = (len(zlib.compress(values.tobytes(), 1)) for values in record["maps"].values())
    return len(record["image"]) + record["pairs"].nbytes + sum(maps)


# Every worker of Beam reads the lists for itself, once: they would be too large to send along with
# each of hundreds of shards.
@functools.lru_cache(maxsize=1)
def _read(builder: type[RecordsBuilder], root: str, part: Part) -> Records:
    return builder.reader().read_part(root, part)


def _examples(
    builder: type[RecordsBuilder], root: str, part: Part, chosen: range
) -> Iterator[tuple[int, dict[str, Any]]]:
    records = _read(builder, root, part)
    for index in chosen:
        yield index, shards.to_example(records[index])


class ReDWeb(RecordsBuilder, skip_registration=True):
    """ReDWeb V1."""

    name = "redweb"


class HRWSI(RecordsBuilder, skip_registration=True):
    """HR-WSI."""

    name = "hr_wsi"


class DIW(RecordsBuilder, skip_registration=True):
    """Depth in the Wild."""

    name = "diw"


class NYUDepthV2(RecordsBuilder, skip_registration=True):
    """NYU Depth V2, the labeled images."""

    name = "nyu_depth_v2"


class VizDoom(RecordsBuilder, skip_registration=True):
    """Frames of Freedoom, rendered when the shards are written."""

    name = "vizdoom"


BUILDERS: dict[str, type[RecordsBuilder]] = {
    builder.name: builder for builder in (ReDWeb, HRWSI, DIW, NYUDepthV2, VizDoom)
}
