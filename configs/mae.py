"""Mean absolute error on normalised depth: the debugging stage before ranking.

    reldepth train --config mae

Everything but the loss is that of configs/ranking.py, so that the two can be compared
(`reldepth compare`): same scenes in the same order, same network and start, same budget.

Cost: as configs/ranking.py.
Score: WHDR 15.5 % on held-out scenes (three seeds, ± 0.3); "lower is nearer" has 38.6 %.
"""

import dataclasses
import pathlib

from reldepth_jax.config import Choice, Config, load


def get_config() -> Config:
    """Return the configuration."""
    ranking = load(str(pathlib.Path(__file__).with_name("ranking.py")))
    return dataclasses.replace(ranking, loss=Choice("mae"))
