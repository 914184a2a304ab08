"""What a protocol reports: our numbers beside the published ones.

Values are in the unit of their measure ("%" for shares, as papers print them). Lower is better
unless a measure's name says otherwise.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from reldepth_jax.metrics.ordinal import ErrorCounts

_COLUMNS = 5


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval over images; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def percent(cls, counts: ErrorCounts) -> "Estimate":
        """Return a pooled error rate in percent."""
        return cls(*(100 * value for value in (counts.rate, *counts.interval)))

    def show(self, measure: str) -> str:
        """Return the number and its interval as papers print the measure."""
        if math.isnan(self.value):
            return "–"
        digits = _digits(measure)
        if math.isnan(self.low):
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


@dataclasses.dataclass(frozen=True)
class Row:
    """One variant of a protocol, or one published method."""

    name: str
    values: Mapping[str, Estimate | float]
    """By measure; without those that were not published, or not measured."""
    note: str = ""


def _digits(measure: str) -> int:
    """Return how many decimals papers print: of percentages two, of ratios and metres three."""
    return 2 if "%" in measure else 3


def _cell(row: Row, measure: str) -> str:
    value = row.values.get(measure)
    if isinstance(value, Estimate):
        return value.show(measure)
    return "" if value is None else f"{value:.{_digits(measure)}f}"


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of one protocol on one data set."""

    title: str
    """Data set, split and how much of it."""
    measures: Sequence[str]
    """Columns, with their units."""
    rows: Sequence[Row]
    """Ours: the protocol's main variant first, then its deviations, then the location rule."""
    published: Sequence[Row]
    source: str
    """Where the published numbers are from."""
    notes: Sequence[str]
    """What a reader must know."""
    picture: UInt8[np.ndarray, "h w 3"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the picture as plain values; null where nothing was measured."""

        def plain(row: Row) -> dict[str, Any]:
            values = {
                measure: [None if math.isnan(x) else x for x in value]
                if isinstance(value, Estimate)
                else value
                for measure, value in row.values.items()
            }
            return {"name": row.name, "values": values, "note": row.note}

        return {
            "title": self.title,
            "measures": list(self.measures),
            "value": "[value, low, high]: 95 % percentile bootstrap over images",
            "ours": [plain(row) for row in self.rows],
            "published": [plain(row) for row in self.published],
            "source": self.source,
            "notes": list(self.notes),
        }

    def render(self) -> Group:
        """Return tables of at most `_COLUMNS` measures each, and the notes, for the terminal."""
        starts = range(0, len(self.measures), _COLUMNS)
        tables = [self._table(self.measures[start : start + _COLUMNS]) for start in starts]
        tables[0].title = self.title
        remarks = [f"{row.name}: {row.note}" for row in self.rows if row.note]
        remarks += [f"Published: {self.source}"] if self.published else []
        return Group(*tables, *(Text(remark) for remark in (*remarks, *self.notes)))

    def _table(self, measures: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, title_justify="left")
        table.add_column("", no_wrap=True)
        for measure in measures:
            table.add_column(measure, justify="right")
        for row in self.rows:
            # The interval on a line of its own keeps the table narrow.
            cells = [_cell(row, measure).replace(" [", "\n[") for measure in measures]
            table.add_row(Text(row.name), *map(Text, cells))
        table.add_section()
        for row in self.published:
            cells = [_cell(row, measure) for measure in measures]
            if any(cells):
                table.add_row(Text(row.name, "dim"), *(Text(cell, "dim") for cell in cells))
        return table
