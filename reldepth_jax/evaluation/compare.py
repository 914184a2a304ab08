"""Several trained recipes on the same held-out images: table, paired differences, contact sheet.

A group holds the evaluations of one recipe, one for each seed. Its error is the mean over them; the
interval is over images, the standard deviation over seeds. Differences have the interval over both
(`metrics.recipes`).
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
from reldepth_jax.metrics import recipes
from reldepth_jax.metrics.ordinal import RULE, ErrorCounts, plain

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

    With thresholds fitted for all there is the three-way error too. A difference below zero means
    fewer errors than the first group. `decided` says whether it would be found again with other
    seeds and images, or, of groups with one seed, with other images.
    """
    first = next(iter(groups))
    images = groups[first][0].num_images
    fitted = all(each.fit for group in groups.values() for each in group)
    keys = (*STRICT, "wkdr") if fitted else STRICT
    counts = {
        name: {key: ErrorCounts.mean([result.model[key] for result in group]) for key in keys}
        for name, group in groups.items()
    }
    models = {key: [each.model[key] for each in groups[first]] for key in keys}
    return {
        "images": images,
        "groups": {
            name: {
                key: counts[name][key].summary() | _spread([each.model[key].rate for each in group])
                for key in keys
            }
            for name, group in groups.items()
        },
        "rule": {key: groups[first][0].rule[key].summary() for key in keys},
        "difference_to": first,
        "differences": {
            name: {key: _compared([each.model[key] for each in group], models[key]) for key in keys}
            for name, group in groups.items()
            if name != first
        },
    }


def rows(facts: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of a `report` as text, its header first; errors in percent."""
    first = facts["difference_to"]
    table, keys = [["", "seeds"]], list(facts["rule"])
    for key in keys:
        table[0] += [TITLES[key], f"minus {first}"]
    for name, group in facts["groups"].items():
        row = [name, str(len(group["whdr"]["rates"]))]
        for key in keys:
            row += [_error(group[key]), _difference(facts["differences"].get(name, {}).get(key))]
        table.append(row)
    rule = [RULE, ""]
    for key in keys:
        rule += [_error(facts["rule"][key]), ""]
    return [*table, rule]


def statements(facts: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each difference of a `report`: which group errs less.

    A recipe does if the difference is decided. Groups of one seed each say which network does, and
    nothing of the recipes; one seed against several says nothing.
    """
    first, lines = facts["difference_to"], []
    for name, differences in facts["differences"].items():
        for key, each in differences.items():
            if each["value"] is None:
                continue
            seeds = [len(facts["groups"][group][key]["rates"]) for group in (name, first)]
            better, worse = (name, first) if each["value"] < 0 else (first, name)
            if not each["decided"] or (1 in seeds and seeds != [1, 1]):
                claim = f"no clear difference between {name} and {first}"
            elif seeds == [1, 1]:
                claim = f"the network of {better} errs less than that of {worse}"
            else:
                claim = f"{better} errs less than {worse}"
            lines.append(
                f"{TITLES[key]}: {claim}: difference {_difference(each)} points of {name} minus"
                f" {first}, {_seeds(seeds, each['seeds_p'])}, {facts['images']} images"
            )
    return lines


def _compared(one: Sequence[ErrorCounts], other: Sequence[ErrorCounts]) -> dict[str, Any]:
    found = recipes.difference(one, other)
    return {**plain(found._asdict()), "decided": found.decided}


def _seeds(counts: list[int], p: float | None) -> str:
    """Return how many seeds there are and what they decide, in words."""
    if counts == [1, 1]:
        return "1 seed, which says nothing of the recipes"
    text = f"{' and '.join(map(str, dict.fromkeys(counts)))} seeds"
    if 1 in counts:
        return f"{text}, one of which shows no spread"
    return text if p is None else f"{text} (p = {p:.2g})"


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
