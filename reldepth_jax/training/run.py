"""One training run from its configuration: everything wired together, kept in a run directory."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import time
from collections.abc import Sequence

import jax
from rich.console import Console

from reldepth_jax import failpoints, runtime
from reldepth_jax.config import Config, to_dict
from reldepth_jax.config import validate as validate_config
from reldepth_jax.data.fingerprint import fingerprint, name_of
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.data.pipeline import make_source, train_batches, train_sources
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import has_instances
from reldepth_jax.data.unreadable import SkipUnreadable, too_many
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.heldout import evaluate
from reldepth_jax.evaluation.heldout_report import contact_sheet
from reldepth_jax.inference.networks import Model
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.history import History
from reldepth_jax.run_dir.lock import own
from reldepth_jax.run_dir.numerics import numerics, numerics_changed
from reldepth_jax.run_dir.saved_config import load_config, require_same, save_config
from reldepth_jax.training import loop, optimizer
from reldepth_jax.training.distributed import lockstep, processes
from reldepth_jax.training.distributed.processes import Devices
from reldepth_jax.training.metrics_writer import MetricsWriter
from reldepth_jax.training.preemption import Interrupt, catch_interrupts
from reldepth_jax.training.prefetch import DataStopped, Fetcher
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Source
from reldepth_jax.weights import init_from

_PICTURES = 6


def train(
    config: Config,
    workdir: pathlib.Path,
    console: Console,
    sources: Sequence[Source] | None = None,
    validation: Source | None = None,
) -> int:
    """Train until `config.train.steps`, continuing what `workdir` holds; return the exit code.

    0 when done, 128 + signal number when stopped by a signal and 75 when `train.max_minutes` are
    over, both with the state saved. `sources` and `validation` are those of the configuration, made
    before. Of several processes (`parallel.join`) all call this; the first alone touches `workdir`.
    Raises RunError for a run directory that belongs to another configuration or other data,
    BusyError, RunDirError, CheckpointError, StorageError, DataStopped, NonFiniteError, LostError,
    and UserError for data that cannot be used.
    """
    return processes.end_together(
        lambda: _train(config, workdir, console, sources or (), validation)
    )


def _train(
    config: Config,
    workdir: pathlib.Path,
    console: Console,
    sources: Sequence[Source],
    validation: Source | None,
) -> int:
    with processes.agreed():
        failpoints.reach("start")
        sources = sources or train_sources(config)
        validation = validation or make_source(config, "val")
        config = _with_steps(config, sources)
        devices = Devices(config.data.batch_size, config.train.accumulate)
    if processes.several():
        processes.require_equal(json.dumps(to_dict(config)), "configuration")
        processes.require_equal(json.dumps([*map(fingerprint, sources)]), "training data")
    runtime.keep_compiled()
    with contextlib.ExitStack() as held:
        with processes.agreed():
            if processes.is_first():
                require_same(workdir, config, sources)
                require_usable(config, workdir, sources)
                held.enter_context(own(workdir))
        watched = _watched(config, workdir, sources)
        if processes.is_first():
            return _Session(config, workdir, console, watched, validation, devices).run()
        like = new_state(config, abstract=True)[1]
        step = step_function(config, devices.replicated)
        return lockstep.follow(config, watched, devices, like, step)


def _watched(
    config: Config, workdir: pathlib.Path, sources: Sequence[Source]
) -> list[SkipUnreadable]:
    log = str(workdir / layout.UNREADABLE)
    return [
        SkipUnreadable(source, number, log, config.data.crop)
        for number, source in enumerate(sources)
    ]


def require_usable(config: Config, workdir: pathlib.Path, sources: Sequence[Source]) -> None:
    """Raise UserError for mistakes that would be met later, when the directory has been made."""
    LOSSES.create(config.loss.name, **config.loss.options)
    sampler = PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options)
    needs, name = getattr(sampler, "needs", ()), config.pairs.name
    if "pairs" in needs and not any(source.pairs_per_image for source in sources):
        raise UserError(
            f"pairs.name={name} needs annotated pairs, which no training source has; train on one"
            " that has them (diw, nyu_pairs) or take pairs.name=uniform"
        )
    if "instances" in needs and not any(map(has_instances, sources)):
        raise UserError(
            f"pairs.name={name} needs instance masks, which no training source gives; set"
            " data.source.instances=true (synthetic and hr_wsi can) or take pairs.name=edge_guided"
        )
    if config.optim.groups:
        _, state = new_state(config, abstract=True)
        optimizer.require_known_groups(config.optim, state.params)
    if config.init_from and load_config(workdir) is None:
        init_from.load(config)


def _with_steps(config: Config, sources: Sequence[Source]) -> Config:
    """Turn `train.epochs` into steps; an epoch is one pass over `data.source`."""
    if not config.train.epochs:
        return config
    own_share = 1 - sum(mixed.share for mixed in config.data.mix)
    examples = config.train.epochs * len(sources[0]) / own_share
    steps = max(1, math.ceil(examples / config.data.batch_size))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    # As if the steps had been given: whether the warm-up fits is decided by them.
    validate_config(dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=0)))
    return config


class _Session:
    """One process's part of a run: from what is saved to the end, or to the next interruption."""

    def __init__(
        self,
        config: Config,
        workdir: pathlib.Path,
        console: Console,
        sources: Sequence[SkipUnreadable],
        validation: Source,
        devices: Devices,
    ):
        self._config, self._workdir, self._console = config, workdir, console
        self._sources, self._validation, self._devices = sources, validation, devices
        self._history = History(workdir)
        self._checkpoints = Checkpoints(workdir / layout.CHECKPOINTS, keep=config.train.keep)
        self._scores: dict[int, float] = {}

    def run(self) -> int:
        """Train; the order in which weights are looked for stands in `_first_state`."""
        config, checkpoints, several = self._config, self._checkpoints, processes.several()
        with catch_interrupts(
            grace=config.train.grace_seconds,
            saving=lambda: checkpoints.busy,
            on_abandon=self._abandon,
        ) as interrupt:
            # Others need this process until all have agreed to leave.
            interrupt.leaving = several
            if config.train.max_minutes:
                interrupt.deadline = _process_start() + 60 * config.train.max_minutes
            with processes.agreed():
                state = self._first_state()
                first_step = int(state.step)
                self._history.add("start", step=first_step, pid=os.getpid(), **numerics())
                for source in self._sources:
                    self._tell_rejected(source.source)
                save_config(self._workdir, config, self._sources)
            records = MetricsWriter(self._workdir, self._say)
            state = self._devices.everywhere(processes.share(state))
            started = time.monotonic()
            share = jax.process_index(), jax.process_count()
            fetcher = Fetcher(
                lambda step: train_batches(config, self._sources, start=step, share=share),
                first_step,
                timeout=config.data.timeout,
                interrupt=interrupt,
                warn=self._warn_of_workers,
                reading=self._reading,
            )
            fit = (
                functools.partial(lockstep.fit, devices=self._devices)
                if several
                else functools.partial(loop.fit, put=self._devices.split)
            )
            try:
                state = fit(
                    state,
                    fetcher,
                    step_function(config, self._devices.replicated if several else None),
                    config.train,
                    validate=lambda state, step: self._validate(state, step, records, interrupt),
                    save=self._save,
                    poll=self._poll,
                    records=records,
                    interrupt=interrupt,
                    console=self._console,
                )
                interrupt.leaving = True
                checkpoints.wait()
            except UserError as error:
                self._history.add("failed", error=str(error))
                raise
            finally:
                fetcher.close()
                checkpoints.close()
                records.close()
            seconds = time.monotonic() - started
            # Before the handlers are gone: a late signal must not change the exit code.
            return self._conclude(int(state.step), first_step, seconds, interrupt)

    def _conclude(self, step: int, first_step: int, seconds: float, interrupt: Interrupt) -> int:
        # Interrupted before the last validation the run is not finished: that is done next time.
        finished = step >= self._config.train.steps and step in self._scores
        if finished:
            self._history.add("finished", step=step)
            self._say(
                f"{step - first_step} steps in {seconds / 60:.1f} minutes; run directory"
                f" {self._workdir}"
            )
            return 0
        reason = interrupt.received.name if interrupt.received else "train.max_minutes are over"
        self._history.add("stopped", step=step, reason=reason)
        self._say(
            f"{reason}: saved at step {step} of {self._config.train.steps}; the same command"
            " continues"
        )
        return interrupt.exit_code

    def _first_state(self) -> TrainState:
        """Return (1) this run's newest verified checkpoint, (2) `init_from`, (3) new weights.

        Never new ones if the history tells of a checkpoint: that would lose work silently.
        """
        announced = {
            event["step"]
            for event in self._history.events()
            if event["event"] == "saved" and isinstance(event.get("step"), int)
        }
        for line in self._checkpoints.clean(announced):
            self._history.add("damaged", what=line)
            self._say(line)
        config = self._config
        if self._checkpoints.steps() or announced:
            _, like = new_state(config, abstract=True)
            restored = self._checkpoints.restore(self._devices.alone(like), repair=True)
            for line in restored.damaged:
                self._history.add("damaged", what=line)
                self._say(f"checkpoint passed over: {line}")
            self._say(f"continuing at step {restored.manifest.step}")
            changed = numerics_changed(restored.manifest.facts)
            if changed:
                self._say(f"same order of samples, but results may differ in bits: {changed}")
            return restored.state
        _, state = new_state(config)
        start = init_from.load(config)
        if start is not None:
            self._say(f"starting from {start.description}")
            params, stats = init_from.fill(start, config.model, state.params, state.stats)
            state = state._replace(params=params, stats=stats)
        return state

    def _save(self, state: TrainState, step: int) -> None:
        facts = {**numerics(), "skipped": int(state.skipped)}
        if step in self._scores:
            facts["whdr"] = self._scores[step]
        self._checkpoints.save(step, state, facts, then=self._saved)

    def _saved(self, step: int, seconds: float) -> None:
        self._history.add("saved", step=step, seconds=round(seconds, 3))

    def _poll(self, bad_samples: int) -> UserError | None:
        """Return why training must stop after saving; raises what a save raised."""
        self._checkpoints.poll()
        if bad_samples:
            samples = sum(map(len, self._sources))
            log = self._sources[0].log
            reason = too_many(log, samples, self._config.data.max_unreadable)
            return DataStopped(reason) if reason else None
        return None

    def _validate(
        self, state: TrainState, step: int, records: MetricsWriter, interrupt: Interrupt
    ) -> None:
        config = self._config
        settings = dataclasses.replace(config.eval, num_images=config.train.eval_images)
        weights = self._devices.alone(state)
        preprocessing = Preprocessing(size=config.prediction_size)
        model = Model(config.model, weights.params, weights.stats, preprocessing, {})
        result = evaluate(
            model.predictor(),
            self._validation,
            settings,
            keep=_PICTURES,
            progress=lambda *_: interrupt.check(),
        )
        numbers = result.summary()
        if not math.isfinite(numbers["whdr"]):
            raise DataError(
                "no validation image has two points of unequal depth with ground truth; check what"
                " the source takes for invalid (scripts/check_data.py)"
            )
        self._scores[step] = numbers["whdr"]
        records.scalars(step, "val", numbers)
        sheet = contact_sheet({"prediction": result.pictures})
        records.picture(step, "val", sheet)
        self._say(
            f"step {step:>6}  validation WHDR {numbers['whdr']:.1%}, same row"
            f" {numbers['same_row']:.1%}  (lower is nearer: {numbers['rule_whdr']:.1%},"
            f" {numbers['rule_same_row']:.1%})"
        )

    def _tell_rejected(self, source: Source) -> None:
        """Say how many lines of a list of pairs were left out."""
        rejected = getattr(source, "rejected", ())
        if rejected:
            self._say(
                f"{len(rejected)} defective lines of the list are left out, the first is line"
                f" {rejected[0].line}: {rejected[0].reason}"
            )

    def _abandon(self, reason: str, lost: int) -> None:
        self._history.add("stopped", reason=reason, lost=lost)
        lost_text = (
            f"{lost} steps since the last checkpoint are lost" if lost else "nothing is lost"
        )
        self._say(f"{reason}: stopped at once, {lost_text}; the same command continues")

    def _warn_of_workers(self, line: str) -> None:
        self._history.add("worker_died", what=line)
        self._say(line)

    def _reading(self) -> str:
        """Return which sample is being read for the longest time, empty if that is not known."""
        for source in self._sources:
            index = source.oldest()
            if index is not None:
                return f"sample {index} of source {source.number}{name_of(source, index)}"
        return ""

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _process_start() -> float:
    """Return about when this process began, on the monotonic clock: CPU time counts from there.

    Importing and compiling are mostly CPU time; what is missing is well below a minute.
    """
    return time.monotonic() - time.process_time()
