"""What a run directory holds and what has happened to it, without touching it.

Only reads: takes no lock and renames nothing, so it may look at a run that is being trained, is
half copied or damaged.
"""

import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from reldepth_jax.data import unreadable
from reldepth_jax.errors import UserError
from reldepth_jax.run_dir import checkpoints as storage
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.history import History, metrics
from reldepth_jax.run_dir.lock import holder
from reldepth_jax.run_dir.manifest import Manifest
from reldepth_jax.run_dir.saved_config import RunError, load_config, read_config

T = TypeVar("T")
_LOG_EVERY = 20
"""Default of `train.log_every`, where there is no configuration to read."""
_SHOWN = (
    "loss.name", "model.encoder.name", "data.source.name", "data.crop", "data.batch_size",
    "optim.name", "optim.learning_rate", "train.seed", "train.steps",
)  # fmt: skip


class NoRunError(UserError):
    """A directory that is no run directory."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A saved step."""

    step: int
    time: float
    """When it was saved; of the manifest's file if the history does not know."""
    size: int
    """Bytes of its arrays on disk."""
    whdr: float | None
    """Of the validation."""
    damage: str | None
    """Why it cannot be restored, None if nothing is known against it."""
    verified: bool
    """Whether every array was read and agrees with its digest."""


@dataclasses.dataclass
class Session:
    """One process's part of the run."""

    start: int
    time: float
    end: str = "killed"
    """`finished`, `stopped`, `failed`, `running`; `killed` if the history says nothing of it."""
    step: int | None = None
    """Where it ended, if the history says so."""
    reason: str = ""
    saves: list[int] = dataclasses.field(default_factory=list)
    logged: int = 0
    """Last step among the metrics, `start` if there is none."""
    lost: tuple[int, int] | None = None
    """Steps computed in vain, at least and at most; None if it ended in order."""

    def __str__(self) -> str:
        text = f"started at step {self.start}"
        if self.saves:
            count = len(self.saves)
            text += f", {count} save{'s' * (count > 1)}, the last at step {self.saves[-1]}"
        if self.end == "running":
            return f"{text}; running ({self.reason}), step {self.logged} logged"
        where = "" if self.step is None else f" at step {self.step}"
        reason = f" ({self.reason})" if self.reason and self.end != "finished" else ""
        text += f"; {self.end}{where}{reason}"
        if self.lost is None:
            return text
        after = f" after step {self.logged}" if self.logged > self.start else ""
        return f"{text}{after}: {_range(*self.lost)} lost"


@dataclasses.dataclass(frozen=True)
class Report:
    """All that `inspect` found."""

    workdir: str
    config: dict[str, Any]
    """A few fields by their path."""
    checkpoints: list[Saved]
    best: int | None
    others: dict[str, str]
    """What else lies between the checkpoints, by name."""
    sessions: list[Session]
    repairs: list[tuple[float, str]]
    """What starts found damaged or unfinished, and data workers that died: time and words."""
    bad_samples: list[str]
    """Errors of the samples that could not be read, each sample once."""
    skipped: int
    """Steps that were not finite and were not applied."""
    holder: str
    """The process that trains now, or may do so on another machine."""
    next: str
    """What the same command would do."""
    ok: bool
    """Whether no checkpoint is damaged and the same command could go on."""

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        fields = [f"{path.removesuffix('.name')} {_plain(v)}" for path, v in self.config.items()]
        yield f"{self.workdir}: " + (", ".join(fields) or f"no {layout.CONFIG} that can be read")
        yield "checkpoints:" if self.checkpoints else "checkpoints: none"
        for each in self.checkpoints:
            marks = [
                mark
                for mark, applies in (
                    (f"damaged: {each.damage}", each.damage),
                    ("verified", each.verified),
                    ("newest", each is self.checkpoints[-1]),
                    ("best", each.step == self.best),
                )
                if applies
            ]
            whdr = "   –  " if each.whdr is None else f"{each.whdr:6.1%}"
            yield (
                f"  step {each.step:>8}  {_age(each.time):>7} old  {each.size / 1e6:>5.1f} MB"
                f"  WHDR {whdr}  {', '.join(marks)}".rstrip()
            )
        yield from (f"  {name}: {what}" for name, what in self.others.items())
        yield "history:" if self.sessions else "history: none"
        yield from (f"  {_clock(session.time)}  {session}" for session in self.sessions)
        lost = [session.lost for session in self.sessions if session.lost]
        if len(lost) > 1:
            low, high = (sum(bounds) for bounds in zip(*lost, strict=True))
            yield f"  {len(lost)} sessions ended without saving: {_range(low, high)} lost in all"
        yield from (f"  {_clock(when)}  {what}" for when, what in self.repairs)
        first = f", first: {self.bad_samples[0]}" if self.bad_samples else ""
        yield f"unreadable samples: {len(self.bad_samples)}{first}"
        yield f"skipped steps: {self.skipped}"
        yield f"the same command {self.next}"


def inspect(workdir: str | os.PathLike[str], *, verify: bool = False) -> Report:
    """Return what is known of the run in `workdir`.

    With `verify` every array of every checkpoint is read and compared with its digest; the network
    is not built.

    Raises NoRunError for a directory without any sign of a run.
    """
    folder = pathlib.Path(workdir)
    signs = (layout.CONFIG, layout.HISTORY, layout.CHECKPOINTS)
    if not any((folder / name).exists() for name in signs):
        missing = "" if folder.is_dir() else " (no such directory)"
        raise NoRunError(
            f"{folder}: no run directory{missing}: neither {signs[0]}, {signs[1]} nor {signs[2]}/"
        )
    events = _readable(History(folder).events)
    trained = _readable(lambda: metrics(folder, "train"))
    saved_at = {event["step"]: event["time"] for event in events if event["event"] == "saved"}
    store = storage.Checkpoints(folder / layout.CHECKPOINTS)
    manifests = store.manifests()
    checkpoints = list(_saved(folder / layout.CHECKPOINTS, store, manifests, saved_at, verify))
    values, lost_config, config_error = _config(folder)
    host, running = holder(folder)

    sound = [each.step for each in checkpoints if not each.damage]
    steps = _at(values, "train.steps")
    others = {} if running else store.others()
    lost = [name for name, kind in others.items() if kind == "lost"]
    arrays = checkpoints or saved_at or {"lost", "set aside"} & set(others.values())
    possible = not config_error and bool(sound or not arrays)
    if config_error:
        action = f"would be refused: {config_error}"
    elif not possible:
        action = "would be refused: no checkpoint is left that can be restored"
    elif sound:
        finished = isinstance(steps, int) and sound[-1] >= steps
        last = ", the last: nothing is left to train" if finished else ""
        damaged = [f"step {each.step}" for each in checkpoints if each.step > sound[-1]]
        aside = ", ".join([*damaged, *lost])
        first = f"set {aside} aside and " if aside else ""
        action = f"would {first}continue at step {sound[-1]}{last}"
    else:
        action = "would begin at step 0"
    if lost_config and not config_error:
        action += f" ({lost_config})"
    if running:
        action = f"would be refused while {running} trains; after a kill it {action}"

    sessions = _sessions(events)
    if sessions and sessions[-1].end == "killed" and (running or host):
        last = sessions[-1]
        last.end = "running" if running else "killed"
        last.reason = running or f"or still running on {host}"
    log_every = _at(values, "train.log_every")
    _count_lost(
        sessions,
        [line["step"] for line in trained],
        sound[-1] if sound else 0,
        log_every if isinstance(log_every, int) and log_every > 0 else _LOG_EVERY,
    )
    newest = next(reversed(manifests.values()), None)
    skipped = newest.facts.get("skipped") if isinstance(newest, Manifest) else None
    skipped = trained[-1].get("skipped") if trained else skipped
    return Report(
        workdir=str(folder),
        config={path: value for path in _SHOWN if (value := _at(values, path)) is not None},
        checkpoints=checkpoints,
        best=store.best(),
        others=_others(store, bool(running)),
        sessions=sessions,
        repairs=[
            (event["time"], str(event.get("what")))
            for event in events
            if event["event"] in ("damaged", "worker_died")
        ],
        bad_samples=_readable(lambda: list(unreadable.read(folder / layout.UNREADABLE).values())),
        skipped=int(skipped or 0),
        holder=running or host,
        next=action,
        ok=possible and len(sound) == len(checkpoints) and not (lost or lost_config),
    )


def _saved(
    folder: pathlib.Path,
    store: storage.Checkpoints,
    manifests: dict[int, Manifest | str],
    saved_at: dict[int, float],
    verify: bool,
) -> Iterator[Saved]:
    for step, manifest in manifests.items():
        size = sum(
            _stat(os.path.join(parent, name)).st_size
            for parent, _, names in os.walk(layout.arrays(folder, step))
            for name in names
        )
        whdr, damage = None, None
        if isinstance(manifest, str):
            damage = manifest
        else:
            whdr = manifest.validation_whdr
            if not size:
                damage = "its arrays are missing"
            elif verify:
                damage = store.damage(step)
        changed = _stat(layout.manifest(folder, step)).st_mtime
        if damage and not changed:
            # The training that is going on has deleted it meanwhile.
            continue
        time_saved = saved_at.get(step, changed)
        yield Saved(step, time_saved, size, whdr, damage, verify and damage is None)


_KINDS = {
    "unfinished": "unfinished, the next start removes it",
    "lost": "has lost its manifest, the next start sets it aside",
    "set aside": "damaged and set aside; you may delete it",
    "not ours": "not ours, ignored",
}


def _others(store: storage.Checkpoints, running: bool) -> dict[str, str]:
    """Return what lies between the checkpoints and is none."""
    words = dict(_KINDS)
    if running:
        words["unfinished"] = words["lost"] = "being written or deleted"
    return {name.removesuffix(".json"): words[kind] for name, kind in store.others().items()}


def _sessions(events: Sequence[dict[str, Any]]) -> list[Session]:
    sessions: list[Session] = []
    for event in events:
        kind = event["event"]
        if kind == "start":
            sessions.append(Session(event["step"], event["time"]))
        elif sessions and kind == "saved":
            sessions[-1].saves.append(event["step"])
        elif sessions and kind in ("finished", "stopped", "failed"):
            last = sessions[-1]
            last.end, last.step = kind, event.get("step")
            last.reason = event.get("reason") or event.get("error") or ""
            if event.get("lost") is not None:
                last.lost = (event["lost"], event["lost"])
    return sessions


def _count_lost(
    sessions: Sequence[Session], logged: Sequence[int], newest: int, log_every: int
) -> None:
    """Fill in which step each session logged last, and what its end cost.

    The lines of the metrics do not name their session. A step that was computed again stands there
    again: that, and steps that go back, tell the sessions apart.
    """
    last_seen = {step: position for position, step in enumerate(logged)}
    position = 0
    for number, session in enumerate(sessions):
        following = sessions[number + 1].start if number + 1 < len(sessions) else None
        session.logged = session.start
        while position < len(logged) and logged[position] > session.logged:
            step = logged[position]
            if session.step is not None and step > session.step:
                break
            if following is not None and step > following and last_seen[step] == position:
                break
            session.logged = step
            position += 1
        if session.end == "running" or session.step is not None or session.lost is not None:
            continue
        resumed = newest if following is None else following
        least = max(0, session.logged - resumed)
        # Steps after the last line may have been computed, up to the one that writes the next.
        unseen = (session.logged // log_every + 1) * log_every - 1
        session.lost = (least, max(least, unseen - resumed))


def _config(folder: pathlib.Path) -> tuple[Any, str, str]:
    """Return the values of the configuration, what is lost of it, and why it cannot be used."""
    values, lost = {}, ""
    try:
        values, lost = read_config(folder)
        load_config(folder)
    except RunError as error:
        return values or {}, lost, str(error)
    return values or {}, lost, ""


def _at(values: Any, path: str) -> Any:
    """Return the value at a dotted path, None if there is none."""
    return functools.reduce(
        lambda part, name: part.get(name) if isinstance(part, dict) else None,
        path.split("."),
        values,
    )


def _readable(read: Callable[[], list[T]]) -> list[T]:
    """Return what a file holds, nothing if the system does not let it be read."""
    try:
        return read()
    except OSError:
        return []


def _stat(path: str | pathlib.Path) -> os.stat_result:
    """Return the facts of a file; zeros if it is gone."""
    try:
        return os.stat(path)
    except OSError:
        return os.stat_result([0] * 10)


def _plain(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _range(low: int, high: int) -> str:
    return f"{low} steps" if low == high else f"{low} to {high} steps"


def _clock(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))


def _age(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
