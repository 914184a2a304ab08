"""The evaluation of a trained network on the data of its run, and the files it writes."""

import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from reldepth_jax.config import Choice, Config, to_dict
from reldepth_jax.data.images import pictures
from reldepth_jax.data.images.io import atomic_write
from reldepth_jax.data.pipeline import make_source
from reldepth_jax.evaluation import charts, heldout, heldout_report
from reldepth_jax.evaluation.heldout import Evaluation, Fit, Progress
from reldepth_jax.inference.predictor import Predictor
from reldepth_jax.run_dir import layout
from reldepth_jax.types import Split

Bars = Callable[[str], AbstractContextManager[Progress]]
"""Opens a progress bar with a title."""


@dataclasses.dataclass(frozen=True)
class RunEvaluation:
    """Evaluations of one network on one split of several sources."""

    settings: Config
    image_size: int
    """Size of the images that the network saw."""
    fit: Fit | None
    """None if the source has no validation images."""
    results: Mapping[str, tuple[Choice, Evaluation]]
    """By title; the first is `settings.data.source`, the others were mixed into training."""
    left_out: Sequence[tuple[Choice, str]]
    """Mixed sources without this split, with the reason."""
    remarks: Mapping[str, Sequence[str]]
    """What sources say of images that were not judged, by title: those of another split, with how
    to get all, and files that are left out."""

    @property
    def main(self) -> Evaluation:
        """The evaluation on `settings.data.source`."""
        return next(iter(self.results.values()))[1]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pictures as plain values."""
        return {
            "source": to_dict(self.settings)["data"]["source"],
            **self.main.to_json(),
            "sources": [
                {"name": title, "source": _plain(source), **result.to_json()}
                for title, (source, result) in self.results.items()
            ],
            "remarks": {title: list(lines) for title, lines in self.remarks.items()},
            "left_out": [
                {"source": _plain(source), "because": reason} for source, reason in self.left_out
            ],
        }

    def write(self, folder: pathlib.Path, name: str, facts: Mapping[str, Any]) -> pathlib.Path:
        """Write NAME.json, NAME.png and, after a fit, a reliability diagram; return the first.

        Args:
          facts: about the network and how it was run, for the JSON.
        """
        path = folder / f"{name}.json"
        write_json(path, {"run": facts, **self.to_json()})
        if self.main.pictures:
            sheet = heldout_report.contact_sheet({"prediction": self.main.pictures})
            pictures.save_picture(path.with_suffix(".png"), sheet)
        if self.main.calibration is not None:
            model = self.main.calibration["model"]
            titles = ("T = 1", f"T = {model.temperature:.4g}")
            bins = dict(zip(titles, model.bins, strict=True))
            draw = functools.partial(charts.reliability_diagram, bins=bins)
            charts.save(layout.reliability_diagram(folder, name), draw)
        return path

    def write_temperature(
        self, folder: pathlib.Path, own: Config, image_size: int, facts: Mapping[str, Any]
    ) -> pathlib.Path | None:
        """Write the temperature for `predict`, if it was fitted as that sees photographs.

        Returns the file, None if nothing was written.

        Args:
          own: the configuration of the run, on whose validation images it must have been fitted.
          image_size: at which the network sees photographs unless told otherwise.
          facts: about the network, with its step.
        """
        same = _validation(self.settings) == _validation(own) and self.image_size == image_size
        if self.fit is not None and same:
            fitted = {
                "temperature": self.fit.temperature.model,
                **facts,
                "source": _plain(_validation(own)),
                "image_size": self.image_size,
            }
            write_json(folder / layout.TEMPERATURE, fitted)
            return folder / layout.TEMPERATURE
        return None


def evaluate_run(
    predict: Predictor, settings: Config, own: Config, split: Split, *, keep: int, bars: Bars
) -> RunEvaluation:
    """Judge a network on `split` of `settings.data.source`, and of the sources mixed into it.

    Thresholds and temperatures are fitted on the validation images. The sources of `data.mix` are
    left out where `settings` name another source than the run's own.

    Args:
      own: the configuration of the run.
      keep: pictures of how many images to keep.
      bars: opens a progress bar for each pass over a source.
    """
    own_source = settings.data.source
    sources = {own_source.name: (own_source, make_source(settings, split))}
    left_out = []
    for mixed in settings.data.mix if own_source == own.data.source else ():
        data = dataclasses.replace(settings.data, source=mixed.source, validation=None, mix=())
        try:
            source = make_source(dataclasses.replace(settings, data=data), split)
        except ValueError as error:
            left_out.append((mixed.source, str(error)))
        else:
            sources[_title(mixed.source, list(sources))] = mixed.source, source
    try:
        validation = make_source(settings, "val")
    except ValueError as error:
        print(f"no validation images, WKDR is left out: {error}", file=sys.stderr)
        validation = None
    fit = None
    if validation is not None:
        with bars("fitting tau") as progress:
            fit = heldout.fit(predict, validation, settings.eval, progress=progress)
    results = {}
    for title, (choice, source) in sources.items():
        with bars(f"{split} images of {title}") as progress:
            result = heldout.evaluate(
                predict,
                source,
                settings.eval,
                fit=fit,
                progress=progress,
                keep=0 if results else keep,
            )
        results[title] = choice, result
    remarks = {title: _remarks(source) for title, (_, source) in sources.items()}
    return RunEvaluation(settings, predict.preprocessing.size, fit, results, left_out, remarks)


def write_json(path: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Write a report as JSON, whole or not at all; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1, allow_nan=False, ensure_ascii=False)
    with atomic_write(path) as file:
        file.write(f"{text}\n".encode())


def _remarks(source: Any) -> list[str]:
    excerpt, remarks = getattr(source, "excerpt", str)(), getattr(source, "remarks", list)()
    return [*([excerpt] if excerpt else []), *remarks]


def _title(source: Choice, taken: list[str]) -> str:
    """Return the name of a source, with a number where it occurs again."""
    again = sum(title.split(" ")[0] == source.name for title in taken)
    return f"{source.name} {again + 1}" if again else source.name


def _plain(source: Choice) -> dict[str, Any]:
    return {"name": source.name, **source.options}


def _validation(config: Config) -> Choice:
    return config.data.validation or config.data.source
