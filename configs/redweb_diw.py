"""Fine-tuning on DIW after ReDWeb: one annotated pair an image. Variant `:mixed` trains on both.

    reldepth train --config redweb
    reldepth train --config redweb_diw --config.data.source.root=DIW
    reldepth evaluate --workdir runs/redweb_diw --dataset diw --data-dir DIW

Stated by the paper (Xian et al., CVPR 2018, Table 4): the network trained on ReDWeb is fine-tuned
on DIW, whose training images have one pair each; validation on 1410 pairs of DIW.

Our choice: a tenth of the learning rate, 100,000 steps of 4 images (one pass over 400,000), crops
that contain the annotated pair. No pair is dropped: of four a quarter would be one.
`configs/redweb_diw.py:mixed` draws half of the images from ReDWeb and weighs images, not pairs, in
the loss: 3000 pairs of one image would outweigh the single one of another.

Cost: not measured on a GPU yet.
Score: not measured yet; to aim at: DIW test WHDR 11.37 % (Table 4; from ImageNet weights, see
configs/redweb.py).
"""

import dataclasses
import pathlib

from reldepth_jax.config import Choice, Config, ConfigError, MixedSource, TrainConfig, load


def get_config(variant: str = "") -> Config:
    """Return the configuration; `variant` is empty or "mixed"."""
    if variant not in ("", "mixed"):
        raise ConfigError(f"no variant {variant!r}; there is mixed")
    before = load(str(pathlib.Path(__file__).with_name("redweb.py")))
    config = dataclasses.replace(
        before,
        data=dataclasses.replace(before.data, source=Choice("diw", root="data/DIW")),
        loss=Choice("ranking", drop_easiest=0.0),
        optim=dataclasses.replace(before.optim, learning_rate=0.001),
        train=TrainConfig(steps=100_000, eval_every=5000, eval_images=0, checkpoint_every=2500),
        init_from="runs/redweb",
        init_part="network",
    )
    if not variant:
        return config
    mix = (MixedSource(source=before.data.source, share=0.5),)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, mix=mix),
        loss=Choice("ranking", average="images"),
    )
