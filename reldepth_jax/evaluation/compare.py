"""Several trained recipes on the same held-out images: table, paired differences, one picture.

A group holds the evaluations of one recipe, one for each seed. Its error is the mean over them; the
interval is over images, the standard deviation over seeds.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reldepth_jax.config import Config
from reldepth_jax.data.images import pictures
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.heldout import MEASURES, RULE, Evaluation, format_percent
from reldepth_jax.metrics.ordinal import ErrorCounts, paired_bootstrap, plain

Groups = Mapping[str, Sequence[Evaluation]]

_COMPARED = ("whdr", "same_row")


class CompareError(UserError):
    """Runs that cannot be compared, in one line."""


def common_settings(configs: Mapping[str, Config]) -> Config:
    """Return the first configuration.

    Raises CompareError if another one is evaluated on other images or pairs.
    """
    (first, reference), *others = configs.items()
    for name, other in others:
        for path, one in _shared(reference).items():
            two = _shared(other)[path]
            if one != two:
                raise CompareError(
                    f"{first} and {name} are not evaluated on the same images and pairs: {path} is"
                    f" {one} in {first} and {two} in {name}"
                )
    return reference


def _shared(config: Config) -> dict[str, Any]:
    """Return what decides on the images and pairs, by path."""
    return {
        "data.source": config.data.source,
        "data.crop": config.data.crop,
        **{f"eval.{name}": value for name, value in dataclasses.asdict(config.eval).items()},
    }


def report(groups: Groups) -> dict[str, Any]:
    """Return errors of each group and of the rule, and differences to the first group, for JSON.

    A difference below zero means fewer errors than the first group.
    """
    first = next(iter(groups))
    images = groups[first][0].num_images
    counts = {
        name: {key: ErrorCounts.mean([result.model[key] for result in group]) for key in _COMPARED}
        for name, group in groups.items()
    }
    return {
        "images": images,
        "groups": {
            name: {
                key: counts[name][key].summary() | _spread([each.model[key].rate for each in group])
                for key in _COMPARED
            }
            for name, group in groups.items()
        },
        "rule": {key: groups[first][0].rule[key].summary() for key in _COMPARED},
        "difference_to": first,
        "differences": {
            name: {
                key: plain(paired_bootstrap(counts[name][key], counts[first][key])._asdict())
                for key in _COMPARED
            }
            for name in groups
            if name != first
        },
    }


def rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of a `report` as text, its header first; errors in percent."""
    first = facts["difference_to"]
    table = [["", "seeds"]]
    for key in _COMPARED:
        table[0] += [MEASURES[key], f"minus {first}"]
    for name, group in facts["groups"].items():
        row = [name, str(len(group["whdr"]["rates"]))]
        for key in _COMPARED:
            row += [_error(group[key]), _difference(facts["differences"].get(name, {}).get(key))]
        table.append(row)
    rule = [RULE, ""]
    for key in _COMPARED:
        rule += [_error(facts["rule"][key]), ""]
    return [*table, rule]


def statements(facts: Mapping[str, Any]) -> list[str]:
    """Return for each difference of a `report` in plain words who errs less, if that can be told.

    It cannot where the 95 % interval of the paired bootstrap over images holds zero, where there is
    none, or where groups have as many seeds and not all of them, in their order, agree on it.
    """
    first, lines = facts["difference_to"], []
    for name, differences in facts["differences"].items():
        for key, each in differences.items():
            if each["value"] is None:
                continue
            rates = [facts["groups"][group][key]["rates"] for group in (name, first)]
            seeds, agreeing = _seeds(rates, each["value"])
            low, high = each["low"], each["high"]
            if low is None or low <= 0 <= high or agreeing is False:
                claim = f"{name} and {first} are not told apart"
            else:
                better, worse = (name, first) if high < 0 else (first, name)
                claim = f"{better} errs less than {worse}"
            lines.append(
                f"{MEASURES[key]}: {claim}: difference {_difference(each)} points of {name} minus"
                f" {first}, {seeds}, {facts['images']} images"
            )
    return lines


def _seeds(rates: Sequence[Sequence[float]], difference: float) -> tuple[str, bool | None]:
    """Return how many seeds there are, in words, and whether each of them has the same sign."""
    counts = [*dict.fromkeys(map(len, rates))]
    if len(counts) > 1 or counts == [1]:
        text = " and ".join(map(str, counts))
        return f"{text} seed{'' if counts == [1] else 's'}", None
    same = sum((one - other) * difference > 0 for one, other in zip(*rates, strict=True))
    return f"{same} of {counts[0]} seeds agree", same == counts[0]


def markdown(table: Sequence[Sequence[str]], notes: str) -> str:
    """Return a Markdown table with notes below."""
    header, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([header, "| --- " * len(table[0]) + "|", *body, "", notes, ""])


def picture(groups: Groups) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return image, ground truth and the prediction of each group's first run, row by row."""
    kept = {name: group[0].pictures for name, group in groups.items()}
    by_row = list(zip(*kept.values(), strict=True))
    return pictures.grid(
        [
            [
                pictures.enlarge(row[0].image),
                pictures.enlarge(pictures.colorize(row[0].depth, row[0].mask)),
                *(pictures.enlarge(pictures.colorize(each.score)) for each in row),
            ]
            for row in by_row
        ],
        ["image", "ground truth", *kept],
        [
            f"#{row[0].index}  WHDR: "
            + ", ".join(
                f"{name} {format_percent(each.whdr)}" for name, each in zip(kept, row, strict=True)
            )
            + f" ({RULE} {format_percent(row[0].rule_whdr)})"
            for row in by_row
        ],
    )


def _spread(rates: list[float]) -> dict[str, Any]:
    deviation = statistics.stdev(rates) if len(rates) > 1 else math.nan
    return {"rates": rates, **plain({"standard_deviation": deviation})}


def _error(facts: Mapping[str, Any]) -> str:
    if facts["rate"] is None:
        return "–"
    deviation = facts.get("standard_deviation")
    text = f"{100 * facts['rate']:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")
    return text + _interval(facts)


def _difference(facts: Mapping[str, Any] | None) -> str:
    return f"{100 * facts['value']:+.1f}{_interval(facts)}" if facts else ""


def _interval(facts: Mapping[str, Any]) -> str:
    if facts["low"] is None:
        return ""
    return f" [{100 * facts['low']:.1f}, {100 * facts['high']:.1f}]"
