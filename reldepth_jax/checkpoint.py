"""Training states on disk, written by Orbax in the background.

A step is saved once its directory has its final name: Orbax writes under a temporary name and
renames at the end. `latest` is read from the disk each time.
"""

import pathlib
import shutil
from typing import TypeVar

import orbax.checkpoint as ocp

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one run: `folder/00000120` and so on, the newest `keep` of them."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        # Orbax accepts a relative path, and fails later, in the background.
        self._folder = folder.absolute()
        self._keep = keep
        self._orbax = ocp.StandardCheckpointer()

    def steps(self) -> list[int]:
        """Return the saved steps, oldest first."""
        return sorted(
            int(path.name)
            for path in self._folder.glob("[0-9]*")
            if path.name.isdigit() and (path / "_CHECKPOINT_METADATA").exists()
        )

    def latest(self) -> int | None:
        """Return the newest saved step."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: object) -> None:
        """Begin to save; waits for an earlier save first. A step that is saved stays as it is."""
        self.wait()
        if step not in self.steps():
            self._orbax.save(self._path(step), state, force=True)

    def wait(self) -> None:
        """Return when nothing is being saved; then delete what is superseded."""
        self._orbax.wait_until_finished()
        for step in self.steps()[: -self._keep]:
            shutil.rmtree(self._path(step))

    def restore(self, step: int, like: T) -> T:
        """Return the state of `step` with the structure, shapes, dtypes and devices of `like`."""
        return self._orbax.restore(self._path(step), like)

    def close(self) -> None:
        """Wait for the last save and release Orbax's threads."""
        self.wait()
        self._orbax.close()

    def _path(self, step: int) -> pathlib.Path:
        return self._folder / f"{step:08d}"
