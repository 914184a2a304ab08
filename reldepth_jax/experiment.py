"""One training run from its configuration: everything wired together, kept in a run directory."""

import dataclasses
import pathlib
import time
from collections.abc import Callable

import jax
from rich.console import Console

from reldepth_jax import runs, runtime
from reldepth_jax.checkpoint import Checkpoints
from reldepth_jax.config import Config
from reldepth_jax.conventions import Batch
from reldepth_jax.data.pipeline import make_source, train_batches, train_sources
from reldepth_jax.evaluate import contact_sheet, evaluate
from reldepth_jax.models.reldepth_net import RelDepthNet
from reldepth_jax.predict import Predictor
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.runs import RunError
from reldepth_jax.train import loop, optim
from reldepth_jax.train.interrupt import catch_interrupts
from reldepth_jax.train.records import Records
from reldepth_jax.train.state import TrainState
from reldepth_jax.train.step import Metrics, make_train_step
from reldepth_jax.visualise import save_picture

_PICTURES = 6


def image_size(config: Config) -> int:
    """Return the shorter side at which images are predicted."""
    return config.eval.image_size or min(config.data.crop)


def step_function(
    config: Config, model: RelDepthNet
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Return the configured training step, not compiled."""
    return make_train_step(
        model,
        LOSSES.create(config.loss.name, **config.loss.options),
        PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options),
        optim.make_optimizer(config.optim, config.train.steps),
        seed=config.train.seed,
        sigma=config.eval.sigma,
    )


def train(config: Config, workdir: pathlib.Path, console: Console) -> int:
    """Train until `config.train.steps`, continuing what `workdir` holds; return the exit code.

    0 when done, 128 + signal number when stopped by a signal, with the state saved.
    Raises RunError for a run directory that belongs to another configuration, ValueError for data
    that cannot be read, NonFiniteError.
    """
    # The order in which the weights are looked for: (1) this run's newest checkpoint,
    # (2) `init_from`, (3) new ones.
    sources = train_sources(config)
    validation = make_source(config, "val")
    old = runs.load_config(workdir)
    if old is not None and (changed := runs.differences(old, config)):
        raise RunError(
            f"{workdir} holds a run with another configuration: {'; '.join(changed)}."
            " Choose another --workdir, or undo the change"
        )
    runtime.keep_memory()
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.train.keep)
    with catch_interrupts() as interrupt:
        model, state = _first_state(config, checkpoints, console)
        step_fn = step_function(config, model)
        workdir.mkdir(parents=True, exist_ok=True)
        runs.save_config(workdir, config)
        records = Records(workdir)
        bind = runs.compile_forward(model)
        val_config = dataclasses.replace(config.eval, num_images=config.train.eval_images)

        def validate(state: TrainState, step: int) -> None:
            predict = Predictor(bind(state), image_size(config))
            result = evaluate(predict, validation, val_config, keep=_PICTURES)
            numbers = result.summary()
            records.scalars(step, "val", numbers)
            sheet = contact_sheet(result.pictures)
            records.picture(step, "val", sheet)
            save_picture(workdir / "pictures" / f"{step:08d}.png", sheet)
            console.print(
                f"step {step:>6}  validation WHDR {numbers['whdr']:.1%}, same row"
                f" {numbers['same_row']:.1%}  (lower is nearer: {numbers['rule_whdr']:.1%},"
                f" {numbers['rule_same_row']:.1%})",
                highlight=False,
                soft_wrap=True,
            )

        started, first_step = time.monotonic(), int(state.step)
        try:
            state = loop.fit(
                state,
                train_batches(config, sources, start=first_step),
                jax.jit(step_fn, donate_argnums=0),
                config.train,
                validate=validate,
                save=lambda state, step: checkpoints.save(step, state),
                records=records,
                interrupt=interrupt,
                console=console,
            )
        finally:
            checkpoints.close()
            records.close()
    step = int(state.step)
    if interrupt.received:
        console.print(
            f"{interrupt.received.name}: saved at step {step} of"
            f" {config.train.steps}; the same command continues",
            highlight=False,
            soft_wrap=True,
        )
    else:
        minutes = (time.monotonic() - started) / 60
        console.print(
            f"{step - first_step} steps in {minutes:.1f} minutes; run directory {workdir}",
            highlight=False,
            soft_wrap=True,
        )
    return interrupt.exit_code


def _first_state(
    config: Config, checkpoints: Checkpoints, console: Console
) -> tuple[RelDepthNet, TrainState]:
    latest = checkpoints.latest()
    if latest is not None:
        model, like = runs.new_state(config, abstract=True)
        console.print(f"continuing at step {latest}", highlight=False, soft_wrap=True)
        return model, runs.restore(checkpoints, latest, like)
    model, state = runs.new_state(config)
    if not config.init_from:
        return model, state
    other = runs.load_run(config.init_from)
    if other.config.model != config.model:
        raise RunError(f"init_from {config.init_from} holds another model: {other.config.model}")
    console.print(
        f"starting from {config.init_from}, step {other.step}", highlight=False, soft_wrap=True
    )
    return model, state._replace(params=other.params, stats=other.stats)
