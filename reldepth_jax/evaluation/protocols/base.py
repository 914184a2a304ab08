"""What a protocol declares, and what all protocols share.

A new protocol is one new file in this folder: a function under `@PROTOCOLS.register("name")` that
returns a `Protocol`. Its keyword arguments are options, set with `--config.dataset.NAME=VALUE`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from reldepth_jax.data.images import pictures
from reldepth_jax.evaluation.judged_pairs import LabelledPairs
from reldepth_jax.evaluation.protocols.report import Report, Row
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import ErrorCounts
from reldepth_jax.metrics.processes import merge_over_processes, process_block
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Sample

Predict = Callable[[UInt8[np.ndarray, "h w 3"]], Float[np.ndarray, "_h _w"]]
"""A network on a whole image of any size: the score at the size that it computed, not brought to
the size of the image; larger is farther. Protocols resize as their authors did."""
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
Counts = Mapping[str, ErrorCounts]
"""By variant or measure."""
Picture = UInt8[np.ndarray, "h w 3"]

PICTURES = 6


class Judged(NamedTuple):
    """The outcome of one image."""

    state: Any
    """Counts or errors, to be merged."""
    score: Float[np.ndarray, "h w"]
    """For the contact sheet."""
    caption: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """One published way to judge a network on one data set."""

    title: str
    """Data set and split."""
    dataset: str
    """Name of its data source (`registry.SOURCES`), whose layout the folder has."""
    images: int | None
    """How many images the published numbers are of; None: not known exactly."""
    measures: Sequence[str]
    """Columns, with their units. Lower is better unless the name says otherwise."""
    published: Sequence[Row]
    citation: str
    """Where the published numbers are from."""
    judge: "Callable[[Request], Report]"
    shorter_side: bool = False
    """Whether a network made for a longer side of N pixels is published here with a shorter side of
    N, as MiDaS on the wide images of KITTI."""

    def adapted(self, own: Predictor) -> tuple[Predictor, str]:
        """Return a network as the protocol shows it images, and what is other than it was made for.

        The latter is empty where nothing is.
        """
        before = own.preprocessing
        if not self.shorter_side or before.fit not in ("long_side_floor", "long_side_ceil"):
            return own, ""
        preprocessing = dataclasses.replace(before, fit="lower_bound")
        return dataclasses.replace(own, preprocessing=preprocessing), (
            f"The network sees images whose shorter side is {before.size}, as for the published"
            f" numbers; it was made for a longer side of {before.size}"
            " (--config.dataset.shorter_side=false)."
        )

    def __call__(
        self, predict: Predict, data_dir: str, *, num_images: int, progress: Progress
    ) -> Report:
        """Judge on the first `num_images` (0: all) of the data set in `data_dir`.

        Raises DataError or UnreadableFile for a data set that cannot be used.
        """
        return self.judge(Request(self, predict, data_dir, num_images, progress))


@dataclasses.dataclass(frozen=True)
class Request:
    """One network on the data set of a protocol, or on its first images."""

    protocol: Protocol
    predict: Predict
    data_dir: str
    num_images: int
    """0: all."""
    progress: Progress

    def source(self, split: str = "test", **options: Any) -> Any:
        """Return a split of the data set, whose images keep their sizes."""
        dataset = self.protocol.dataset
        return SOURCES.create(dataset, split=split, size=(0, 0), root=self.data_dir, **options)

    def count(self, source: Any) -> int:
        """Return how many images of a source are used."""
        return min(self.num_images or len(source), len(source))

    def judge(
        self, source: Any, judge: Callable[[Sample], Judged]
    ) -> tuple[list[Any], Picture | None]:
        """Judge the images of this process; return their states and the first predictions."""
        indices = process_block(self.count(source))
        states, rows, captions = [], [], []
        for done, index in enumerate(indices, 1):
            sample = source[index]
            state, score, caption = judge(sample)
            states.append(state)
            if len(rows) < PICTURES:
                rows.append([pictures.thumbnail(each) for each in (sample["image"], score)])
                captions.append(f"#{index}  {caption}")
            self.progress(done, len(indices))
        sheet = pictures.contact_sheet(rows, ["image", "prediction"], captions) if rows else None
        return states, sheet

    def report(
        self, images: int, size: str, rows: Sequence[Row], notes: list[str], picture: Picture | None
    ) -> Report:
        """Return what was found.

        Args:
          images: how many were judged.
          size: how much was judged, in words.
          rows: the main variant first, then its deviations, then the location rule.
          notes: what a reader must know: the protocol in words, samples left out.
        """
        declared = self.protocol
        if declared.images not in (None, images):
            notes = [
                *notes,
                f"Not comparable with published numbers: those are of {declared.images} images.",
            ]
        return Report(
            title=f"{declared.title}: {size}",
            measures=[m for m in declared.measures if any(m in row.values for row in rows)],
            rows=rows,
            published=declared.published,
            source=declared.citation,
            notes=notes,
            picture=picture,
        )


def published(measure: str, values: Mapping[str, float]) -> list[Row]:
    """Return rows of published numbers of one measure, by method."""
    return [Row(method, {measure: value}) for method, value in values.items()]


def merge_counts(parts: Sequence[Counts], keys: Sequence[str]) -> dict[str, ErrorCounts]:
    """Append the images of this process, then those of the other processes, in order."""
    return {key: merge_over_processes(ErrorCounts, [part[key] for part in parts]) for key in keys}


def rule_error(sample: Sample, labelled: LabelledPairs) -> ErrorCounts:
    """Count the wrong pairs of the location rule; a tie costs half a pair."""
    rule = ordinal.location_rule(*sample["mask"].shape)
    difference = ordinal.difference(rule, labelled.pairs)
    return ordinal.strict_error(difference, labelled.relation, tie=0.5)
