"""What was measured, as a table and for JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from reldepth_jax.cli.timing import Seconds, Spread, ratios, shown, spread

OURS = "ours"


@dataclasses.dataclass(frozen=True)
class Row:
    """One thing done by one program; lower is better."""

    what: str
    who: str
    values: list[float]
    """A value for each round: seconds, or mebibytes."""
    unit: str = "s"
    cpu: list[float] = dataclasses.field(default_factory=list)
    """CPU seconds of each round, where they were taken."""
    note: str = ""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Further figures for JSON."""


def timed(what: str, who: str, seconds: Seconds, note: str = "", **facts: Any) -> Row:
    """Return the row of a timed call."""
    return Row(what, who, seconds.wall, "s", seconds.cpu, note, facts)


@dataclasses.dataclass(frozen=True)
class Part:
    """The rows of one part; of each `what` the first is compared with the others."""

    name: str
    title: str
    rows: list[Row]
    notes: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        whats = [row.what for row in self.rows]
        self.rows.sort(key=lambda row: whats.index(row.what))


def ratios_of(rows: Sequence[Row], row: Row) -> tuple[Spread | None, Spread | None]:
    """Return first of its group / this, by values and by CPU time; None for the first itself."""
    first = next(each for each in rows if each.what == row.what)
    if first is row:
        return None, None
    return ratios(first.values, row.values), ratios(first.cpu, row.cpu) if row.cpu else None


def markdown(part: Part) -> str:
    """Return the part as a heading, a Markdown table and its notes."""
    lines = [
        f"## {part.title}",
        "",
        "| what | who | median (range) | CPU time | first / this | in CPU time | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in part.rows:
        by_value, by_cpu = (_cell(r) if r else "" for r in ratios_of(part.rows, row))
        cpu = shown(row.cpu, row.unit) if row.cpu else ""
        cells = row.what, row.who, shown(row.values, row.unit), cpu, by_value, by_cpu, row.note
        lines.append(f"| {' | '.join(cell or '-' for cell in cells)} |")
    return "\n".join([*lines, *(f"\n{note}" for note in part.notes)])


def as_json(part: Part) -> dict[str, Any]:
    """Return the part for JSON: every value of every round."""
    rows = []
    for row in part.rows:
        by_value, by_cpu = ratios_of(part.rows, row)
        rows.append(
            {
                "what": row.what,
                "who": row.who,
                "unit": row.unit,
                **spread(row.values)._asdict(),
                "rounds": row.values,
                "cpu": spread(row.cpu)._asdict() | {"rounds": row.cpu} if row.cpu else None,
                "first_over_this": by_value and by_value._asdict(),
                "first_over_this_cpu": by_cpu and by_cpu._asdict(),
                "note": row.note,
                **row.facts,
            }
        )
    return {"title": part.title, "rows": rows, "notes": part.notes}


def _cell(found: Spread) -> str:
    return f"{found.median:.3g} ({found.low:.3g}–{found.high:.3g})"
