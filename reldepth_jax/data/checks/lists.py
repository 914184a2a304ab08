"""Data sets whose pairs stand in lists: every defective line, and how coordinates are meant."""

import pathlib

import numpy as np

from reldepth_jax.data.checks.findings import Finding, error, from_reader, warning
from reldepth_jax.data.checks.samples import Options, Samples, archives
from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.reading import files
from reldepth_jax.data.reading.declaration import Lists
from reldepth_jax.data.reading.pair_lists import ListedRecords, PairList
from reldepth_jax.data.reading.records import Part
from reldepth_jax.errors import UserError

_BALANCE = 0.1
"""How far the share of `>` may be from one half (DIW: the order of the points is random)."""


def in_lists(
    source: type[DataSetSource], layout: Lists, root: str, part: Part, options: Options
) -> tuple[Samples | None, list[Finding]]:
    """Return the samples of one part, None without its list, and what is wrong with the list."""
    folder = files.require_folder(root, source.data_set.name)
    listing, base = layout.find(folder, part)
    if listing is None:
        return None, []
    try:
        found = layout.read_list(listing, part)
    except UserError as complaint:
        return None, [from_reader("list", listing, complaint, "correct it, or download it again")]
    findings = [
        warning("line", f"{listing}:{line}", f"{reason}; the line is left out, correct it")
        for line, reason in found.rejected
    ]
    records, refused = _records(found, folder, base)
    findings += refused
    if records is None:
        return None, findings + archives(folder)
    findings += readings(found, records)
    if layout.random_order:
        findings += balance(listing, records)
    return Samples.of(source, part, root, options, records), findings


def _records(
    found: PairList, folder: pathlib.Path, base: pathlib.Path
) -> tuple[ListedRecords | None, list[Finding]]:
    remedy = "correct it, or download it again"
    try:
        return found.records(folder, base), []
    except UserError as complaint:
        refused = from_reader("list", found.listing, complaint, remedy)
    # Refused for its defective lines, perhaps; then the other lines can be looked at all the same.
    rejected, found.rejected = found.rejected, []
    try:
        return found.records(folder, base), [refused]
    except UserError:
        return None, [refused]
    finally:
        found.rejected = rejected


def readings(found: PairList, records: ListedRecords) -> list[Finding]:
    """Return whether the list as a whole fits another reading of its coordinates better.

    It does if that makes at least two lines valid, and ten times as many as it makes invalid.
    """
    assert records.sizes is not None
    counts = np.diff(records.stops, prepend=0)
    heights, widths = np.repeat(records.sizes, counts, axis=0).T
    rows, columns = records.pairs[:, 0:4:2].max(axis=1), records.pairs[:, 1:4:2].max(axis=1)
    good = len(records.pairs)
    # `records` counts from 0.
    swapped = int(np.count_nonzero((rows < widths) & (columns < heights)))
    from_zero = int(np.count_nonzero((rows < heights - 1) & (columns < widths - 1)))
    others = {
        "with rows and columns exchanged": (found.if_swapped, swapped, "y comes before x"),
        "counted from 0": (found.if_from_zero, from_zero, "coordinates start at 1"),
    }
    for how, (gained, kept, rule) in others.items():
        if gained >= 2 and gained > 10 * (good - kept):
            bad = len(found.rejected)
            message = (
                f"{good} of {good + bad} pairs are valid as written, {kept + gained} {how};"
                f" {rule}: take the original list, or convert this one"
            )
            return [error("coordinates", found.listing, message)]
    return []


def balance(listing: str, records: ListedRecords) -> list[Finding]:
    """Return whether one relation is far more frequent than the other."""
    count, share = len(records.pairs), float(np.mean(records.pairs[:, 4] > 0))
    if abs(share - 0.5) <= max(_BALANCE, 2 / count**0.5):
        return []
    message = (
        f"'>' is the relation of {share:.0%} of {count} pairs, where about half is usual: always"
        " giving the same answer would be right; take the original list"
    )
    return [warning("balance", listing, message)]
