"""Fine-tune published weights on your own photographs with depth.

    reldepth train --config finetune:midas_v21_small --config.data.source.root=PATH

Variants are the networks of `reldepth models`; without one it is midas_v21_small. It starts from
the network's public weights, which are fetched once (docs/models.md), or from --weights FILE.
PATH/rgb holds images, PATH/depth maps of the same names: larger is farther, 0 is not measured, the
unit does not matter to the loss. For other files set the options of the source, as in
configs/folder.py. The first 80 % of the sorted names are for training, the next 10 % for
validation. The encoder learns at a tenth of the rate, and BatchNorm keeps its statistics
everywhere: batches of four are too small to estimate them.
`--config.optim.encoder_lr_scale=0` freezes the encoder; `optim.groups` gives each part its rate.

Cost: not measured; 4 images of 384x384 a step (256x256 for midas_v21_small).
Score: depends on your images; not measured with the published weights.
"""

from reldepth_jax.config import Choice, Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from reldepth_jax.registry import PRESETS, did_you_mean
from reldepth_jax.weights import presets


def get_config(variant: str = "midas_v21_small") -> Config:
    """Return the configuration; `variant` is a network of `reldepth models`."""
    if variant not in PRESETS.entries:
        hint = did_you_mean(variant, PRESETS.entries)
        raise ConfigError(f"no network {variant!r}.{hint} There are {', '.join(PRESETS.entries)}")
    preset = presets.get(variant)
    side = 256 if variant == "midas_v21_small" else 384
    return Config(
        data=DataConfig(
            source=Choice("folder"),
            crop=(side, side),
            zoom=(1.0, 1.5),
            color_jitter=0.2,
            batch_size=4,
        ),
        model=preset.model,
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-4,
            encoder_lr_scale=0.1,
            frozen_batch_norm="all",
            warmup_steps=20,
        ),
        train=TrainConfig(steps=500, eval_every=100),
        # Not from scratch when `--weights` is forgotten for a network without public weights.
        init_from=variant if preset.files else f"{variant}.safetensors",
    )
