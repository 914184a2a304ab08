"""The data doctor: what is wrong with a data set, before training finds out.

`Examination` yields `Finding`s; `reldepth check-data` prints them.
"""

from reldepth_jax.data.checks.examination import Examination, data_sets
from reldepth_jax.data.checks.findings import Finding

__all__ = ["Examination", "Finding", "data_sets"]
