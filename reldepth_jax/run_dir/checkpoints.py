"""Saving in the background, restoring what verifies, keeping the newest and the best steps."""

import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from reldepth_jax import failpoints
from reldepth_jax.errors import UserError, out_of_memory
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.manifest import (
    UNREADABLE,
    Manifest,
    NewerSchemaError,
    describe,
    read_manifest,
    signatures,
    sync,
    sync_tree,
    write_manifest,
)
from reldepth_jax.run_dir.orbax_loops import quiet

T = TypeVar("T")

_STORAGE = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM,
    errno.ESTALE,
)  # fmt: skip
_HEADROOM = 1.2
"""Times the size of the arrays must be free before a save begins."""
_TRASH = ".trash-"
ASIDE = "bad-"
"""Begins the names of damaged checkpoints that were set aside."""
_UNFINISHED = ".orbax-checkpoint-tmp"
"""Follows the step in the names of what Orbax has begun to write."""
_OF_ORBAX = ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt")
"""Files of which Orbax leaves at least one in each checkpoint."""
Kind = Literal["unfinished", "lost", "set aside", "not ours"]
"""What lies between the checkpoints: `lost` are arrays without their manifest."""


class CheckpointError(UserError):
    """No checkpoint can be restored."""

    exit_code = 3


class StorageError(UserError):
    """A checkpoint could not be written."""

    exit_code = 6


@dataclasses.dataclass(frozen=True)
class Restored(Generic[T]):
    """A verified state."""

    manifest: Manifest
    state: T
    damaged: list[str]
    """Newer checkpoints that were not restored, and why."""


class Checkpoints:
    """The checkpoints of one run. One process writes; others may read."""

    def __init__(self, folder: pathlib.Path, *, keep: int = 2):
        """Keep the newest `keep` checkpoints and the one with the lowest validation WHDR."""
        # Orbax accepts a relative path, and fails later.
        self._folder = folder.absolute()
        self._keep = keep
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future[None] | None = None

    def steps(self) -> list[int]:
        """Return the saved steps, oldest first; their content is not verified."""
        return layout.saved_steps(self._folder)

    def manifests(self) -> dict[int, Manifest | str]:
        """Return the manifest of each saved step, oldest first, or why it cannot be read."""
        found: dict[int, Manifest | str] = {}
        for step in self.steps():
            try:
                found[step] = read_manifest(self._manifest(step), step)
            except (ValueError, OSError) as error:
                found[step] = str(error)
        return found

    def best(self) -> int | None:
        """Return the saved step with the lowest validation WHDR, the newest of equals."""
        whdr = {
            step: manifest.validation_whdr
            for step, manifest in self.manifests().items()
            if isinstance(manifest, Manifest) and manifest.validation_whdr is not None
        }
        return min(whdr, key=lambda step: (whdr[step], -step), default=None)

    def damage(self, step: int) -> str | None:
        """Read every array of a step; return why it cannot be restored, None if it can."""
        try:
            self._verified(step, None)
        except (_DamagedError, CheckpointError) as error:
            return str(error)
        return None

    def save(
        self,
        step: int,
        state: Any,
        facts: Mapping[str, Any],
        then: Callable[[int, float], None] = lambda step, seconds: None,
    ) -> None:
        """Copy the state and save it in the background; waits for an earlier save first.

        A step that is saved stays as it is. `facts` are those of the manifest. `then` is called in
        the background with the step and the seconds it took, once it is durable.

        Raises StorageError if the earlier save failed, CheckpointError if its state was not finite.
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

    def require_writable(self) -> None:
        """Make the folder; raises StorageError now if no checkpoint could be written there."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be written to: {error.strerror}") from None

    def others(self) -> dict[str, Kind]:
        """Return what lies between the checkpoints and is none, by name.

        A save begins with a mark beside the arrays, which becomes the manifest. So arrays with a
        mark are unfinished, and arrays without one have lost their manifest: they are never taken
        for rubbish. What Orbax has not written is not ours, whatever it is called.
        """
        names = self._names()
        saved = {layout.arrays(self._folder, step).name for step in self.steps()}
        found: dict[str, Kind] = {}
        for name in names:
            kind = self._kind(name, names, saved)
            if kind is not None:
                found[name] = kind
        return found

    def _kind(self, name: str, names: Sequence[str], saved: set[str]) -> Kind | None:
        if name.startswith(ASIDE):
            step = name.removeprefix(ASIDE).partition("-")[2].removesuffix(".json")
            return "set aside" if layout.is_step(step) else "not ours"
        step = name.removeprefix(_TRASH).removesuffix(layout.MARK).removesuffix(".json")
        step = step.partition(_UNFINISHED)[0]
        if not layout.is_step(step):
            return "not ours"
        if name not in (step, f"{step}.json"):
            return "unfinished"
        if step in saved:
            return None
        if any(mark in names for mark in (step + layout.MARK, f"{_TRASH}{step}.json")):
            return "unfinished"
        if any((self._folder / step / each).exists() for each in _OF_ORBAX):
            return "lost"
        return "not ours"

    def clean(self) -> list[str]:
        """Remove what earlier processes left unfinished; only the writer may call it.

        Arrays that have lost their manifest are set aside. Returns what was done, in words.
        """
        done = []
        # The marks last: without one, what is left of the arrays would be somebody else's.
        others = self.others()
        for name in sorted(others, key=lambda name: (_is_mark(name), name)):
            path, kind = self._folder / name, others[name]
            if kind == "unfinished":
                _remove(path)
                deleted = name.startswith(_TRASH) or f"{_TRASH}{name}.json" in others
                if not (deleted or _is_mark(name)):
                    done.append(f"removed {name}, which was not saved completely")
            elif kind == "lost":
                aside = self._set_aside(int(name))
                done.append(f"checkpoint {name} has lost its manifest; set aside as {aside}")
            elif kind == "not ours" and layout.is_step(name):
                done.append(f"{path} is no checkpoint of this run and stays as it is")
        return done

    def set_aside(self) -> list[str]:
        """Return the names of the arrays that were set aside."""
        return [
            name
            for name, kind in self.others().items()
            if kind == "set aside" and not name.endswith(".json")
        ]

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
        # Listed each time: the writer may have saved and deleted while we read.
        while left := set(self.steps() if step is None else [step]) - failed.keys():
            number = max(left)
            try:
                manifest, state = self._verified(number, like)
            except _DamagedError as error:
                failed[number] = str(error)
                continue
            # The writer has deleted what is no longer there.
            damaged = {one: why for one, why in failed.items() if one in self.steps()}
            if repair:
                damaged = {
                    one: f"{why} (set aside as {self._set_aside(one)})"
                    for one, why in damaged.items()
                }
            return Restored(manifest, state, [f"step {one}: {why}" for one, why in damaged.items()])
        reasons = [f"step {number}: {reason}" for number, reason in failed.items()]
        bad = self.set_aside()
        aside = f"; set aside: {', '.join(bad)}" if bad else ""
        raise CheckpointError(
            f"{self._folder}: no checkpoint can be restored:"
            f" {'; '.join(reasons) or f'none is left{aside}'}."
            " Choose another --workdir to begin anew"
        )

    def _verified(self, step: int, like: Any) -> tuple[Manifest, Any]:
        """Return manifest and state of a step; without `like` the state has dicts for tuples."""
        try:
            manifest = read_manifest(self._manifest(step), step)
        except NewerSchemaError as error:
            raise CheckpointError(f"{self._folder}: step {step} cannot be read: {error}") from None
        except ValueError as error:
            raise _DamagedError(error) from None
        except OSError as error:
            raise self._unreadable(step, error.strerror or str(error)) from None
        if like is not None:
            _require_same_arrays(manifest, like, step)
        failpoints.reach("restore")
        try:
            with quiet(), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as orbax:
                state = orbax.restore(self._arrays(step), _present(like))
        except Exception as error:  # Orbax raises plain Exception, KeyError and others
            refused = _unreadable_reason(error)
            if refused is not None:
                raise self._unreadable(step, refused) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _DamagedError(f"its arrays cannot be read ({reason[:200]})") from error
        found = {_words(path): each for path, each in describe(jax.device_get(state)).items()}
        wrong = [path for path, each in manifest.arrays.items() if found.get(_words(path)) != each]
        if wrong:
            raise _DamagedError(
                f"{len(wrong)} of {len(found)} arrays are not what was saved, first {wrong[0]}"
            )
        return manifest, _as(like, state)

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: step {step} cannot be read: {reason}. It need not be damaged and"
            " stays as it is; run the same command again when this is mended"
        )

    def _write(
        self, step: int, host: Any, facts: dict[str, Any], then: Callable[[int, float], None]
    ) -> None:
        started = time.monotonic()
        arrays = describe(host)
        for path, leaf in jax.tree_util.tree_flatten_with_path(host)[0]:
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
                name = jax.tree_util.keystr(path)
                raise CheckpointError(f"step {step} is not saved: {name} is not finite")
        path = self._arrays(step)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._require_space(host)
            mark = layout.mark(self._folder, step)
            if mark.exists():
                _remove(path)
            elif os.path.lexists(path):
                self._set_aside(step)
            mark.touch()
            sync(self._folder)
            failpoints.reach("save.arrays")
            alone = _alone()
            handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
            with quiet(), ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
                orbax.save(path, args=ocp.args.StandardSave(_present(host)))
            failpoints.reach("save.arrays_done")
            sync_tree(path)
            sync(self._folder)
            sync(self._folder.parent)
            failpoints.reach("save.synced")
            facts["save_seconds"] = time.monotonic() - started
            write_manifest(self._manifest(step), Manifest(step, arrays, facts))
        except Exception as error:
            # Cleaning up may meet the same error again.
            with contextlib.suppress(OSError):
                self._discard(step)
            reason = _storage_reason(error)
            if reason is None:
                raise
            kept = max(self.steps(), default=None)
            rest = "no earlier one is there" if kept is None else f"step {kept} is the newest saved"
            raise StorageError(
                f"{path} cannot be saved: {reason}; {rest}. Free some space or choose"
                " another --workdir, and run the same command again"
            ) from error
        then(step, facts["save_seconds"])
        # The save has succeeded; what cannot be deleted now is deleted later.
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
        if not self._manifest(step).exists():
            path, mark = self._arrays(step), layout.mark(self._folder, step)
            if mark.exists():
                for each in (path, *self._folder.glob(f"{path.name}{_UNFINISHED}*"), mark):
                    _remove(each)

    def _retain(self) -> None:
        steps = self.steps()
        kept = {*steps[-self._keep :], self.best()}
        for step in steps:
            if step in kept:
                continue
            manifest, arrays = self._manifest(step), self._arrays(step)
            # The manifest first: what is being deleted must not count as saved. Until the end it
            # stays as a mark, because a folder that has lost its manifest counts as damaged.
            mark, trash = (path.with_name(_TRASH + path.name) for path in (manifest, arrays))
            os.replace(manifest, mark)
            failpoints.reach("retain.manifest_gone")
            _remove(trash)
            os.replace(arrays, trash)
            failpoints.reach("retain.moved")
            _remove(trash)
            _remove(mark)
        failpoints.reach("retain.done")

    def _set_aside(self, step: int) -> str:
        """Rename a damaged checkpoint and its manifest; return the new name."""
        taken = set(self._names())
        name = next(
            name
            for number in itertools.count(1)
            if not {name := f"{ASIDE}{number}-{step:08d}", f"{name}.json"} & taken
        )
        # The manifest last: without one the folder would count as unfinished.
        for path, aside in ((self._arrays(step), name), (self._manifest(step), f"{name}.json")):
            if os.path.lexists(path):
                os.replace(path, self._folder / aside)
        sync(self._folder)
        return name

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def _arrays(self, step: int) -> pathlib.Path:
        return layout.arrays(self._folder, step)

    def _manifest(self, step: int) -> pathlib.Path:
        return layout.manifest(self._folder, step)


class _DamagedError(Exception):
    """Why one checkpoint does not verify."""


def _alone() -> ocp.options.MultiprocessingOptions:
    """Let Orbax not wait for the other processes of a run: one saves and restores for all."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )


def _present(state: Any) -> Any:
    """Return a named tuple as a dict of the fields that are not None, which Orbax would record.

    A checkpoint from before there was such a field is then like one that does not use it.
    """
    if not hasattr(state, "_asdict"):
        return state
    return {name: each for name, each in state._asdict().items() if each is not None}


def _as(like: T, held: Any) -> T:
    """Return the restored `_present` part of a state with the type of `like`."""
    return cast(Any, like)._replace(**held) if hasattr(like, "_replace") else held


def _words(path: str) -> tuple[str, ...]:
    """Return the parts of a path in a state: `.params['a']` and `['params']['a']` are the same."""
    return tuple(re.findall(r"\w+", path))


def _require_same_arrays(manifest: Manifest, like: Any, step: int) -> None:
    """Raise CheckpointError if the state that is wanted has other arrays: no damage, a mistake."""
    wanted = signatures(like)
    saved = {path: (shape, dtype) for path, (shape, dtype, _) in manifest.arrays.items()}
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


def _unreadable_reason(error: BaseException | None) -> str | None:
    """Return what keeps intact arrays from being read, None if they may be damaged."""
    while error is not None:
        if out_of_memory(error) or "can't start new thread" in str(error):
            return next(iter(str(error).splitlines()), "") or "memory is exhausted"
        if isinstance(error, OSError) and error.errno in UNREADABLE:
            return error.strerror
        for number in UNREADABLE:
            if os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


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


def _is_mark(name: str) -> bool:
    return name.endswith((layout.MARK, ".json"))


def _remove(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
