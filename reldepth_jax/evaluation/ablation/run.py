"""Training every run of a grid, and judging it; whatever is finished is not done again.

Runs are ordinary run directories, WORKDIR/runs/CONDITION/ARM/seed_K, so that they resume as any
training does. Sources are made once: what they keep (rendered frames) serves all runs.
"""

import functools
import pathlib
from collections.abc import Callable

from rich.console import Console

from reldepth_jax.config import Choice, Config, EvalConfig
from reldepth_jax.data.pipeline import make_source, train_sources
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.ablation.grid import Grid
from reldepth_jax.evaluation.heldout import Evaluation, evaluate
from reldepth_jax.inference.networks import from_run
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.history import History, json_lines
from reldepth_jax.run_dir.saved_config import require_same
from reldepth_jax.training import run
from reldepth_jax.types import Sample, Source

Progress = Callable[[int, int, str], None]
"""Called with (runs done, runs in all, which comes next)."""
Results = dict[str, dict[str, dict[str, list[Evaluation]]]]
"""Held-out source -> condition -> arm -> one evaluation a seed."""
CURVES = "val"


def folder_of(workdir: pathlib.Path, condition: str, arm: str, seed: int) -> pathlib.Path:
    """Return the run directory of one run."""
    return workdir / "runs" / condition / arm / f"seed_{seed}"


def train(grid: Grid, workdir: pathlib.Path, progress: Progress) -> int:
    """Train what is not finished; return 0, or the exit code of a run that was stopped.

    What a run says goes to a `.log` beside its directory. Raises what training raises, for
    mistakes in any arm before the first run begins.
    """
    planned = list(grid.runs())
    made = _Sources()
    for condition, arm, seed, config in planned:
        folder = folder_of(workdir, condition, arm, seed)
        try:
            sources = made.training(config)
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
                made.training(config),
                made.validation(config),
            )
        if code:
            return code
    progress(len(planned), len(planned), "")
    return 0


def finished(folder: pathlib.Path, config: Config) -> bool:
    """Return whether a run directory holds the end of this very run."""
    events = History(folder).events()
    ended = bool(events) and events[-1].get("event") == "finished"
    return ended and events[-1].get("step") == config.train.steps


def judge(grid: Grid, workdir: pathlib.Path, progress: Progress) -> Results:
    """Evaluate every run on the test split of every held-out source."""
    results: Results = {}
    kept = {
        name: (_Kept(_heldout(held.source, config), grid.num_images), held.sigma)
        for (*_, config) in list(grid.runs())[:1]
        for name, held in grid.heldout.items()
    }
    planned = list(grid.runs())
    for done, (condition, arm, seed, _) in enumerate(planned):
        progress(done, len(planned), f"{condition}, {arm}, seed {seed}")
        predict = from_run(folder_of(workdir, condition, arm, seed)).predictor()
        for name, (source, sigma) in kept.items():
            settings = EvalConfig(num_images=grid.num_images, sigma=sigma)
            result = evaluate(predict, source, settings, keep=grid.pictures)
            group = results.setdefault(name, {}).setdefault(condition, {}).setdefault(arm, [])
            group.append(result)
    progress(len(planned), len(planned), "")
    return results


def curves(grid: Grid, workdir: pathlib.Path) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Return condition -> arm -> step -> validation WHDR of each seed."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for condition, arm, seed, _ in grid.runs():
        curve = found.setdefault(condition, {}).setdefault(arm, {})
        lines = json_lines(folder_of(workdir, condition, arm, seed) / layout.METRICS)
        last = {line["step"]: line["whdr"] for line in lines if line["group"] == CURVES}
        for step, value in last.items():
            curve.setdefault(step, []).append(value)
    return found


class _Sources:
    """Sources by what they are made from, each made once."""

    def __init__(self):
        self._training = functools.cache(self._make_training)
        self._validation = functools.cache(lambda config: make_source(config, "val"))

    def training(self, config: Config) -> list[Source]:
        return self._training(Config(data=config.data))

    def validation(self, config: Config) -> Source:
        return self._validation(Config(data=config.data))

    @staticmethod
    def _make_training(config: Config) -> list[Source]:
        return train_sources(config)


class _Kept:
    """The first samples of a source, read once."""

    def __init__(self, source: Source, count: int):
        self.pairs_per_image = source.pairs_per_image
        self._samples = [source[index] for index in range(min(count, len(source)))]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def _heldout(source: Choice, config: Config) -> Source:
    data = Config().data
    settings = Config(data=type(data)(source=source, crop=config.data.crop))
    return make_source(settings, "test")
