"""The improved ranking loss on frames of Freedoom's maps. Variant `:mixed` adds as many scenes.

    pip install "reldepth-jax[vizdoom]"
    reldepth train --config vizdoom
    reldepth train --config vizdoom:mixed

Network, optimiser and steps of configs/ranking.py; 4000 frames of 53 maps, validated on 8 others.
`:mixed` draws half of the images from the procedural scenes: depths of different scales, exact ones
and coarse ones, as the paper had. Both variants validate on the same frames; for the scenes give
--config.data.validation.name=synthetic --config.eval.sigma=0.02.

The frames are dark, and brown or grey: gamma from 1/2 to 2, and 40 % of brightness, contrast and
saturation. Their depth has steps of 7 map units, so sigma is 0.12 in loss and evaluation (see
reldepth_jax/data/sources/vizdoom), also for the exact scenes of `:mixed`.

Cost: that of configs/ranking.py, and about 90 s of one core for rendering in every session, most of
it in the first hundred steps: 16 frames take 0.3 s and are kept in memory (about 130 MB in all).
Shards avoid it (docs/preparing_data.md).
Score: not yet measured.
"""

import dataclasses
import pathlib

from reldepth_jax.config import Choice, Config, ConfigError, DataConfig, MixedSource, load

SIGMA = 0.12


def get_config(variant: str = "") -> Config:
    """Return the configuration; `variant` is empty or "mixed"."""
    if variant not in ("", "mixed"):
        raise ConfigError(f"no variant {variant!r}; there is mixed")
    before = load(str(pathlib.Path(__file__).with_name("ranking.py")))
    mix = (MixedSource(source=Choice("synthetic"), share=0.5),) if variant else ()
    return dataclasses.replace(
        before,
        data=DataConfig(
            source=Choice("vizdoom", height=120),
            mix=mix,
            crop=(96, 128),
            zoom=(1.0, 1.25),
            batch_size=8,
            color_jitter=0.4,
            gamma_jitter=1.0,
        ),
        loss=Choice("ranking", sigma=SIGMA),
        eval=dataclasses.replace(before.eval, sigma=SIGMA),
    )
