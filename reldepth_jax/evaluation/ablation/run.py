"""Trains every run of a grid and judges it; finished runs are kept.

Runs are ordinary run directories, WORKDIR/runs/CONDITION/ARM/seed_K, so that they resume as any
training does. Each source is made once: all runs share what it keeps (rendered frames).
"""

import functools
import pathlib
from collections.abc import Callable

from rich.console import Console

from reldepth_jax.config import Choice, Config, DataConfig, EvalConfig
from reldepth_jax.data.pipeline import make_source, train_sources
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.ablation.grid import Grid
from reldepth_jax.evaluation.heldout import Evaluation, evaluate, fit
from reldepth_jax.inference.networks import from_run
from reldepth_jax.run_dir.history import History, metrics
from reldepth_jax.run_dir.saved_config import require_same
from reldepth_jax.training import run
from reldepth_jax.types import Sample, Source, Split

Progress = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, name of the next run)."""
Results = dict[str, dict[str, dict[str, list[Evaluation]]]]
"""Held-out source -> condition -> arm -> one evaluation a seed."""


def folder_of(workdir: pathlib.Path, condition: str, arm: str, seed: int) -> pathlib.Path:
    """Return the run directory of one run."""
    return workdir / "runs" / condition / arm / f"seed_{seed}"


def train(grid: Grid, workdir: pathlib.Path, progress: Progress) -> int:
    """Train what is not finished; return 0, or the exit code of a run that was stopped.

    The messages of a run go to a `.log` beside its directory. Raises what training raises; mistakes
    in any arm are found before the first run begins.
    """
    planned = list(grid.runs())
    training = functools.cache(lambda data: train_sources(Config(data=data)))
    validation = functools.cache(lambda data: make_source(Config(data=data), "val"))
    for condition, arm, seed, config in planned:
        folder = folder_of(workdir, condition, arm, seed)
        try:
            sources = training(config.data)
            require_same(folder, config, sources)
            run.require_trainable(config, folder, sources)
        except UserError as error:
            raise UserError(f"{condition}, {arm}: {error}") from None
    for done, (condition, arm, seed, config) in enumerate(planned):
        progress(done, len(planned), f"{condition}, {arm}, seed {seed}")
        folder = folder_of(workdir, condition, arm, seed)
        if finished(folder, config):
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
            code = run.train(
                config,
                folder,
                Console(file=log, width=120),
                training(config.data),
                validation(config.data),
            )
        if code:
            return code
    progress(len(planned), len(planned), "")
    return 0


def finished(folder: pathlib.Path, config: Config) -> bool:
    """Return whether a run directory holds this run with all its steps."""
    events = History(folder).events()
    ended = bool(events) and events[-1].get("event") == "finished"
    return ended and events[-1].get("step") == config.train.steps


def judge(grid: Grid, workdir: pathlib.Path, progress: Progress) -> Results:
    """Evaluate every run on the test split of every held-out source."""
    results: Results = {}
    planned = list(grid.runs())
    crop = planned[0][-1].data.crop

    def images(source: Choice, split: Split) -> _Kept:
        config = Config(data=DataConfig(source=source, crop=crop))
        return _Kept(make_source(config, split), grid.num_images)

    kept = {
        name: (
            images(held.source, "test"),
            images(held.source, "val") if held.three_way else None,
            EvalConfig(num_images=grid.num_images, sigma=held.sigma),
        )
        for name, held in grid.heldout.items()
    }
    for done, (condition, arm, seed, _) in enumerate(planned):
        progress(done, len(planned), f"{condition}, {arm}, seed {seed}")
        predict = from_run(folder_of(workdir, condition, arm, seed)).predictor()
        for name, (source, validation, settings) in kept.items():
            fitted = None if validation is None else fit(predict, validation, settings)
            result = evaluate(predict, source, settings, fit=fitted, keep=grid.pictures)
            group = results.setdefault(name, {}).setdefault(condition, {}).setdefault(arm, [])
            group.append(result)
    progress(len(planned), len(planned), "")
    return results


def curves(grid: Grid, workdir: pathlib.Path) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Return condition -> arm -> step -> validation WHDR of each seed."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for condition, arm, seed, _ in grid.runs():
        curve = found.setdefault(condition, {}).setdefault(arm, {})
        lines = metrics(folder_of(workdir, condition, arm, seed), "val")
        last = {line["step"]: line["whdr"] for line in lines if line.get("whdr") is not None}
        for step, value in last.items():
            curve.setdefault(step, []).append(value)
    return found


class _Kept:
    """The first samples of a source, read once."""

    def __init__(self, source: Source, count: int):
        self.pairs_per_image = source.pairs_per_image
        self._samples = [source[index] for index in range(min(count, len(source)))]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]
