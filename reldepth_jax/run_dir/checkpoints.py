"""Saving in the background, restoring what verifies, keeping the newest and the best."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import pathlib
import re
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from reldepth_jax import failpoints
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.manifest import (
    CommitRecord,
    NewerSchemaError,
    describe,
    read_record,
    signatures,
    sync_folder,
    sync_tree,
    write_record,
)

T = TypeVar("T")
# Orbax runs event loops of its own. After a damaged file or a full disk has been reported, they may
# say the same again, at any later time and at great length.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# As `_path` writes them: nothing else counts.
_STEP = re.compile(r"[0-9]{8}|[1-9][0-9]{8,}")
_STORAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE,
)  # fmt: skip
_HEADROOM = 1.2
"""Times the size of the arrays must be free before a save begins."""
_TRASH = ".trash-"


class CheckpointError(UserError):
    """No checkpoint can be restored, in one line."""

    exit_code = 3


class StorageError(UserError):
    """A checkpoint could not be written, in one line."""

    exit_code = 6


@dataclasses.dataclass(frozen=True)
class Restored(Generic[T]):
    """A verified state."""

    record: CommitRecord
    state: T
    set_aside: list[str]
    """What newer checkpoints were passed over, and why."""


class Checkpoints:
    """The checkpoints of one run. One process writes; others may read."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        """Keep the newest `keep` checkpoints and the one with the lowest score."""
        # Orbax accepts a relative path, and fails later.
        self._folder = folder.absolute()
        self._keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the committed steps, oldest first; their content is not verified."""
        stems = (name.removesuffix(".json") for name in self._names() if name.endswith(".json"))
        return sorted(int(stem) for stem in stems if _STEP.fullmatch(stem))

    def records(self) -> dict[int, CommitRecord | str]:
        """Return the record of each committed step, oldest first, or why it cannot be read."""
        found: dict[int, CommitRecord | str] = {}
        for step in self.steps():
            try:
                found[step] = read_record(self._record(step))
            except ValueError as error:
                found[step] = str(error)
        return found

    def best(self) -> int | None:
        """Return the committed step with the lowest score, the newest of equals."""
        scores = {
            step: record.score
            for step, record in self.records().items()
            if isinstance(record, CommitRecord) and record.score is not None
        }
        return min(scores, key=lambda step: (scores[step], -step), default=None)

    def save(
        self,
        step: int,
        state: Any,
        facts: Mapping[str, Any],
        then: Callable[[int, float], None] = lambda step, seconds: None,
    ) -> None:
        """Copy the state and save it in the background; waits for an earlier save first.

        `then` is told the step and the seconds that it took, in the background, once it is durable.

        A step that is committed stays as it is. Raises StorageError if the earlier save failed,
        CheckpointError if its state was not finite.
        """
        self.wait()
        if step in self.steps():
            return
        failpoints.reach("save")
        # A copy: on CPU the arrays would share memory that the next step overwrites.
        host = jax.tree.map(np.array, jax.device_get(state))
        self._saving = self._thread.submit(self._write, step, host, dict(facts), then)

    def poll(self) -> None:
        """Raise what a finished save in the background raised."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being saved; StorageError if it failed."""
        if self._saving is not None:
            try:
                self._saving.result()
            finally:
                # Not before: who asks `busy` meanwhile must not end the process.
                self._saving = None

    @property
    def busy(self) -> bool:
        """Whether a save is under way; may be asked from any thread."""
        saving = self._saving
        return saving is not None and not saving.done()

    def close(self) -> None:
        """Wait for the last save."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def clean(self, announced: set[int]) -> list[str]:
        """Remove what earlier processes left unfinished; only the writer may call it.

        `announced` are steps that were reported as saved: without a record they are damaged, not
        unfinished, and are set aside. Returns what was done, in words.
        """
        done = []
        committed = {self._record(step).stem for step in self.steps()}
        for name in self._names():
            if name.startswith(_TRASH):
                doomed = name.removeprefix(_TRASH).removesuffix(".json")
                if _STEP.fullmatch(doomed) and doomed not in committed:
                    _remove(self._folder / doomed)
                _remove(self._folder / name)
        for name in self._names():
            path = self._folder / name
            unfinished = _STEP.fullmatch(name) and name not in committed and path.is_dir()
            if unfinished and int(name) in announced:
                aside = self._set_aside(int(name))
                done.append(f"checkpoint {name} has lost its record; set aside as {aside}")
            elif unfinished or ".orbax-checkpoint-tmp" in name:
                _remove(path)
                done.append(f"removed {name}, which was not saved completely")
            elif name.endswith(".json.tmp"):
                _remove(path)
        return done

    def restore(self, like: T, step: int | None = None, *, repair: bool = False) -> Restored[T]:
        """Return the newest state that verifies (or that of `step`), as `like` has its arrays.

        Args:
          like: structure, shapes, dtypes, and where the arrays shall be.
          repair: set the damaged checkpoints aside that are newer than the one restored, so that
            their steps can be saved again.

        Raises CheckpointError: nothing verifies (and nothing is set aside), the state has other
        arrays than `like`, or a later version saved it.
        """
        failed: dict[int, str] = {}
        while True:
            # Listed anew each time: meanwhile the writer may have saved and deleted.
            left = set(self.steps() if step is None else [step]) - failed.keys()
            if not left:
                break
            number = max(left)
            try:
                record, state = self._verified(number, like)
            except _DamagedError as error:
                failed[number] = str(error)
                continue
            # What is not there any more the writer has deleted while we read.
            damaged = {one: why for one, why in failed.items() if one in self.steps()}
            if repair:
                damaged = {
                    one: f"{why} (set aside as {self._set_aside(one)})"
                    for one, why in damaged.items()
                }
            return Restored(record, state, [f"step {one}: {why}" for one, why in damaged.items()])
        reasons = [f"step {number}: {reason}" for number, reason in failed.items()]
        bad = {name.removesuffix(".json") for name in self._names() if name.startswith("bad-")}
        aside = ", ".join(sorted(bad))
        reasons = reasons or [f"none is left; set aside: {aside}" if aside else "none is left"]
        raise CheckpointError(
            f"{self._folder}: no checkpoint can be restored: {'; '.join(reasons)}"
        )

    def _verified(self, step: int, like: T) -> tuple[CommitRecord, T]:
        try:
            record = read_record(self._record(step))
        except NewerSchemaError as error:
            raise CheckpointError(f"{self._folder}: step {step} cannot be read: {error}") from None
        except ValueError as error:
            raise _DamagedError(error) from None
        if record.step != step:
            raise _DamagedError(f"its record is that of step {record.step}")
        _require_same_arrays(record, like, step)
        failpoints.reach("restore")
        try:
            with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as orbax:
                state = orbax.restore(self._path(step), like)
        except Exception as error:  # Orbax raises plain Exception, KeyError and others
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _DamagedError(f"its arrays cannot be read ({reason[:200]})") from error
        found = describe(jax.device_get(state))
        wrong = [path for path, facts in record.arrays.items() if found[path] != facts]
        if wrong:
            raise _DamagedError(
                f"{len(wrong)} of {len(found)} arrays are not what was saved, first {wrong[0]}"
            )
        return record, state

    def _write(
        self, step: int, host: Any, facts: dict[str, Any], then: Callable[[int, float], None]
    ) -> None:
        started = time.monotonic()
        arrays = describe(host)
        for path, leaf in jax.tree_util.tree_flatten_with_path(host)[0]:
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path)
                raise CheckpointError(f"step {step} is not saved: {name} is not finite")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._require_space(host)
            path = self._path(step)
            if path.exists():
                _remove(path)
            failpoints.reach("save.arrays")
            alone = _alone()
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
            with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
                orbax.save(path, args=ocp.args.StandardSave(host))
            failpoints.reach("save.arrays_done")
            sync_tree(path)
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
            failpoints.reach("save.synced")
            facts["save_seconds"] = time.monotonic() - started
            write_record(self._record(step), CommitRecord(step, arrays, facts))
        except Exception as error:
            # What cleaning up meets on the same disk is no news.
            with contextlib.suppress(OSError):
                self._discard(step)
            reason = _storage_reason(error)
            if reason is None:
                raise
            kept = max(self.steps(), default=None)
            rest = "no earlier one is there" if kept is None else f"step {kept} is the newest saved"
            raise StorageError(
                f"{self._path(step)} cannot be saved: {reason}; {rest}. Free some space or choose"
                " another --workdir, and run the same command again"
            ) from error
        then(step, facts["save_seconds"])
        # What cannot be deleted is deleted another time; the save has succeeded.
        with contextlib.suppress(OSError):
            self._retain()

    def _require_space(self, host: Any) -> None:
        need = int(_HEADROOM * sum(leaf.nbytes for leaf in jax.tree.leaves(host)))
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(
                errno.ENOSPC, f"{need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
            )

    def _discard(self, step: int) -> None:
        """Remove what a failed save left: on a full disk there would be no room for the next."""
        if not self._record(step).exists():
            for path in (self._path(step), *self._folder.glob(f"{step:08d}.*")):
                _remove(path)

    def _retain(self) -> None:
        steps = self.steps()
        kept = {*steps[-self._keep :], self.best()}
        for step in steps:
            if step in kept:
                continue
            # The record first: what is being deleted must not count as saved. Until the end it
            # stays as a mark, for a folder that has lost its record is taken for damaged.
            mark, trash = (self._folder / f"{_TRASH}{step:08d}{end}" for end in (".json", ""))
            os.replace(self._record(step), mark)
            failpoints.reach("retain.record_gone")
            _remove(trash)
            os.replace(self._path(step), trash)
            failpoints.reach("retain.moved")
            _remove(trash)
            _remove(mark)
        failpoints.reach("retain.done")

    def _set_aside(self, step: int) -> str:
        """Rename a damaged checkpoint and its record; return the new name."""
        taken = set(self._names())
        name = next(
            name
            for number in itertools.count(1)
            if not {name := f"bad-{number}-{step:08d}", f"{name}.json"} & taken
        )
        # The record last: without one the folder would be taken for unfinished.
        for path, aside in ((self._path(step), name), (self._record(step), f"{name}.json")):
            if path.exists():
                os.replace(path, self._folder / aside)
        sync_folder(self._folder)
        return name

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _path(self, step: int) -> pathlib.Path:
        return self._folder / f"{step:08d}"

    def _record(self, step: int) -> pathlib.Path:
        return self._folder / f"{step:08d}.json"


class _DamagedError(Exception):
    """Why one checkpoint does not verify."""


def _alone() -> ocp.options.MultiprocessingOptions:
    """Tell Orbax not to wait for the other processes of a run: one saves and restores for all."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def _require_same_arrays(record: CommitRecord, like: Any, step: int) -> None:
    """Raise CheckpointError if the state that is wanted has other arrays: no damage, a mistake."""
    wanted = signatures(like)
    saved = {path: (shape, dtype) for path, (shape, dtype, _) in record.arrays.items()}
    differing = [
        f"{path}: saved {_show(saved.get(path))}, wanted {_show(wanted.get(path))}"
        for path in sorted(saved.keys() | wanted.keys())
        if saved.get(path) != wanted.get(path)
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise CheckpointError(
            f"checkpoint of step {step} is of another network or optimiser:"
            f" {'; '.join(differing[:3])}{more}"
        )


def _show(signature: tuple[tuple[int, ...], str] | None) -> str:
    if signature is None:
        return "nothing"
    shape, dtype = signature
    return f"{dtype}[{','.join(map(str, shape))}]"


def _storage_reason(error: BaseException | None) -> str | None:
    """Return what the system said, None for other errors; Orbax hides it in texts and causes."""
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        for number in _STORAGE:
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
