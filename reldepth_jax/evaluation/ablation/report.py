"""Tables, sentences and pictures of a finished grid."""

import functools
import json
import pathlib
from typing import Any

from reldepth_jax.config import to_dict
from reldepth_jax.data.images import pictures
from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.evaluation import charts, compare
from reldepth_jax.evaluation.ablation.grid import Grid
from reldepth_jax.evaluation.ablation.run import Results


def write(
    grid: Grid,
    results: Results,
    learning: dict[str, dict[str, dict[int, list[float]]]],
    workdir: pathlib.Path,
    seconds: float,
) -> str:
    """Write results.json, results.md, evaluations.json and the pictures; return the Markdown.

    evaluations.json holds the errors of every run on every image, for other comparisons.

    Each condition is compared with its first arm, on each held-out source, beside the rule "lower
    in the image is nearer".
    """
    facts: dict[str, Any] = {
        "seconds": round(seconds),
        "seeds": list(grid.seeds),
        "configurations": {
            condition: {arm: to_dict(config) for arm, config in arms.items()}
            for condition, arms in grid.arms.items()
        },
        "validation_whdr": learning,
        "results": {},
    }
    parts = []
    for source, conditions in results.items():
        for condition, groups in conditions.items():
            report = compare.report(groups)
            facts["results"].setdefault(source, {})[condition] = report
            claims = compare.statements(report)
            parts.append(f"## {condition}, judged on {source}\n")
            notes = "\n".join(f"- {claim}" for claim in claims)
            parts.append(compare.markdown(compare.rows(report), notes))
            if any(group[0].pictures for group in groups.values()):
                name = f"comparison_{source}_{condition}.png"
                pictures.save_picture(workdir / name, compare.contact_sheet(groups))
    steps = next(iter(grid.runs()))[-1].train.steps
    header = (
        f"# Ablation\n\n{steps} steps a run, {len(grid.seeds)} seeds, up to {grid.num_images}"
        " held-out images of each source. Errors in percent: mean over the seeds ± standard"
        " deviation over them [95 % bootstrap interval over images]; differences [95 % interval"
        " over seeds and images].\n"
    )
    text = "\n".join([header, *parts])
    _write(workdir / "results.json", json.dumps(facts, indent=1, allow_nan=False) + "\n")
    evaluations = {
        source: {
            condition: {arm: [each.to_json() for each in group] for arm, group in groups.items()}
            for condition, groups in conditions.items()
        }
        for source, conditions in results.items()
    }
    _write(workdir / "evaluations.json", json.dumps(evaluations, allow_nan=False) + "\n")
    _write(workdir / "results.md", text)
    for condition, arms in learning.items():
        draw = functools.partial(
            charts.learning_curves, curves=arms, title=f"{condition}: WHDR on validation images"
        )
        charts.save(workdir / f"curves_{condition}.png", draw)
    return text


def _write(path: pathlib.Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))
