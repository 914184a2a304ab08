"""The improved ranking loss on HR-WSI, the larger successor of ReDWeb.

    reldepth train --config hr_wsi --config.data.source.root=HR-WSI

Stated by Xian et al., "Structure-Guided Ranking Loss for Single Image Depth Prediction", CVPR 2020,
and their code: 20,378 training and 400 validation images with disparity maps; depths within a ratio
of 1.03 are equal.

Our choice: 448x448, their test size; the loss and the random pairs of the 2018 paper, SGD at
0.01 with a cosine to 1 %, 100,000 steps of 8 images (39 epochs). Their edge- and instance-guided
sampling: `--config.pairs.name=mixture`, see docs/losses.md.

The encoder starts from ImageNet weights; configs/redweb.py says how without a network.

Cost: not measured on a GPU yet.
Score: not measured yet. None is published for this loss on this data; ReDWeb alone gives a DIW test
WHDR of 14.33 %.
"""

import dataclasses
import pathlib

from reldepth_jax.config import Choice, Config, TrainConfig, load


def get_config() -> Config:
    """Return the configuration."""
    before = load(str(pathlib.Path(__file__).with_name("redweb.py")))
    source = Choice("hr_wsi", root="data/HR-WSI")
    return dataclasses.replace(
        before,
        data=dataclasses.replace(before.data, source=source, crop=(448, 448), batch_size=8),
        loss=Choice("ranking", sigma=0.03),
        train=TrainConfig(steps=100_000, eval_every=5000, eval_images=0, checkpoint_every=2500),
    )
