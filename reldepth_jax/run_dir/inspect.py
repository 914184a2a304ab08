"""What a run directory holds and what has happened to it, without touching it.

Only reads: takes no lock and renames nothing, so it may look at a run that is being trained, that
is half copied or damaged.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orbax.checkpoint as ocp

from reldepth_jax.errors import UserError
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.history import HISTORY, History
from reldepth_jax.run_dir.lock import LOCK
from reldepth_jax.run_dir.manifest import CommitRecord, describe

_CONFIG, _CHECKPOINTS = "config.json", "checkpoints"
_LOG_EVERY = 20
"""Default of `train.log_every`, where there is no configuration to read."""
_SHORT = (
    "loss.name", "model.encoder.name", "data.source.name", "data.crop", "data.batch_size",
    "optim.name", "optim.learning_rate", "train.seed", "train.steps",
)  # fmt: skip


class NoRunError(UserError):
    """A directory that is no run directory, in one line."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    step: int
    time: float
    """When it was saved; of the record's file if the history does not know."""
    size: int
    """Bytes of its arrays on disk."""
    whdr: float | None
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
    """`finished`, `stopped`, `failed`, `running`; `killed` if nothing more was heard of it."""
    step: int | None = None
    """Where it ended, if it said so."""
    reason: str = ""
    saves: list[int] = dataclasses.field(default_factory=list)
    logged: int = 0
    """Last step in metrics.jsonl, `start` if there is none."""
    lost: tuple[int, int] | None = None
    """At least and at most so many steps were computed in vain; None if it ended in order."""


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
        yield f"{self.workdir}: " + (_short(self.config) or f"no {_CONFIG} that can be read")
        yield "checkpoints:" if self.checkpoints else "checkpoints: none"
        for each in self.checkpoints:
            marks = ["damaged: " + each.damage] if each.damage else []
            marks += ["verified"] if each.verified else []
            marks += ["newest"] if each is self.checkpoints[-1] else []
            marks += ["best"] if each.step == self.best else []
            score = "   –  " if each.whdr is None else f"{each.whdr:6.1%}"
            yield (
                f"  step {each.step:>8}  {_age(each.time):>7} old  {_size(each.size):>8}"
                f"  WHDR {score}  {', '.join(marks)}".rstrip()
            )
        for name, what in self.others.items():
            yield f"  {name}: {what}"
        yield "history:" if self.sessions else "history: none"
        for session in self.sessions:
            yield f"  {_clock(session.time)}  {_told(session)}"
        lost = [session.lost for session in self.sessions if session.lost]
        if len(lost) > 1:
            low, high = (sum(bounds) for bounds in zip(*lost, strict=True))
            yield f"  {len(lost)} sessions ended without saving: {_range(low, high)} lost in all"
        for when, what in self.repairs:
            yield f"  {_clock(when)}  {what}"
        first = f", first: {self.bad_samples[0]}" if self.bad_samples else ""
        yield f"bad samples: {len(self.bad_samples)}{first}"
        yield f"skipped steps: {self.skipped}"
        yield f"the same command {self.next}"


def inspect(workdir: str | os.PathLike[str], *, verify: bool = False) -> Report:
    """Return what is known of the run in `workdir`.

    With `verify` every array of every checkpoint is read and compared with its digest; the network
    is not built.

    Raises NoRunError for a directory without any sign of a run.
    """
    folder = pathlib.Path(workdir)
    if not any((folder / name).exists() for name in (_CONFIG, HISTORY, _CHECKPOINTS)):
        missing = "" if folder.is_dir() else " (no such directory)"
        raise NoRunError(
            f"{folder}: no run directory{missing}: neither {_CONFIG}, {HISTORY} nor {_CHECKPOINTS}/"
        )
    events = [event for event in History(folder).events() if _usable(event)]
    lines = [line for line in _json_lines(folder / "metrics.jsonl") if line.get("group") == "train"]
    saved_at = {event["step"]: event["time"] for event in events if event["event"] == "saved"}
    store = Checkpoints(folder / _CHECKPOINTS)
    records = store.records()
    checkpoints = list(_saved(folder / _CHECKPOINTS, records, saved_at, verify))
    config, config_error = _config(folder)
    host, running = _holder(folder)

    sound = [each.step for each in checkpoints if not each.damage]
    steps = config.get("train.steps")
    if config_error:
        action, possible = f"would be refused: {config_error}", False
    elif sound:
        finished = isinstance(steps, int) and sound[-1] >= steps
        action = f"would continue at step {sound[-1]}"
        action += ", the last: nothing is left to train" if finished else ""
        possible = True
    elif checkpoints or saved_at:
        action, possible = "would be refused: no checkpoint is left that can be restored", False
    else:
        action, possible = "would begin at step 0", True
    if running:
        action = f"would be refused while {running} trains; after a kill it {action}"

    sessions = _sessions(events)
    if sessions and sessions[-1].end == "killed" and (running or host):
        last = sessions[-1]
        last.end = "running" if running else "killed"
        last.reason = running or f"or still running on {host}"
    _count_lost(
        sessions,
        [int(line["step"]) for line in lines if isinstance(line.get("step"), int)],
        sound[-1] if sound else 0,
        config.get("train.log_every", _LOG_EVERY),
    )
    newest = next((record for record in reversed(records.values())), None)
    skipped = newest.facts.get("skipped", 0) if isinstance(newest, CommitRecord) else 0
    return Report(
        workdir=str(folder),
        config=config,
        checkpoints=checkpoints,
        best=store.best(),
        others=_others(folder / _CHECKPOINTS, set(records), set(saved_at), bool(running)),
        sessions=sessions,
        repairs=[
            (event["time"], str(event.get("what"))) for event in events
            if event["event"] in ("damaged", "worker_died")
        ],
        bad_samples=list({
            (line.get("source"), line.get("index")): str(line.get("error"))
            for line in _json_lines(folder / "bad_samples.jsonl")
        }.values()),
        skipped=int(lines[-1].get("skipped", skipped) if lines else skipped),
        holder=running or host,
        next=action,
        ok=possible and len(sound) == len(checkpoints),
    )  # fmt: skip


def _saved(
    folder: pathlib.Path,
    records: dict[int, CommitRecord | str],
    saved_at: dict[int, float],
    verify: bool,
) -> Iterator[Saved]:
    for step, record in records.items():
        path = folder / f"{step:08d}"
        size = sum(
            _stat(os.path.join(parent, name))[0]
            for parent, _, names in os.walk(path)
            for name in names
        )
        known = isinstance(record, CommitRecord)
        damage = None if isinstance(record, CommitRecord) else record
        if damage is None and not size:
            damage = "its arrays are missing"
        if verify and isinstance(record, CommitRecord) and damage is None:
            damage = _compare(path, record)
        changed = _stat(path.with_suffix(".json"))[1]
        if damage and not changed:
            # The training that is going on has deleted it meanwhile.
            continue
        yield Saved(
            step,
            saved_at.get(step, changed),
            size,
            record.score if known else None,
            damage,
            verify and damage is None,
        )


def _compare(path: pathlib.Path, record: CommitRecord) -> str | None:
    """Return how the arrays on disk differ from what was saved; None if they do not."""
    try:
        with ocp.StandardCheckpointer() as orbax:
            # Without a target: names and shapes are those on disk, named tuples become dicts.
            state = orbax.restore(path.absolute())
    except Exception as error:  # Orbax raises plain Exception, KeyError and others
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"its arrays cannot be read ({reason[:200]})"
    found = {_words(name): facts for name, facts in describe(state).items()}
    wrong = [name for name, facts in record.arrays.items() if found.get(_words(name)) != facts]
    if not wrong:
        return None
    return f"{len(wrong)} of {len(record.arrays)} arrays are not what was saved, first {wrong[0]}"


def _words(name: str) -> tuple[str, ...]:
    """Return the parts of a path in a state, however it is written."""
    return tuple(re.findall(r"\w+", name))


def _others(
    folder: pathlib.Path, committed: set[int], announced: set[int], running: bool
) -> dict[str, str]:
    """Return what lies between the checkpoints and is none."""
    found = {}
    left = "being written or deleted" if running else "unfinished, the next start removes it"
    for name in sorted({path.name.removesuffix(".json") for path in folder.glob("*")}):
        step = int(name) if re.fullmatch(r"[0-9]{8,}", name) else None
        if step in committed:
            continue
        if name.startswith("bad-"):
            found[name] = "damaged and set aside; you may delete it"
        elif step in announced and not running:
            found[name] = "has lost its record, the next start sets it aside"
        elif step is not None or ".orbax-checkpoint-tmp" in name or ".trash-" in name:
            found[name] = left
        else:
            found[name] = left if name.endswith(".json.tmp") else "not ours, ignored"
    return found


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
            last.reason = str(event.get("reason") or event.get("error") or "")
            if isinstance(event.get("lost"), int):
                last.lost = (event["lost"], event["lost"])
    return sessions


def _count_lost(
    sessions: Sequence[Session], logged: Sequence[int], newest: int, log_every: int
) -> None:
    """Fill in which step each session logged last, and what its end cost.

    The lines of metrics.jsonl do not name their session. A step that was computed again stands
    there again: that, and steps that go back, tell the sessions apart.
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


def _holder(folder: pathlib.Path) -> tuple[str, str]:
    """Return (another machine that took the lock last, process here that holds it), or "".

    Looking at the lock must not take it: the training that starts at this moment would be refused.
    """
    try:
        text = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    match = re.match(r"process (\d+) on (.+), started", text)
    if not match:
        return "", ""
    pid, host = int(match[1]), match[2]
    if host != socket.gethostname():
        return host, ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", ""
    except OSError:
        pass
    with contextlib.suppress(OSError):
        # Linux: the number may be that of another process by now.
        locks = pathlib.Path("/proc/locks").read_text(encoding="utf-8")
        if not re.search(rf"FLOCK .*WRITE {pid} ", locks):
            return "", ""
    return "", f"process {pid}"


def _config(folder: pathlib.Path) -> tuple[dict[str, Any], str]:
    """Return the fields of the short form by path, and why there are none."""
    try:
        values = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError) as error:
        return {}, f"{_CONFIG} cannot be read ({error})"
    found = {}
    for path in (*_SHORT, "train.log_every"):
        value = values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[path] = value
    return found, ""


def _short(config: dict[str, Any]) -> str:
    return ", ".join(
        f"{path.removesuffix('.name')} {'x'.join(map(str, value))}"
        if isinstance(value, list)
        else f"{path.removesuffix('.name')} {value}"
        for path, value in config.items()
        if path in _SHORT
    )


def _usable(event: dict[str, Any]) -> bool:
    needed = ("step", "time") if event["event"] in ("start", "saved") else ("time",)
    return all(isinstance(event.get(name), int | float) for name in needed)


def _json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines; what a kill cut short is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                values = json.loads(line)
                if isinstance(values, dict):
                    found.append(values)
    return found


def _stat(path: str | pathlib.Path) -> tuple[int, float]:
    """Return size and time of change; zeros for what is gone."""
    try:
        facts = os.stat(path)
    except OSError:
        return 0, 0.0
    return facts.st_size, facts.st_mtime


def _told(session: Session) -> str:
    text = f"started at step {session.start}"
    if session.saves:
        count = len(session.saves)
        text += f", {count} save{'s' * (count > 1)}, the last at step {session.saves[-1]}"
    if session.end == "running":
        return f"{text}; running ({session.reason}), step {session.logged} logged"
    reason = f" ({session.reason})" if session.reason and session.end != "finished" else ""
    where = "" if session.step is None else f" at step {session.step}"
    text += f"; {session.end}{where}{reason}"
    if session.lost is not None:
        if session.logged > session.start:
            text += f" after step {session.logged}"
        text += f": {_range(*session.lost)} lost"
    return text


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


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
