"""Checks over all samples: their number, what they agree on, and which of them are the same."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reldepth_jax.data.checks.each_sample import Summary
from reldepth_jax.data.checks.findings import Finding, error, warning
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.declaration import DataSet
from reldepth_jax.data.reading.records import Part
from reldepth_jax.metrics.ordinal import ErrorCounts

FEWEST = 8
"""Images from which on polarity is judged: fewer may all be exceptions."""
FEWEST_FOR_SKY = 20
"""Images among which one has sky, even if four of five have none."""
REVERSED = 0.4
"""Share of pairs whose lower point is nearer, below which near and far are exchanged. It is about
0.86 in web images (DIW, Chen et al., NIPS 2016, Section 3)."""


class Examined(NamedTuple):
    """A sample that can be used."""

    split: str
    """What it is used for."""
    place: str
    """The image."""
    summary: Summary


def counts(part: Part, found: int, published: int | None, root: str) -> list[Finding]:
    """Compare the number of samples of a part with the published one."""
    if not found:
        message = f"the {part} part has no usable sample; extract the archive again"
        return [error("counts", root, message)]
    if published is None or found >= published:
        return []
    message = (
        f"{found} of the {published} published {part} images are here, {published - found} are"
        " missing; extract or download the archive again, or pass --partial if that is meant"
    )
    return [warning("counts", root, message)]


def polarity(rule: str, examined: Sequence[Examined], root: str) -> list[Finding]:
    """Compare depth with the rule that the lower point is the nearer one.

    Reversed means: the whole 95 % interval over images of the share of pairs that agree with the
    rule lies below `REVERSED`, and there are at least `FEWEST` images. `rule` says what must hold
    of the files.
    """
    used = [sample.summary for sample in examined if sample.summary.compared]
    wrong = ErrorCounts(
        np.array([summary.contradicting for summary in used], np.float64),
        np.array([summary.compared for summary in used], np.int64),
    )
    # The interval takes long where there are many images.
    if len(used) < FEWEST or wrong.rate <= 1 - REVERSED or wrong.interval[0] <= 1 - REVERSED:
        return []
    low, high = (1 - bound for bound in wrong.interval[::-1])
    message = (
        f"near and far are exchanged: only in {1 - wrong.rate:.0%} of the pairs of points in"
        f" {len(used)} images (95 % interval {low:.0%} to {high:.0%}) is the lower one the nearer"
        f" one, where most are usual; {rule}; take the original files"
    )
    return [error("polarity", root, message)]


def sky(data_set: DataSet, examined: Sequence[Examined], root: str) -> list[Finding]:
    """Return a finding if maps that mark sky have none."""
    marked = [its for its in data_set.maps.values() if its.sky is not None]
    if not marked or len(examined) < FEWEST_FOR_SKY or any(s.summary.sky for s in examined):
        return []
    message = (
        f"{marked[0].sky}, which is sky, occurs in none of {len(examined)} {marked[0].title}s, as"
        " if they were converted or scaled; take the original files"
    )
    return [warning("sky", root, message)]


def raw(examined: Sequence[Examined], root: str) -> list[Finding]:
    """Return a finding if the sensor measured every pixel, or hardly any."""
    shares = [s.summary.unmeasured for s in examined if not math.isnan(s.summary.unmeasured)]
    if not shares or 0 < np.mean(shares) < 0.8:
        return []
    message = (
        f"{np.mean(shares):.0%} of the pixels of rawDepths are 0 (not measured), where about a"
        " fifth is usual; download the file again"
    )
    return [warning("raw", root, message)]


def ground_truth(examined: Sequence[Examined], root: str) -> list[Finding]:
    """Return a finding if there is nothing to learn from."""
    if not examined or any(sample.summary.truth for sample in examined):
        return []
    message = f"none of {len(examined)} images has ground truth; download the data set again"
    return [error("ground truth", root, message)]


def duplicates(examined: Iterable[Examined]) -> Iterator[Finding]:
    """Name the images that are the same file as an earlier one."""
    first: dict[bytes, Examined] = {}
    for sample in examined:
        other = first.setdefault(sample.summary.digest, sample)
        if other is sample:
            continue
        if other.split == sample.split:
            message = f"is the same image as {io.printable(other.place)}; remove one of them"
            yield warning("duplicate", sample.place, message)
        else:
            message = (
                f"is the same image as {io.printable(other.place)}: {sample.split} and"
                f" {other.split} overlap; remove one of them"
            )
            yield error("duplicate", sample.place, message)


def overlap(examined: Iterable[Examined], others: Mapping[bytes, str]) -> Iterator[Finding]:
    """Name the images that another data set has too, given by their digests."""
    for sample in examined:
        if sample.summary.digest in others:
            message = f"is the same image as {others[sample.summary.digest]}; remove one of them"
            yield error("duplicate", sample.place, message)
