"""The names of everything in a run directory, and where it lies. Imports no JAX.

No other module knows these names (`tests/run_dir/test_layout.py`).
"""

import os
import pathlib
import re

from reldepth_jax.config.loading import split

CONFIG = "config.json"
"""The configuration and the fingerprint of the training data."""
CHECKPOINTS = "checkpoints"
"""Saved steps: a folder of arrays and a manifest each."""
METRICS = "metrics.jsonl"
"""Numbers of training and validation, one JSON object a line."""
HISTORY = "history.jsonl"
"""Starts, saves and stops, one JSON object a line."""
UNREADABLE = "bad_samples.jsonl"
"""Samples that could not be read, one JSON object a line."""
MARK = ".json.tmp"
"""Ends the name of the file beside the arrays of a step that is being saved."""
TENSORBOARD = "tensorboard"
WANDB = "wandb"
"""What Weights & Biases keeps of a run."""
LOCK = "run.lock"
TEMPERATURE = "temperature.json"
"""In an evaluation folder: the temperature of the confidence."""

_STEP = re.compile(r"[0-9]{8}|[1-9][0-9]{8,}")


def default_run_dir(config: str) -> pathlib.Path:
    """Return where a configuration trains: runs/NAME for NAME.py, runs/NAME_VARIANT with one."""
    file, variant = split(config)
    name = pathlib.Path(file).stem
    return pathlib.Path("runs", f"{name}_{variant}" if variant else name)


def picture(run_dir: pathlib.Path, step: int) -> pathlib.Path:
    """Return the contact sheet of the validation images after `step` steps."""
    return run_dir / "pictures" / f"{step:08d}.png"


def table(run_dir: pathlib.Path, group: str) -> pathlib.Path:
    """Return the comma-separated numbers of `train` or `val`."""
    return run_dir / f"metrics_{group}.csv"


def wandb_run_id(run_dir: pathlib.Path) -> pathlib.Path:
    """Return the file that names the run of Weights & Biases which the sessions share."""
    return run_dir / WANDB / "run_id"


def arrays(checkpoints: pathlib.Path, step: int) -> pathlib.Path:
    """Return the folder of the arrays of a saved step."""
    return checkpoints / f"{step:08d}"


def manifest(checkpoints: pathlib.Path, step: int) -> pathlib.Path:
    """Return the manifest of a saved step: what has none is not saved."""
    return checkpoints / f"{step:08d}.json"


def mark(checkpoints: pathlib.Path, step: int) -> pathlib.Path:
    """Return the file that says that this run is saving a step; it becomes the manifest."""
    return checkpoints / f"{step:08d}{MARK}"


def is_step(name: str) -> bool:
    """Return whether a name in `checkpoints` is that of the arrays of a step."""
    return _STEP.fullmatch(name) is not None


def saved_steps(checkpoints: pathlib.Path) -> list[int]:
    """Return the steps that have a manifest, oldest first; their content is not verified."""
    try:
        names = os.listdir(checkpoints)
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return sorted(int(stem) for stem in stems if is_step(stem))


def evaluation_folder(model: pathlib.Path) -> pathlib.Path:
    """Return where a network is evaluated: below its run directory, or beside its weights file."""
    return model / "eval" if model.is_dir() else model.with_name(f"{model.stem}_eval")


def reliability_diagram(evaluation: pathlib.Path, name: str) -> pathlib.Path:
    """Return the picture of how well the confidence of an evaluation is calibrated."""
    return evaluation / f"{name}_reliability.png"
