"""The second half of the training of configs/small.py: larger crops, for finer maps.

    reldepth train --config small && reldepth train --config small_fine
    reldepth train --config small:/mnt/depth && reldepth train --config small_fine:/mnt/depth

It starts from the run directory of the first of the two commands. Photographs are seen at 192
rows instead of 128, with the same zoom, so that as much of each is in view; the learning rate is
lower. Everything else is as in configs/small.py.

Cost: 1.3 s a step on 2 CPU cores (AMD EPYC) that other work used too.
Score: docs/model_card.md.
"""

import dataclasses

from reldepth_jax.config import Config
from reldepth_jax.config.loading import load
from reldepth_jax.run_dir import layout


def get_config(variant: str = "") -> Config:
    """Return the configuration; `variant` is the folder that holds the folders of data."""
    first = f"small:{variant}" if variant else "small"
    small = load(first)
    return dataclasses.replace(
        small,
        data=dataclasses.replace(small.data, crop=(192, 256)),
        optim=dataclasses.replace(small.optim, learning_rate=4e-4, warmup_steps=50),
        train=dataclasses.replace(small.train, steps=1000, eval_every=250),
        init_from=str(layout.default_run_dir(first)),
        init_part="network",
    )
