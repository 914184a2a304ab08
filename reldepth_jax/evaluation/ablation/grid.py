"""The runs of an ablation and the data they are judged on. Imports no JAX."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from reldepth_jax.config import Choice, Config, ConfigError, validate
from reldepth_jax.config.loading import run_file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heldout:
    """A source whose test split every run is judged on, with clean labels."""

    source: Choice
    sigma: float = 0.02
    """Depths whose ratio is within 1 + sigma are equal."""
    three_way: bool = False
    """Whether to report WKDR too, with the threshold of each run from the validation split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Runs of equal length and, for equal seeds, equal initialisation."""

    arms: Mapping[str, Mapping[str, Config]]
    """Condition -> arm -> configuration. Arms are compared within a condition, with its first."""
    seeds: tuple[int, ...] = (0, 1, 2)
    heldout: Mapping[str, Heldout]
    num_images: int = 100
    """Held-out images of each source."""
    pictures: int = 4
    """How many of them are shown."""

    def runs(self) -> Iterator[tuple[str, str, int, Config]]:
        """Yield condition, arm, seed and configuration of each run, all arms of a seed together."""
        for seed in self.seeds:
            for condition, arms in self.arms.items():
                for arm, config in arms.items():
                    train = dataclasses.replace(config.train, seed=seed)
                    yield condition, arm, seed, dataclasses.replace(config, train=train)


def load(path: str) -> Grid:
    """Return what `get_grid(variant)` of the file `path[:variant]` returns.

    Raises ConfigError if something is wrong with the file or with an arm.
    """
    grid = run_file(path, "get_grid")
    if not isinstance(grid, Grid):
        raise ConfigError(f"{path}: expected an ablation Grid, got {type(grid).__name__}")
    for condition, arm, _, config in grid.runs():
        for name in (condition, arm):
            if not re.fullmatch(r"\w+", name):
                raise ConfigError(f"{path}: {name!r} must be letters, digits and _: it names files")
        try:
            validate(config)
        except ConfigError as error:
            raise ConfigError(f"{path}: {condition}, {arm}: {error}") from None
    lengths = {config.train.steps for *_, config in grid.runs()}
    if len(lengths) != 1:
        raise ConfigError(f"{path}: all runs must have as many steps, got {sorted(lengths)}")
    return grid
