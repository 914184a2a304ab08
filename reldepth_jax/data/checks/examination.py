"""The examination of one data set, from finding its files to the contact sheet."""

import contextlib
import dataclasses
import hashlib
import math
import pathlib
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from reldepth_jax.data.checks import contact_sheet, each_sample, lists, whole_set
from reldepth_jax.data.checks.findings import Finding, error, warning
from reldepth_jax.data.checks.samples import Options, Samples, archives, by_source, in_folders
from reldepth_jax.data.checks.whole_set import Examined
from reldepth_jax.data.data_set import DataSetSource, declared
from reldepth_jax.data.images import io
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.declaration import Folders, Lists, OwnFormat
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import fixed_order, held_out
from reldepth_jax.errors import UserError
from reldepth_jax.registry import SOURCES, did_you_mean

_ROWS = 8
_BATCH = 64

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


def data_sets() -> list[str]:
    """Return the names of all sources whose data set can be examined: those read from a folder."""
    with_root = [name for name, entry in SOURCES.entries.items() if "root" in entry.options]
    return [
        name
        for name in with_root
        if isinstance(source := SOURCES.get(name), type) and issubclass(source, DataSetSource)
    ]


@dataclasses.dataclass
class Examination:
    """Examines the original folder of a data set.

    Raises DataError when made: no such data set, no such folder.
    """

    name: str
    root: str
    sample: int = 0
    """Samples of each part that are examined, a fixed choice; 0: all."""
    partial: bool = False
    """Whether fewer images than published, and missing parts, are meant to be so."""
    threads: int = 1
    against: Sequence[tuple[str, str]] = ()
    """Name and folder of data sets with which no image may be shared."""
    options: Options = dataclasses.field(default_factory=dict)
    """Of the source."""
    num_samples: int = 0
    """Samples examined so far."""
    valid: list[float] = dataclasses.field(default_factory=list)
    """Share of the pixels with ground truth, of each sample so far that has a depth map."""

    def __post_init__(self):
        for name, root in [(self.name, self.root), *self.against]:
            known = data_sets()
            if name not in known:
                raise DataError(
                    f"{name!r} is not a data set that can be checked."
                    f"{did_you_mean(name, known)} Known: {', '.join(known)}"
                )
            if not pathlib.Path(root).is_file():
                files.require_folder(root, name)
        self._marked: list[tuple[Samples, int, str]] = []
        self._clean: list[tuple[Samples, int, str]] = []

    def findings(self, progress: Progress | None = None) -> Iterator[Finding]:
        """Yield whatever is wrong, as it is found."""
        # What several parts share is found in each.
        known: set[Finding] = set()
        for finding in self._findings(progress):
            if finding not in known:
                known.add(finding)
                yield finding

    def _findings(self, progress: Progress | None) -> Iterator[Finding]:
        if pathlib.Path(self.root).is_file():
            yield error("archive", self.root, "is a file, not a folder; extract it first")
            return
        data_set = declared(self.name).data_set
        parts = []
        for samples, found in _parts(self.name, self.root, self.partial, self.options):
            yield from found
            if samples is not None:
                parts.append(samples)
                count = len(samples.records)
                published = None if self.partial else data_set.counts.get(samples.part)
                yield from whole_set.counts(samples.part, count, published, self.root)
        chosen = [
            (samples, int(index))
            for samples in parts
            for index in _chosen(len(samples.records), self.sample)
        ]
        splits = {samples.part: _splits(samples, parts) for samples in parts}
        examined = []
        with ThreadPoolExecutor(self.threads) as pool:
            # In batches: what waits to be yielded stays small, and Ctrl-C is heard.
            for start in range(0, len(chosen), _BATCH):
                batch = chosen[start : start + _BATCH]
                results = pool.map(lambda one: each_sample.examine(*one), batch)
                for (samples, index), (found, summary) in zip(batch, results, strict=True):
                    yield from found
                    self._keep(samples, index, found)
                    if summary is not None:
                        if not math.isnan(summary.valid):
                            self.valid.append(summary.valid)
                        split = splits[samples.part](index)
                        place = samples.records.places(index)["image"]
                        examined.append(Examined(split, place, summary))
                self.num_samples = start + len(batch)
                if progress:
                    progress(self.num_samples, len(chosen))
        yield from self._left_out(parts)
        yield from self._doubts(chosen)
        yield from whole_set.duplicates(examined)
        yield from whole_set.polarity(data_set.polarity, examined, self.root)
        yield from whole_set.sky(data_set, examined, self.root)
        yield from whole_set.raw(examined, self.root)
        yield from whole_set.ground_truth(examined, self.root)
        for name, root in self.against:
            yield from whole_set.overlap(examined, _digests(name, root, self.threads))

    def _doubts(self, examined: Sequence[tuple[Samples, int]]) -> Iterator[Finding]:
        """Yield values of a source that may be marks, those of a few samples together."""
        shares: dict[str, list[float]] = {}
        for samples, index in examined[:: max(1, len(examined) // 8)][:8]:
            with contextlib.suppress(UserError):
                doubtful = getattr(samples.source, "doubtful", None)
                maps = samples.source.record(index)["maps"] if doubtful else {}
                for value, share in doubtful(maps).items() if doubtful else ():
                    shares.setdefault(value, []).append(share)
        for value, found in shares.items():
            message = (
                f"{np.mean(found):.0%} of the pixels have the value {value}; if that is a mark, set"
                f" --config.data.source.invalid or infinity to {value}, else nothing to do"
            )
            yield warning("mark", self.root, message)

    def _left_out(self, parts: Sequence[Samples]) -> Iterator[Finding]:
        """Yield what the source itself says of files that it does not use."""
        for samples in parts[:1]:
            for line in getattr(samples.source, "remarks", list)():
                folder, _, what = line.partition(": ")
                message = f"{what}; nothing to do if that is meant"
                yield warning("left out", folder, message)

    def contact_sheet(self) -> Any:
        """Return samples with findings, then others, as a picture (h w 3, uint8); None for none."""
        return contact_sheet.draw((self._marked + self._clean)[:_ROWS], self.root)

    def _keep(self, samples: Samples, index: int, found: list[Finding]) -> None:
        kept = self._marked if found else self._clean
        if len(kept) < _ROWS:
            kept.append((samples, index, "; ".join(f"{f.check}: {f.message}" for f in found)))


def _parts(
    name: str, root: str, partial: bool, options: Options = types.MappingProxyType({})
) -> Iterator[tuple[Samples | None, list[Finding]]]:
    """Yield the samples of every part, and what is wrong with their files."""
    source = declared(name)
    parts, layout = source.data_set.parts, source.data_set.layout
    missing = []
    for number, part in enumerate(parts):
        match layout:
            case Folders() if not _is_listed(source, root, options):
                left_out = number and layout.part_folders and partial
                if not (left_out and not layout.base(pathlib.Path(root), part).is_dir()):
                    yield in_folders(source, layout, root, part, options)
            case Lists():
                samples, found = lists.in_lists(source, layout, root, part, options)
                if samples is None and not found:
                    missing.append(part)
                yield samples, found
            case Folders() | OwnFormat():
                yield by_source(source, root, part, options)
    # Validation images are held out where no list has them.
    lacking = [part for part in missing if not (part == "val" and hasattr(source, "validation"))]
    if len(missing) == len(parts):
        message = "there is no list of any part; give the folder that holds the extracted archives"
        yield None, [error("list", root, message), *archives(pathlib.Path(root))]
    elif lacking and not partial:
        message = "is not here; extract its archive, or pass --partial if that is meant"
        # There is no training without these two.
        yield (
            None,
            [
                (warning if part == "test" else error)("counts", root, f"the {part} list {message}")
                for part in lacking
            ],
        )


def _is_listed(source: type[DataSetSource], root: str, options: Options) -> bool:
    """Return whether a list says which files of the folders count."""
    by_name = source.list_file and (pathlib.Path(root) / source.list_file).is_file()
    return bool(options.get("list") or by_name)


def _chosen(count: int, sample: int) -> list[int]:
    order = fixed_order(count)[: sample or count]
    return sorted(order.tolist())


def _splits(samples: Samples, parts: list[Samples]) -> Callable[[int], str]:
    """Return the function that gives the split of a sample: it trains, validates or tests."""
    validation = getattr(samples.source, "validation", 0)
    has_val = any(other.part == "val" for other in parts)
    if samples.part != "train" or has_val or len(samples.records) <= validation:
        return lambda index: samples.part
    held = set(held_out(len(samples.records), validation).tolist())
    return lambda index: "val" if index in held else "train"


def _digests(name: str, root: str, threads: int) -> dict[bytes, str]:
    """Return where the images of a data set are, by SHA-256; unreadable ones are left out."""

    def digest(one: tuple[Samples, int]) -> tuple[bytes, str]:
        samples, index = one
        path = samples.records.places(index)["image"]
        try:
            if samples.records.own_images:
                data = io.read_bytes(path)
            else:
                data = samples.records[index]["image"]
        except UserError:
            data = b""
        return hashlib.sha256(data).digest(), f"{io.printable(path)} ({name} {samples.part})"

    found: dict[bytes, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        for samples, _ in _parts(name, root, True):
            if samples is not None:
                found |= pool.map(digest, [(samples, i) for i in range(len(samples.records))])
    found.pop(hashlib.sha256(b"").digest(), None)
    return found
