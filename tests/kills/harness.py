"""Training processes that are killed again and again, and what must hold after every kill.

A campaign kills in two ways: at every named point of `reldepth_jax.failpoints` (the process kills
itself there), and at random instants (this process draws a phase and a delay after its beginning).
After every kill the same command runs again. It must continue at the newest committed step, finish
in the end, leave nothing unfinished behind, and hold the state of an uninterrupted run, bit for
bit. Where each kill hit is counted: a campaign that never hit a phase has shown nothing about it.
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures

import jax
import numpy as np

from reldepth_jax import config
from reldepth_jax.config import Config
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.training.state import new_state

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = "tests/kills/config.py"
STEPS, INTERVAL = 24, 3
"""As the configuration has them."""
LOST_BOUND = 2 * INTERVAL
"""Steps: a save may be under way for one interval, and the next begins only after it."""

PHASES = (
    "start", "restore", "compile", "step", "save", "commit", "retain", "evaluation", "final",
)  # fmt: skip
_BEFORE_COMMIT = ("save", "save.arrays", "save.arrays_done", "save.synced", "commit.written")
_COMMITTED = ("commit.renamed", "commit.done")
FIRST_SAVE = (
    "start", "data", "evaluation", "compile", "step", *_BEFORE_COMMIT, *_COMMITTED,
    "restore", "retain.manifest_gone", "retain.moved", "retain.done", "final",
)  # fmt: skip
"""Every named point; until the first of `_COMMITTED` nothing has been saved."""
LATER_SAVES = (
    "save@2", *_BEFORE_COMMIT[1:], *_COMMITTED,
    *(f"{point}@last" for point in (*_BEFORE_COMMIT, "final", *_COMMITTED[:1])),
    "evaluation", "restore", "final",
)  # fmt: skip
"""The same points in a second save, in the last one, and in a run that is finished."""

_TIMEOUT = 300.0
_KILLS_A_RUN = 12
_RECORD = re.compile(r"\d{8}\.json")


class Failure(AssertionError):
    """A promise that was not kept."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """When a process is to die."""

    fault: str = ""
    """Of `RELDEPTH_FAULT`; may kill, or only make the time at a point longer."""
    point: str = ""
    """Killed from outside `delay` seconds after this point ("": after the process began) …"""
    times: int = 1
    """… was reached so many times."""
    delay: float | None = None
    """None: not from outside."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """A kill that hit."""

    phase: str
    named: bool
    lost: int
    """Steps begun in vain."""


class Tally:
    """What was hit so far; shared by threads."""

    def __init__(self, say: Callable[[str], None] = lambda line: None):
        self.hits: list[Hit] = []
        self.finished = 0
        self._say, self._lock = say, threading.Lock()

    def add(self, hit: Hit, what: str) -> None:
        """Count a kill and say so."""
        with self._lock:
            self.hits.append(hit)
            self._say(
                f"kill {len(self.hits):>3} in {hit.phase:<10} {hit.lost} steps lost  ({what})"
            )

    def phases(self, *, named: bool) -> collections.Counter[str]:
        """Return how many kills of a kind hit each phase."""
        return collections.Counter(hit.phase for hit in list(self.hits) if hit.named == named)

    def require_all_phases(self) -> None:
        """Raise Failure if no random kill hit one of the phases."""
        missed = [phase for phase in PHASES if not self.phases(named=False)[phase]]
        if missed:
            raise Failure(f"no random kill hit {', '.join(missed)}: nothing is shown about it")

    def table(self) -> str:
        """Return the histogram of phases, and the steps lost."""
        by_chance, named = self.phases(named=False), self.phases(named=True)
        lines = ["phase       random  named point"]
        lines += [f"{phase:<12}{by_chance[phase]:>6}{named[phase]:>13}" for phase in PHASES]
        lines.append(f"{'all':<12}{by_chance.total():>6}{named.total():>13}")
        lost = [hit.lost for hit in self.hits]
        mean = sum(lost) / max(1, len(lost))
        lines.append(
            f"steps lost per kill: mean {mean:.2f}, most {max(lost, default=0)}, bound {LOST_BOUND}"
            f" (saved every {INTERVAL} steps, one save under way)"
        )
        return "\n".join(lines)


class Run:
    """One run directory, trained by one process after the other."""

    def __init__(self, folder: pathlib.Path, cache: pathlib.Path, tally: Tally):
        """`folder` is made and holds everything; `cache` is for compiled programs, shared."""
        self.workdir = folder / "run"
        self._folder, self._cache, self._tally = folder, cache, tally
        self._number = 0
        folder.mkdir(parents=True)

    def train(self, kill: Kill | None = None) -> bool:
        """Run the command once; return whether it finished, False if it was killed.

        Raises Failure if it did not continue at the newest committed step, lost more than the
        bound, or ended in any other way.
        """
        kill = kill or Kill()
        before = newest(self.workdir)
        code, points, output = self._process(kill)
        after = newest(self.workdir)
        if code not in (0, -signal.SIGKILL):
            raise Failure(f"exit code {code} in {self._folder}:\n{output[-3000:]}")
        working = any(point in points for point in ("evaluation", "compile"))
        require_resumed(output, before, certain=working)
        if code == 0:
            if after != STEPS:
                raise Failure(f"finished with step {after} saved:\n{output[-3000:]}")
            return True
        reached = (before or 0) + sum(point in ("compile", "step") for point in points)
        lost = max(0, reached - (after or 0))
        if lost > LOST_BOUND:
            raise Failure(f"{lost} steps lost: step {reached} was begun, {after} is saved")
        named = kill.delay is None
        hit = Hit(phase_of(points, by_itself=named), named, lost)
        where = kill.fault if named else f"{kill.delay:.3f} s after {kill.point or 'the beginning'}"
        if not named and kill.times > 1:
            where += f", time {kill.times}"
        self._tally.add(hit, f"{self._folder.name}: {where}; saved {before} -> {after}")
        return False

    def finish(self, reference: Mapping[str, str] | None = None) -> dict[str, str]:
        """Let it finish unharmed; return its digests after checking all that is promised.

        Raises Failure, also if they are not those of `reference`.
        """
        if not self.train():
            raise Failure(f"{self._folder}: killed by somebody else")
        # Now, for the next start will clean up.
        require_clean(self.workdir)
        found = digests(self.workdir)
        if reference is not None:
            require_equal(reference, found)
        code, points, output = self._process(Kill())
        if code or "compile" in points or "step" in points or "\n0 steps in" not in output:
            raise Failure(f"a finished run did not say that it is finished:\n{output[-3000:]}")
        require_equal(found, digests(self.workdir))
        require_clean(self.workdir)
        self._tally.finished += 1
        return found

    def _process(self, kill: Kill) -> tuple[int, list[str], str]:
        """Return exit code, points reached and output."""
        self._number += 1
        trace = self._folder / f"{self._number:03d}.trace"
        printed = self._folder / f"{self._number:03d}.txt"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "RELDEPTH_TRACE": str(trace),
            "RELDEPTH_FAULT": kill.fault,
        }
        command = [sys.executable, "scripts/train.py", "--config", CONFIG]
        began = time.monotonic()
        with open(printed, "wb") as out:
            process = subprocess.Popen(
                [*command, "--workdir", str(self.workdir)],
                cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                while process.poll() is None:
                    if kill.delay is not None and (
                        not kill.point or _points(trace).count(kill.point) >= kill.times
                    ):
                        time.sleep(kill.delay)
                        break
                    if time.monotonic() - began > _TIMEOUT:
                        raise Failure(f"{self._folder}: not finished after {_TIMEOUT:.0f} s")
                    time.sleep(0.005)
            finally:
                process.kill()
                code = process.wait()
        return code, _points(trace), printed.read_text(errors="replace")


def newest(workdir: pathlib.Path) -> int | None:
    """Return the newest step with a manifest; Failure if it is not whole."""
    names = [path for path in (workdir / "checkpoints").glob("*") if _RECORD.fullmatch(path.name)]
    if not names:
        return None
    content, seal = max(names).read_text().rstrip("\n").rsplit("\n", 1)
    step = int(max(names).stem)
    if hashlib.sha256(content.encode()).hexdigest() != seal or json.loads(content)["step"] != step:
        raise Failure(f"{max(names)} is not whole")
    return step


def _points(trace: pathlib.Path) -> list[str]:
    """Return the points reached so far; the last line may be cut short."""
    try:
        return trace.read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []


def phase_of(points: Sequence[str], *, by_itself: bool = False) -> str:
    """Return the phase of `PHASES` in which a process died that had reached `points`.

    `final` includes the last save. A save goes on in the background: its rare phases are named
    rather than those of the loop, and writing rather than a step. `by_itself`: the process died at
    the last point.
    """
    if "final" in points:
        return "final"
    background, loop = "", "start"
    for point in points:
        kind = "retain" if point == "commit.done" else point.partition(".")[0]
        if kind in ("save", "commit", "retain"):
            background = "" if point == "retain.done" else kind
            loop = "step" if point == "save" else loop
        elif point != "data":
            loop = point
    if by_itself and points and points[-1] != "data":
        last = points[-1].partition(".")[0]
        return last if last in PHASES else loop
    rare = background in ("commit", "retain")
    return background if rare or (background and loop == "step") else loop


def require_resumed(output: str, step: int | None, *, certain: bool = True) -> None:
    """Raise Failure unless the process said that it continues at `step` (None: at none).

    Not `certain`: it may have died before it said anything.
    """
    said = [int(number) for number in re.findall(r"continuing at step (\d+)", output)]
    if said != ([] if step is None else [step]) and (certain or said):
        raise Failure(f"step {step} was the newest committed, continued at {said}:\n{output}")


def require_clean(workdir: pathlib.Path) -> None:
    """Raise Failure if anything but whole checkpoints is left in a run directory."""
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    records = {name for name in names if _RECORD.fullmatch(name)}
    odd = names ^ (records | {name.removesuffix(".json") for name in records})
    odd |= {path.name for path in workdir.glob("*tmp*")}
    if odd:
        raise Failure(f"left in {workdir}: {', '.join(sorted(odd))}")


def digests(workdir: pathlib.Path, settings: Config | None = None) -> dict[str, str]:
    """Return the SHA-256 of each part of the newest saved state: names, shapes, types, values."""
    settings = settings or config.load(str(ROOT / CONFIG))
    like = new_state(settings, abstract=True)[1]
    checkpoints = Checkpoints(workdir / "checkpoints")
    state = checkpoints.restore(like).state
    checkpoints.close()
    found = {}
    for part, tree in state._asdict().items():
        sha = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            array = np.asarray(leaf)
            name = f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype};"
            sha.update(name.encode() + array.tobytes())
        found[part] = sha.hexdigest()
    return found


def require_equal(wanted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise Failure if two states are not equal in every bit."""
    parts = [part for part in wanted.keys() | found.keys() if wanted.get(part) != found.get(part)]
    if parts:
        raise Failure(f"not the state of an uninterrupted run: {', '.join(sorted(parts))}")


def campaign(
    folder: pathlib.Path,
    *,
    chains: Sequence[Sequence[str]],
    random_kills: int,
    seed: int,
    say: Callable[[str], None],
    cache: pathlib.Path | None = None,
    workers: int = 2,
) -> tuple[Tally, dict[str, str]]:
    """Kill at the named points of each chain, one run each, and then at random instants.

    Returns what was hit and the digests that all runs ended with. Random kills go on until there
    are `random_kills` of them and each phase was hit, but not for ever. `cache` is for compiled
    programs. Raises Failure.
    """
    tally = Tally(say)
    programs = cache or folder / "xla"
    numbers = itertools.count()
    stop = threading.Event()
    most = 2 * random_kills + 20

    def by_name(faults: Iterable[str]) -> None:
        run = Run(folder / f"named-{next(numbers)}", programs, tally)
        for fault in faults:
            point, _, times = fault.partition("@")
            if times == "last":
                times = 1 if point == "final" else (STEPS - (newest(run.workdir) or 0)) // INTERVAL
            if stop.is_set():
                return
            if run.train(Kill(fault=f"{point}:kill@{times or 1}")):
                raise Failure(f"{point} was never reached")
        run.finish(reference.result())

    def enough() -> bool:
        hits = tally.phases(named=False)
        every = all(hits[phase] for phase in PHASES)
        return stop.is_set() or hits.total() >= (random_kills if every else most)

    def by_chance() -> None:
        while not enough():
            number = next(numbers)
            draw = random.Random(f"{seed} {number}")
            run = Run(folder / f"random-{number}", programs, tally)
            for _ in range(_KILLS_A_RUN):
                kill = _draw(draw, tally.phases(named=False), newest(run.workdir))
                if kill is None or enough() or run.train(kill):
                    break
            if not stop.is_set():
                run.finish(reference.result())

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException:
            stop.set()
            raise

    with futures.ThreadPoolExecutor(workers) as pool:
        reference = pool.submit(Run(folder / "uninterrupted", programs, Tally()).finish)
        jobs: list[Callable[[], None]] = [functools.partial(by_name, faults) for faults in chains]
        jobs += [by_chance] * (workers if random_kills else 0)
        pending = [pool.submit(guarded, job) for job in jobs]
    for future in pending:
        future.result()
    if random_kills:
        tally.require_all_phases()
    return tally, reference.result()


def _draw(draw: random.Random, hits: collections.Counter[str], saved: int | None) -> Kill | None:
    """Return a kill at a random instant in the phase that was hit least; None if it is over."""
    phases = set(PHASES)
    if saved is None:
        phases -= {"restore"}
    if (saved or 0) > STEPS - 3 * INTERVAL:
        phases -= {"step", "save", "commit", "retain", "evaluation"}
        if min(hits[phase] for phase in phases) > min(hits[phase] for phase in PHASES):
            return None
    fewest = min(hits[phase] for phase in phases)
    phase = draw.choice(sorted(phase for phase in phases if hits[phase] == fewest))
    delay, times = 10 ** draw.uniform(-3, -0.5), draw.randint(1, 2)
    match phase:
        case "start":
            return Kill(delay=draw.uniform(0, 3))
        case "restore" | "compile" | "final":
            return Kill(point=phase, delay=delay)
        case "save":
            return Kill(point="save.arrays", times=times, delay=delay)
        # A few milliseconds each: made longer, or they would hardly ever be hit from outside.
        case "commit":
            point = draw.choice(["commit.written", "commit.renamed"])
            return Kill(f"{point}:sleep=0.3@{times}", point, times, draw.uniform(0, 0.3))
        case "retain":
            point = draw.choice(["commit.done", "retain.manifest_gone", "retain.moved"])
            return Kill(f"{point}:sleep=0.3@1", point, 1, draw.uniform(0, 0.3))
        case _:
            return Kill(point=phase, times=times, delay=delay / 4)
