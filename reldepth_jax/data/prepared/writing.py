"""Writing prepared shards: a data set's folder is read once and checked, `shards` reads the result.

Counts are checked against the publications, content by our own fingerprint (the authors publish no
checksums that we know of): every image is decoded once, and the fingerprint of what was written is
stored beside it, so that `verify` finds what changed since, in the shards or in the folder.

Shards are written into a folder with a name of its own, which takes the name of the version when
all is complete. A preparation that is killed leaves nothing that could be mistaken for it; the next
one removes the rest.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from reldepth_jax.data.data_set import declared
from reldepth_jax.data.images import io
from reldepth_jax.data.prepared import shards
from reldepth_jax.data.reading.declaration import DataSet
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import PARTS, Part, Record, Records
from reldepth_jax.data.workers import end_with_parent, spared
from reldepth_jax.registry import did_you_mean

CHUNK = 256
"""Records that a worker is given at once where none is written."""

Progress = Callable[[str, int, int], None]
"""Called with a part, how many of its records are done, and of how many."""
Task = tuple[range, str]
"""Which records, and the shard to write them to; an empty path: their digests are all."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is done with some of the records; picklable."""

    records: Records
    root: str
    """Stands before the names of images in messages."""
    maps: Mapping[str, np.dtype]

    def __call__(self, chosen: range, path: str, tick: Callable[[], None]) -> list[bytes]:
        """Return the digests of records; with a path, also check them and write the shard.

        Holds one record at a time; `tick` is called after each. Raises UnreadableFile that names
        the file that is damaged, DataError if the shard cannot be written.
        """
        digests = []
        shard = shards.Writer(path, self.maps) if path else None
        for index in chosen:
            record = self.records[index]
            if shard is not None:
                self._check(record)
                shard.write(record)
            digests.append(shards.digest(record))
            tick()
        if shard is not None:
            shard.close()
        return digests

    def _check(self, record: Record) -> None:
        path = os.path.join(self.root, record["name"])
        io.decode_image(record["image"], path)
        for name, dtype in self.maps.items():
            found = record["maps"][name].dtype
            if found != dtype:
                raise io.UnreadableFile(path, f"its {name} map holds {found}, not {dtype} values")


def run(
    job: Job, tasks: Sequence[Task], workers: int, progress: Callable[[int], None]
) -> list[bytes]:
    """Return the digests of all tasks in order, worked on by so many processes (0: this one)."""
    if not workers:
        counted = itertools.count(1)
        done = [job(*task, lambda: progress(next(counted))) for task in tasks]
        return [one for digests in done for one in digests]
    context = multiprocessing.get_context("spawn")
    count, stop = context.Value("q"), context.Event()
    pool = futures.ProcessPoolExecutor(
        min(workers, len(tasks)), context, _start_worker, (job, count, stop)
    )
    try:
        with spared():
            given = [pool.submit(_work, *task) for task in tasks]
        left = set(given)
        while left:
            finished, left = futures.wait(left, 0.2, futures.FIRST_EXCEPTION)
            for each in finished:
                each.result()
            progress(count.value)
        return [one for each in given for one in each.result()]
    except BrokenProcessPool:
        raise DataError(
            "a worker process was ended from outside, perhaps for want of memory; take fewer"
            " --workers"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_state: tuple[Job, Any, Any] | None = None


def _start_worker(job: Job, count: Any, stop: Any) -> None:
    global _state
    _state = job, count, stop
    end_with_parent(0, 0)


def _work(chosen: range, path: str) -> list[bytes]:
    assert _state is not None
    job, count, stop = _state

    def tick() -> None:
        with count.get_lock():
            count.value += 1
        if stop.is_set():
            raise DataError("stopped, because of an error elsewhere")

    return job(chosen, path, tick)


def prepare(
    data_set: str,
    manual_dir: str,
    data_dir: str,
    *,
    workers: int = 0,
    parts: Sequence[str] | None = None,
    partial: bool = False,
    progress: Progress = lambda part, done, total: None,
    say: Callable[[str], None] = print,
    shard_bytes: int | None = None,
) -> pathlib.Path:
    """Write the shards of a data set; return their folder.

    Args:
      manual_dir: the original folder.
      data_dir: where NAME/VERSION/ is made.
      parts: which; all that are published if None.
      partial: take what is there, where counts differ from the published ones.
      say: called with each line of the report.

    Raises DataError or UnreadableFile, and leaves nothing behind: tfds is not installed, counts
    differ, a file is damaged, not enough space, another preparation is running there.
    """
    shards.import_tfds()
    from reldepth_jax.data.prepared import builders

    home = pathlib.Path(data_dir) / data_set
    folder = home / shards.VERSION
    declaration = declared(data_set).data_set
    chosen = _chosen_parts(data_set, parts)
    if folder.is_dir():
        return _already(folder, chosen, say)
    found = _read(declaration, manual_dir, chosen)
    _check_counts(declaration, chosen, found, partial, say)
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home):
        if folder.is_dir():
            return _already(folder, chosen, say)
        for left in home.glob("incomplete.*"):
            shutil.rmtree(left)
        builder = builders.builder(data_set)(data_dir=data_dir, file_format=shards.FILE_FORMAT)
        builder.parts = found
        builder.shard_bytes = shard_bytes or builders.SHARD_BYTES
        _check_space(home, data_set, builder.total_bytes())

        def write(part: Part, records: Records, tasks: Sequence[Task]) -> list[bytes]:
            job = Job(records, manual_dir, declaration.dtypes)
            return run(job, tasks, workers, lambda done: progress(part, done, len(records)))

        builder.write = write
        # tfds prints what it is about to do.
        with (
            tempfile.TemporaryDirectory() as downloads,
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
        ):
            builder.download_and_prepare(
                download_dir=downloads,
                download_config=builders.tfds.download.DownloadConfig(manual_dir=manual_dir),
            )
    for line in summary(folder):
        say(line)
    return folder


def verify(
    data_set: str,
    data_dir: str,
    manual_dir: str | None = None,
    *,
    workers: int = 0,
    progress: Progress = lambda part, done, total: None,
    say: Callable[[str], None] = print,
) -> None:
    """Read all shards and compare with the stored fingerprint, and with the folder where given.

    Raises DataError that names the part, and the record where it differs from the folder's;
    UnreadableFile if a shard is damaged.
    """
    shards.import_tfds()
    folder = shards.newest(data_set, data_dir)
    for part, written in shards.describe(folder)["parts"].items():
        if written is None:
            continue
        prepared = shards.read_part(data_set, data_dir, part)
        assert prepared is not None
        digests = _digests(prepared, f"{part}, shards", workers, progress)
        if shards.fingerprint(digests) != written["fingerprint"]:
            raise DataError(
                f"{io.printable(folder)}: {part} differs from what was written; delete it and"
                " prepare again"
            )
        say(f"{data_set} {part}: {len(digests)} records, fingerprint as written")
        if manual_dir is None:
            continue
        records = declared(data_set).data_set.read(manual_dir, part)
        if records is None or len(records) != len(prepared):
            raise DataError(
                f"{io.printable(manual_dir)}: {part} has {len(records or ())} records, the"
                f" prepared one {len(prepared)}"
            )
        others = _digests(records, f"{part}, folder", workers, progress)
        for index, (one, other) in enumerate(zip(digests, others, strict=True)):
            if one != other:
                name = io.printable(records[index]["name"])
                raise DataError(
                    f"{io.printable(folder)}: {part} differs from {io.printable(manual_dir)} at"
                    f" record {index}, {name}"
                )
        say(f"{data_set} {part}: identical to {io.printable(manual_dir)}")


def summary(folder: pathlib.Path) -> list[str]:
    """Return one line for each part that was prepared."""
    described = shards.describe(folder)
    lines: list[str] = []
    for part, written in described["parts"].items():
        if written is not None:
            count = written["records"]
            published = described["published"].get(part, count)
            of = "" if count == published else f" of {published} published"
            lines.append(
                f"{io.printable(folder)}: {part} {count}{of} records,"
                f" {sum(written['shard_bytes']) / 1e6:.1f} MB in {len(written['shard_bytes'])}"
                f" shards, fingerprint {written['fingerprint'][:16]}"
            )
    return lines


def _digests(records: Records, what: str, workers: int, progress: Progress) -> list[bytes]:
    starts = range(0, len(records), CHUNK)
    tasks = [(range(start, min(start + CHUNK, len(records))), "") for start in starts]
    job = Job(records, "", {})
    return run(job, tasks, workers, lambda done: progress(what, done, len(records)))


def _chosen_parts(data_set: str, parts: Sequence[str] | None) -> list[Part]:
    for part in parts or ():
        if part not in PARTS:
            raise DataError(
                f"{data_set} has no part {part!r}.{did_you_mean(part, PARTS)}"
                f" Parts: {', '.join(PARTS)}"
            )
    return [part for part in PARTS if parts is None or part in parts]


def _read(declaration: DataSet, root: str, chosen: Sequence[Part]) -> dict[Part, Records | None]:
    """Return the records of the chosen parts; None for any part that there is not."""
    found: dict[Part, Records | None] = {part: declaration.read(root, part) for part in chosen}
    for part in PARTS:
        if part not in found:
            # Whether it exists decides what is held out from training for validation.
            with contextlib.suppress(DataError, io.UnreadableFile):
                if declaration.read(root, part) is None:
                    found[part] = None
    return found


def _check_counts(
    declaration: DataSet,
    chosen: Sequence[Part],
    found: Mapping[Part, Records | None],
    partial: bool,
    say: Callable[[str], None],
) -> None:
    counts: dict[Part, int] = {part: len(found[part] or ()) for part in chosen}
    differ = [
        f"{part} has {count} records, published are {declaration.counts[part]}"
        for part, count in counts.items()
        if count != declaration.counts.get(part, count)
    ]
    if differ and not partial:
        raise DataError(
            f"{declaration.name}: {'; '.join(differ)}. Complete the folder, or give --partial to"
            " prepare what is there"
        )
    if not any(counts.values()):
        raise DataError(f"{declaration.name}: there is nothing to prepare")
    for line in differ:
        say(f"partial: {line}")
    for part in chosen:
        rejected = getattr(found[part], "rejected", ())
        if rejected:
            say(f"{part}: {len(rejected)} lines of the list were left out, first {rejected[0]}")


def _already(
    folder: pathlib.Path, chosen: Sequence[Part], say: Callable[[str], None]
) -> pathlib.Path:
    """Say what is prepared; DataError if that lacks a part that was asked for."""
    missing = [part for part in chosen if part not in shards.describe(folder)["parts"]]
    if missing:
        raise DataError(
            f"{io.printable(folder)} is prepared without {', '.join(missing)}; delete it and"
            " prepare all parts together"
        )
    say("already prepared, nothing was changed; to prepare again, delete the folder")
    for line in summary(folder):
        say(line)
    return folder


def _check_space(home: pathlib.Path, data_set: str, size: int) -> None:
    free = shutil.disk_usage(home).free
    if free < 1.05 * size:
        raise DataError(
            f"{io.printable(home)} has {free / 1e9:.2f} GB free, the shards of {data_set} take"
            f" about {size / 1e9:.2f} GB"
        )


@contextlib.contextmanager
def _lock(home: pathlib.Path) -> Iterator[None]:
    """Hold the folder for one preparation; the operating system lets go when the process ends."""
    try:
        import fcntl
    except ImportError:
        raise DataError(
            f"{io.printable(home)} cannot be locked: this platform has no fcntl. Prepare on Linux,"
            " macOS or WSL; what is prepared is read here too"
        ) from None
    with open(home / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another preparation is writing into {io.printable(home)}") from None
        yield
