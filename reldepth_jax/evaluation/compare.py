"""Several trained recipes on the same held-out images: table, paired differences, contact sheet.

A group holds the evaluations of one recipe, one for each seed. Its error is the mean over them; the
interval is over images, the standard deviation over seeds.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from reldepth_jax.config import Config
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation import heldout_report
from reldepth_jax.evaluation.heldout import STRICT, Evaluation
from reldepth_jax.evaluation.heldout_report import TITLES
from reldepth_jax.metrics.ordinal import RULE, ErrorCounts, paired_bootstrap, plain

Groups = Mapping[str, Sequence[Evaluation]]


class CompareError(UserError):
    """Runs that cannot be compared."""


def common_settings(configs: Mapping[str, Config]) -> Config:
    """Return the first configuration.

    Raises CompareError if another one is evaluated on other images or pairs.
    """

    def shared(config: Config) -> dict[str, Any]:
        """Return what decides on the images and pairs, by path."""
        settings = {f"eval.{name}": value for name, value in vars(config.eval).items()}
        return {"data.source": config.data.source, "data.crop": config.data.crop, **settings}

    (first, reference), *others = configs.items()
    for name, other in others:
        for path, one in shared(reference).items():
            two = shared(other)[path]
            if one != two:
                raise CompareError(
                    f"{first} and {name} are not evaluated on the same images and pairs: {path} is"
                    f" {one} in {first} and {two} in {name}"
                )
    return reference


def report(groups: Groups) -> dict[str, Any]:
    """Return errors of each group and of the rule, and differences to the first group, for JSON.

    A difference below zero means fewer errors than the first group.
    """
    first = next(iter(groups))
    images = groups[first][0].num_images
    counts = {
        name: {key: ErrorCounts.mean([result.model[key] for result in group]) for key in STRICT}
        for name, group in groups.items()
    }
    return {
        "images": images,
        "groups": {
            name: {
                key: counts[name][key].summary() | _spread([each.model[key].rate for each in group])
                for key in STRICT
            }
            for name, group in groups.items()
        },
        "rule": {key: groups[first][0].rule[key].summary() for key in STRICT},
        "difference_to": first,
        "differences": {
            name: {
                key: plain(paired_bootstrap(counts[name][key], counts[first][key])._asdict())
                for key in STRICT
            }
            for name in groups
            if name != first
        },
    }


def rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of a `report` as text, its header first; errors in percent."""
    first = facts["difference_to"]
    table = [["", "seeds"]]
    for key in STRICT:
        table[0] += [TITLES[key], f"minus {first}"]
    for name, group in facts["groups"].items():
        row = [name, str(len(group["whdr"]["rates"]))]
        for key in STRICT:
            row += [_error(group[key]), _difference(facts["differences"].get(name, {}).get(key))]
        table.append(row)
    rule = [RULE, ""]
    for key in STRICT:
        rule += [_error(facts["rule"][key]), ""]
    return [*table, rule]


def statements(facts: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each difference of a `report`: which group errs less.

    The difference is unclear where the 95 % interval of the paired bootstrap over images holds zero
    or does not exist, or where groups with equally many seeds do not agree on its sign, seed by
    seed.
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
                claim = f"no clear difference between {name} and {first}"
            else:
                better, worse = (name, first) if high < 0 else (first, name)
                claim = f"{better} errs less than {worse}"
            lines.append(
                f"{TITLES[key]}: {claim}: difference {_difference(each)} points of {name} minus"
                f" {first}, {seeds}, {facts['images']} images"
            )
    return lines


def _seeds(rates: Sequence[Sequence[float]], difference: float) -> tuple[str, bool | None]:
    """Return how many seeds there are, in words, and whether all have the sign of `difference`."""
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


def contact_sheet(groups: Groups) -> UInt8[np.ndarray, "_h _w 3"]:
    """Return image, ground truth and the prediction of each group's first run, row by row."""
    return heldout_report.contact_sheet({name: group[0].pictures for name, group in groups.items()})


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
