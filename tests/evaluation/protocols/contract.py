"""What every evaluation protocol keeps to, on its data set as `tests/fixtures` writes it."""

import importlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from reldepth_jax.evaluation.protocols.base import Protocol
from reldepth_jax.evaluation.protocols.report import Estimate, Report
from reldepth_jax.metrics.ordinal import RULE
from reldepth_jax.registry import PROTOCOLS, SOURCES


def write(name: str, root: pathlib.Path) -> None:
    """Write the data set of a protocol."""
    importlib.import_module(f"tests.fixtures.{PROTOCOLS.create(name).dataset}").write(root)


def upper_is_farther(image: np.ndarray) -> np.ndarray:
    """A network of sorts, right about most of the scenes; at half the size of the image."""
    small = image[::2, ::2, 0].astype(np.float32) / 255
    return np.linspace(2, 0, len(small), dtype=np.float32)[:, None] + 0.1 * small


def run(
    name: str, root: pathlib.Path, predict: Callable[..., Any] = upper_is_farther, images: int = 0
) -> Report:
    return PROTOCOLS.create(name)(predict, str(root), num_images=images, progress=lambda *_: None)


def main_value(report: Report) -> float:
    """Return the first measure of the main variant."""
    found = report.rows[0].values[report.measures[0]]
    assert isinstance(found, Estimate)
    return found.value


def the_declaration_is_complete(name: str, root: pathlib.Path) -> None:
    protocol: Protocol = PROTOCOLS.create(name)
    source = SOURCES.create(protocol.dataset, split="test", size=(0, 0), root=str(root))
    assert protocol.images == source.data_set.counts.get("test")
    assert protocol.title
    assert protocol.citation
    assert protocol.published
    assert len({row.name for row in protocol.published}) == len(protocol.published)
    for row in protocol.published:
        assert row.values
        assert set(row.values) <= set(protocol.measures)


def the_report_is_whole(name: str, root: pathlib.Path) -> None:
    protocol: Protocol = PROTOCOLS.create(name)
    seen = []
    report = protocol(
        upper_is_farther, str(root), num_images=0, progress=lambda *now: seen.append(now)
    )
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)]
    assert report.title.startswith(f"{protocol.title}: ")
    assert set(report.measures) <= set(protocol.measures)
    assert np.isfinite(main_value(report))
    assert report.rows[-1].name == RULE
    for row in report.rows:
        assert set(row.values) <= set(report.measures)
        for estimate in row.values.values():
            assert isinstance(estimate, Estimate)
            assert not estimate.low > estimate.value
            assert not estimate.high < estimate.value
    # The fixtures are smaller than what was published.
    incomparable = any("Not comparable with published numbers" in note for note in report.notes)
    assert incomparable == (protocol.images is not None)
    assert report.picture is not None
    plain = report.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert [row["name"] for row in plain["published"]] == [row.name for row in protocol.published]


def the_first_images_can_be_judged_alone(name: str, root: pathlib.Path) -> None:
    calls = []

    def predict(image: np.ndarray) -> np.ndarray:
        calls.append(image)
        return upper_is_farther(image)

    run(name, root, predict)
    everything = len(calls)
    calls.clear()
    run(name, root, predict, images=1)
    assert 0 < len(calls) < everything


def scores_grow_with_distance(name: str, root: pathlib.Path) -> None:
    """The location rule holds in the scenes, so its opposite is worse."""
    right = run(name, root)
    wrong = run(name, root, lambda image: -upper_is_farther(image))
    higher_is_better = "higher is better" in right.measures[0]
    if PROTOCOLS.extras(name).get("either_sign"):
        np.testing.assert_allclose(main_value(wrong), main_value(right), rtol=1e-5)
    else:
        assert (main_value(wrong) < main_value(right)) == higher_is_better
        assert main_value(wrong) != main_value(right)


def a_score_that_is_nan_is_no_success(name: str, root: pathlib.Path) -> None:
    report = run(name, root, lambda image: np.full_like(upper_is_farther(image), np.nan))
    worst = 0 if "higher is better" in report.measures[0] else 100
    assert main_value(report) == worst or np.isnan(main_value(report))
    json.dumps(report.to_json(), allow_nan=False)


CHECKS = (
    the_declaration_is_complete,
    the_report_is_whole,
    the_first_images_can_be_judged_alone,
    scores_grow_with_distance,
    a_score_that_is_nan_is_no_success,
)
