"""One training run from its configuration: restore, train, validate, save, in a run directory."""

import contextlib
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from rich.console import Console

from reldepth_jax import failpoints, runtime
from reldepth_jax.config import Config, to_dict
from reldepth_jax.config import validate as validate_config
from reldepth_jax.data.fingerprint import fingerprint, name_of
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.data.pipeline import make_source, train_batches, train_sources
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.selection import has_certainty, has_instances
from reldepth_jax.data.survey import Survey
from reldepth_jax.data.unreadable import SkipUnreadable, too_many
from reldepth_jax.errors import UserError
from reldepth_jax.evaluation.heldout import Evaluation, evaluate
from reldepth_jax.evaluation.heldout_report import contact_sheet
from reldepth_jax.inference.networks import Model
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.checkpoints import Checkpoints
from reldepth_jax.run_dir.lock import own
from reldepth_jax.run_dir.numerics import numerics, numerics_changed
from reldepth_jax.run_dir.saved_config import (
    describe,
    load_config,
    read_config,
    require_same,
    save_config,
    saved_order,
)
from reldepth_jax.training import loop, optimizer, targets
from reldepth_jax.training.distributed import processes
from reldepth_jax.training.distributed.devices import Devices
from reldepth_jax.training.distributed.lockstep import StepsOfAll
from reldepth_jax.training.metrics_writer import MetricsWriter
from reldepth_jax.training.preemption import Interrupt, catch_interrupts
from reldepth_jax.training.prefetch import DataStopped, Fetcher
from reldepth_jax.training.report import Report
from reldepth_jax.training.state import TrainState, new_state
from reldepth_jax.training.step import step_function
from reldepth_jax.types import Source
from reldepth_jax.weights import init_from
from reldepth_jax.weights.arrays import of_states

_PICTURES = 6


@processes.ended_together
def train(
    config: Config,
    run_dir: pathlib.Path,
    console: Console,
    sources: Sequence[Source] | None = None,
    validation: Source | None = None,
) -> int:
    """Train until `config.train.steps`, continuing what `run_dir` holds; return the exit code.

    0 when done, 128 + signal number when stopped by a signal and 75 when `train.max_minutes` are
    over, both with the state saved. `sources` and `validation` are those of the configuration, if
    they are there already. Of several processes (`processes.join`) all call this; the first alone
    touches `run_dir`.

    Raises RunError for a run directory that belongs to another configuration or other data,
    BusyError, RunDirError, CheckpointError, StorageError, DataStopped, NonFiniteError, LostError,
    and UserError for data that cannot be used.
    """
    with processes.agreed():
        failpoints.reach("start")
        sources = sources or train_sources(config)
        validation = validation or make_source(config, "val")
        config = steps_from_epochs(config, sources)
        survey, remarks = Survey(sources if processes.is_first() else ()), []
        devices = Devices(config.data.batch_size, config.train.accumulate)
    if processes.several():
        processes.require_equal(json.dumps(to_dict(config)), "configuration")
        processes.require_equal(json.dumps([*map(fingerprint, sources)]), "training data")
    runtime.keep_compiled()
    with contextlib.ExitStack() as held:
        order = 0
        with processes.agreed():
            if processes.is_first():
                require_same(run_dir, config, sources)
                order = saved_order(run_dir)
                require_trainable(config, run_dir, sources)
                remarks = survey.lines()
                held.enter_context(own(run_dir))
        log = str(run_dir / layout.UNREADABLE)
        watched = [
            SkipUnreadable(source, number, log, config.data.crop)
            for number, source in enumerate(sources)
        ]
        # The first process alone knows it.
        order = processes.agree(order)
        if processes.is_first():
            report = Report(run_dir, console, remarks)
            return _lead(config, run_dir, report, watched, validation, devices, order)
        return _follow(config, watched, devices, order)


def _lead(
    config: Config,
    run_dir: pathlib.Path,
    report: Report,
    sources: Sequence[SkipUnreadable],
    validation: Source,
    devices: Devices,
    order: int,
) -> int:
    """Train in the first process, which alone restores, validates, saves and reports."""
    checkpoints = Checkpoints(run_dir / layout.CHECKPOINTS, keep=config.train.keep)
    described = describe(config, sources, order)
    whdr: dict[int, float] = {}

    def log(step: int, numbers: dict[str, float]) -> None:
        writer.scalars(step, "train", numbers)
        report.degenerate(step, numbers["degenerate"])

    def validate(state: TrainState) -> None:
        step = int(state.step)
        result = evaluate_state(devices.first_device(state), config, validation, interrupt)
        numbers = result.summary()
        whdr[step] = numbers["whdr"]
        writer.scalars(step, "val", numbers)
        writer.picture(step, "val", contact_sheet({"prediction": result.pictures}))
        report.validated(step, numbers)

    def save(state: TrainState) -> None:
        step = int(state.step)
        facts = {**numerics(), "skipped": int(state.skipped), "config": described}
        if step in whdr:
            facts["whdr"] = whdr[step]
        checkpoints.save(step, state, facts, then=report.saved)

    def poll(unreadable: int) -> UserError | None:
        checkpoints.poll()
        if not unreadable:
            return None
        reason = too_many(sources[0].log, sum(map(len, sources)), config.data.max_unreadable)
        return DataStopped(reason) if reason else None

    with catch_interrupts(
        grace=config.train.grace_seconds,
        saving=lambda: checkpoints.busy,
        on_abandon=report.abandoned,
    ) as interrupt:
        # Others need this process until all have agreed to leave.
        interrupt.leaving = processes.several()
        if config.train.max_minutes:
            interrupt.deadline = _process_start() + 60 * config.train.max_minutes
        with processes.agreed():
            checkpoints.require_writable()
            lost = read_config(run_dir)[1]
            if lost:
                report.damaged(lost)
            state = restore(config, checkpoints, devices, report)
            first_step = int(state.step)
            if first_step > config.train.steps:
                raise UserError(
                    f"step {first_step} is saved in {run_dir}, more than train.steps"
                    f" ({config.train.steps}): nothing is left to train. Set more train.steps to go"
                    " on, or choose another --workdir"
                )
            report.started(first_step, [each.source for each in sources])
            save_config(run_dir, config, sources)
        writer = MetricsWriter(run_dir, config, report.say)
        state = devices.replicate(processes.share(state))
        began = time.monotonic()
        try:
            reached = _take_steps(
                state,
                config,
                sources,
                devices,
                order,
                interrupt,
                warn=report.worker_died,
                validate=validate,
                save=save,
                poll=poll,
                log=log,
                console=report.console,
            )
            interrupt.leaving = True
            checkpoints.wait()
        except UserError as error:
            report.failed(error)
            raise
        finally:
            checkpoints.close()
            writer.close()
        # All of this before the handlers are gone: a late signal must not change the exit code.
        if reached >= config.train.steps and reached in whdr:
            report.finished(reached, reached - first_step, time.monotonic() - began)
            return 0
        # Also interrupted before the last validation: that is done next time.
        reason = interrupt.received.name if interrupt.received else "train.max_minutes are over"
        report.stopped(reached, config.train.steps, reason)
        return interrupt.exit_code


def _follow(config: Config, sources: Sequence[SkipUnreadable], devices: Devices, order: int) -> int:
    """Take the steps of the first process in another one; return 0: the first one's code counts."""
    name = f"process {jax.process_index()}"

    def say(line: str, _lost: int = 0) -> None:
        print(f"{name}: {line}", file=sys.stderr)

    with catch_interrupts(grace=config.train.grace_seconds, on_abandon=say) as interrupt:
        interrupt.leaving = True
        with processes.agreed():
            state = new_state(config, abstract=True)[1]
        _take_steps(
            devices.replicate(processes.share(state)),
            config,
            sources,
            devices,
            order,
            interrupt,
            warn=say,
            validate=lambda state: None,
            save=lambda state: None,
            log=lambda step, numbers: None,
            console=Console(quiet=True),
        )
    return 0


def _take_steps(
    state: TrainState,
    config: Config,
    sources: Sequence[SkipUnreadable],
    devices: Devices,
    order: int,
    interrupt: Interrupt,
    *,
    warn: Callable[[str], None],
    **hooks: Any,
) -> int:
    """Run the loop in this process and return the step it reached; `hooks` are those of `fit`."""
    several, first_step = processes.several(), int(state.step)
    share = jax.process_index(), jax.process_count()
    fetcher = Fetcher(
        lambda step: train_batches(config, sources, start=step, share=share, order=order),
        first_step,
        timeout=config.data.timeout,
        interrupt=interrupt,
        warn=warn,
        reading=lambda: _being_read(sources),
    )
    with contextlib.closing(fetcher):
        step = step_function(config, devices.replicated if several else None)
        if several:
            left = config.train.steps - first_step
            steps = StepsOfAll(fetcher, step, devices, state, left, interrupt)
        else:
            steps = loop.Steps(fetcher, step, devices.shard)
        with steps.left_together():
            reached = int(loop.fit(state, steps, config, interrupt=interrupt, **hooks).step)
        interrupt.leaving = True
        return reached


def restore(
    config: Config, checkpoints: Checkpoints, devices: Devices, report: Report
) -> TrainState:
    """Return (1) this run's newest verified checkpoint, (2) `init_from`, (3) new weights.

    Never new ones if the history tells of a checkpoint, or arrays are set aside: that would lose
    work silently.
    """
    announced = report.announced_steps()
    for line in checkpoints.clean():
        report.damaged(line)
    if checkpoints.steps() or announced or checkpoints.set_aside():
        like = new_state(config, abstract=True)[1]
        restored = checkpoints.restore(devices.first_device(like), repair=True)
        for line in restored.damaged:
            report.damaged(line, prefix="checkpoint passed over: ")
        report.say(f"continuing at step {restored.manifest.step}")
        changed = numerics_changed(restored.manifest.facts)
        if changed:
            report.say(f"same order of samples, but results may differ in bits: {changed}")
        return restored.state
    _, state = new_state(config)
    start = init_from.load(config)
    if start is None:
        return state
    report.say(f"starting from {start.description}")
    params, stats = init_from.fill(start, config.model, state.params, state.stats)
    return state.with_weights(params, stats)


def evaluate_state(
    state: TrainState, config: Config, source: Source, interrupt: Interrupt
) -> Evaluation:
    """Return the errors of a state on validation images; raises Stopped at an interrupt."""
    settings = dataclasses.replace(config.eval, num_images=config.train.eval_images)
    preprocessing = Preprocessing.of_training(config)
    model = Model(config.model, of_states(*state.result), preprocessing, {})
    result = evaluate(
        model.predictor(),
        source,
        settings,
        keep=_PICTURES,
        progress=lambda *_: interrupt.check(),
    )
    if not math.isfinite(result.summary()["whdr"]):
        raise DataError(
            "no validation image has two points of unequal depth with ground truth; check what"
            " the source takes for invalid (reldepth check-data)"
        )
    return result


def steps_from_epochs(config: Config, sources: Sequence[Source]) -> Config:
    """Turn `train.epochs` into `train.steps`; an epoch is one pass over `data.source`."""
    if not config.train.epochs:
        return config
    own_share = 1 - sum(mixed.share for mixed in config.data.mix)
    examples = config.train.epochs * len(sources[0]) / own_share
    steps = max(1, math.ceil(examples / config.data.batch_size))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=steps))
    # As if the steps had been given: they decide whether the warm-up fits.
    validate_config(dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=0)))
    return config


def require_trainable(config: Config, run_dir: pathlib.Path, sources: Sequence[Source]) -> None:
    """Raise UserError for mistakes that would show only when the run directory has been made."""
    loss = LOSSES.create(config.loss.name, **config.loss.options)
    targets.require_fit(config.loss.name, loss, sources)
    if "certainty" in getattr(loss, "needs", ()) and not any(map(has_certainty, sources)):
        raise UserError(
            f"loss.name={config.loss.name} needs maps that a network made, with its temperature,"
            " which no training source has; set data.source.temperature (folder can), or take"
            " ranking in place of distillation"
        )
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
    if config.init_from and load_config(run_dir) is None:
        init_from.load(config)


def _being_read(sources: Sequence[SkipUnreadable]) -> str:
    """Return which sample is being read for the longest time, empty if that is not known."""
    for source in sources:
        index = source.oldest()
        if index is not None:
            return f"sample {index} of source {source.number}{name_of(source, index)}"
    return ""


def _process_start() -> float:
    """Return about when this process began, on the monotonic clock: CPU time counts from there.

    Importing and compiling are mostly CPU time; what is missing is well below a minute.
    """
    return time.monotonic() - time.process_time()
