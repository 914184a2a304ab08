"""Training states on disk that cannot be half there: arrays by Orbax, a commit record by us.

`FOLDER/00000120/` holds the arrays of step 120. `FOLDER/00000120.json`, written last and synced, is
the commit record: only what has one counts as saved, and only what agrees with it is restored.
"""

from reldepth_jax.checkpoint.record import CommitRecord
from reldepth_jax.checkpoint.store import CheckpointError, Checkpoints, Restored, StorageError

__all__ = ["CheckpointError", "Checkpoints", "CommitRecord", "Restored", "StorageError"]
