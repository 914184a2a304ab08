"""Fine-tune published weights on your own photographs with depth.

    reldepth train --config finetune:midas_v21_small --config.data.source.root=PATH

Variants are the networks of `reldepth models`; without one it is midas_v21_small. An encoder
(`finetune:dinov2_vits14`) gets the paper's decoder, new. It starts from the public weights, which
are fetched once (docs/models.md), or from --weights FILE. PATH/rgb holds images, PATH/depth maps of
the same names: larger is farther, 0 is not measured, the unit does not matter to the loss. For
other files set the options of the source, as in configs/folder.py. The first 80 % of the sorted
names are for training, the next 10 % for validation. The encoder learns at a tenth of the rate, and
BatchNorm keeps its statistics everywhere: batches of four are too small to estimate them.
`--config.optim.encoder_lr_scale=0` freezes the encoder; `optim.groups` gives each part its rate.
Depth Anything and DPT learn at half the rate, as their authors did; `optim.layer_decay=0.8` lets
their first blocks learn slower still, and `train.drop_path=0.1` leaves blocks out at random. With
`model.decoder_width` and the options of `schema.DPT_DECODER` a new decoder is like theirs.

Cost: not measured; 4 images of 384x384 a step (256x256 for midas_v21_small, 252x252 for patches of
14 pixels).
Score: depends on your images; not measured with the published weights.
"""

import dataclasses

from reldepth_jax.config import Choice, Config, ConfigError, DataConfig, OptimConfig, TrainConfig
from reldepth_jax.registry import ENCODERS, PRESETS, did_you_mean
from reldepth_jax.weights import presets


def get_config(variant: str = "midas_v21_small") -> Config:
    """Return the configuration; `variant` is a network or an encoder of `reldepth models`."""
    known = [*PRESETS.entries, *ENCODERS.entries]
    if variant not in known:
        hint = did_you_mean(variant, known)
        raise ConfigError(f"no network {variant!r}.{hint} There are {', '.join(known)}")
    preset = presets.get(variant)
    # Twice the time, for prediction.
    model = dataclasses.replace(preset.model, mirrored=False)
    alone = preset.part == "encoder"
    public = f"{presets.IMAGENET}{variant}" if alone else variant
    side = {"midas_v21_small": 256}.get(variant, 252 if model.patch == 14 else 384)
    return Config(
        data=DataConfig(
            source=Choice("folder"),
            crop=(side, side),
            zoom=(1.0, 1.5),
            color_jitter=0.2,
            batch_size=4,
        ),
        model=dataclasses.replace(model, init="he") if alone else model,
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-5 if model.patch and not alone else 1e-4,
            encoder_lr_scale=0.1,
            frozen_batch_norm="encoder" if alone else "all",
            warmup_steps=20,
        ),
        train=TrainConfig(steps=500, eval_every=100),
        # Not from scratch when `--weights` is forgotten for a network without public weights.
        init_from=public if preset.files else f"{variant}.safetensors",
        init_part=preset.part,
    )
