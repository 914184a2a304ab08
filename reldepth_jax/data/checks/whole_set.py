"""Checks over all samples: their number, what they agree on, and which of them are the same."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reldepth_jax.data.checks.each_sample import Facts
from reldepth_jax.data.checks.findings import Finding, error, warning
from reldepth_jax.data.images import io
from reldepth_jax.data.reading.records import Part
from reldepth_jax.metrics.ordinal import ErrorCounts

FEWEST = 8
"""Images from which on polarity is judged: fewer may all be exceptions."""
FEWEST_FOR_SKY = 20
"""Images among which one has sky, even if four of five have none."""
REVERSED = 0.4
"""Share of pairs whose lower point is nearer, below which near and far are exchanged. It is about
0.86 in web images (DIW, Chen et al., NIPS 2016, Section 3)."""
_CAUSES = {
    "redweb": "RDs must be dark where it is near; these look like disparity maps or inverted ones",
    "hr_wsi": "gts must be bright where it is near; these look like depth maps or inverted ones",
    "diw": "'>' must mean that the first point is farther, and rows come before columns",
    "nyu_pairs": "'>' must mean that the first point is farther, and rows come before columns",
    "da2k": "closer_point must be the nearer one, and rows come before columns",
}


class Seen(NamedTuple):
    """A sample that can be used."""

    split: str
    """What it is used for."""
    place: str
    """The image."""
    facts: Facts


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


def polarity(name: str, seen: Sequence[Seen], root: str) -> list[Finding]:
    """Compare depth with the rule that the lower point is the nearer one.

    Reversed means: the whole 95 % interval over images of the share of pairs that agree with the
    rule lies below `REVERSED`, and there are at least `FEWEST` images.
    """
    used = [sample.facts for sample in seen if sample.facts.compared]
    wrong = ErrorCounts(
        np.array([facts.contradicting for facts in used], np.float64),
        np.array([facts.compared for facts in used], np.int64),
    )
    # The interval takes long where there are many images.
    if len(used) < FEWEST or wrong.rate <= 1 - REVERSED or wrong.interval[0] <= 1 - REVERSED:
        return []
    low, high = (1 - bound for bound in wrong.interval[::-1])
    cause = _CAUSES.get(name, "depth must grow with distance")
    message = (
        f"near and far are exchanged: only in {1 - wrong.rate:.0%} of the pairs of points in"
        f" {len(used)} images (95 % interval {low:.0%} to {high:.0%}) is the lower one the nearer"
        f" one, where most are usual; {cause}; take the original files"
    )
    return [error("polarity", root, message)]


def sky(name: str, seen: Sequence[Seen], root: str) -> list[Finding]:
    """Tell that no map of ReDWeb has sky."""
    if name != "redweb" or len(seen) < FEWEST_FOR_SKY or any(s.facts.sky for s in seen):
        return []
    message = (
        f"255, which is sky, occurs in none of {len(seen)} RD maps, as if they were converted or"
        " scaled; take the original files"
    )
    return [warning("sky", root, message)]


def raw(seen: Sequence[Seen], root: str) -> list[Finding]:
    """Tell that the Kinect measured every pixel, or hardly any."""
    shares = [s.facts.unmeasured for s in seen if not math.isnan(s.facts.unmeasured)]
    if not shares or 0 < np.mean(shares) < 0.8:
        return []
    message = (
        f"{np.mean(shares):.0%} of the pixels of rawDepths are 0 (not measured), where about a"
        " fifth is usual; download the file again"
    )
    return [warning("raw", root, message)]


def ground_truth(seen: Sequence[Seen], root: str) -> list[Finding]:
    """Tell that there is nothing to learn from."""
    if not seen or any(sample.facts.truth for sample in seen):
        return []
    message = f"none of {len(seen)} images has ground truth; download the data set again"
    return [error("ground truth", root, message)]


def duplicates(seen: Iterable[Seen]) -> Iterator[Finding]:
    """Name the images that are the same file as an earlier one."""
    first: dict[bytes, Seen] = {}
    for sample in seen:
        other = first.setdefault(sample.facts.digest, sample)
        if other is sample:
            continue
        if other.split == sample.split:
            message = f"is the same image as {io.printable(other.place)}; remove one of them"
            yield warning("duplicate", sample.place, message)
        else:
            message = (
                f"is the same image as {io.printable(other.place)}: {sample.split} and"
                f" {other.split} overlap;"
                " remove one of them"
            )
            yield error("duplicate", sample.place, message)


def overlap(seen: Iterable[Seen], others: Mapping[bytes, str]) -> Iterator[Finding]:
    """Name the images that another data set has too, given by their digests."""
    for sample in seen:
        if sample.facts.digest in others:
            message = f"is the same image as {others[sample.facts.digest]}; remove one of them"
            yield error("duplicate", sample.place, message)
