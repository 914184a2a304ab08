"""The data doctor: what is wrong with a data set, before training finds out.

`Examination` yields `Finding`s; scripts/check_data.py prints them.
"""

from reldepth_jax.data.checks.examination import DATA_SETS, Examination
from reldepth_jax.data.checks.findings import Finding

__all__ = ["DATA_SETS", "Examination", "Finding"]
