"""Your own photographs with depth: fine-tune the network of configs/ranking.py on a folder.

    reldepth train --config ranking
    reldepth train --config folder --config.data.source.root=PATH

PATH/rgb holds images, PATH/depth maps of the same names (16-bit millimetres here; `polarity`,
`scale`, `invalid` and the sub-folders are options of the source, see
reldepth_jax/data/sources/folder.py). Sorted by name, the first 40 images are for training, the next
8 for validation, the last 15 for testing.

Cost: about 3 minutes on 2 CPU cores.
Score: depends on your images; README shows one room.
"""

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        data=DataConfig(
            source=Choice(
                "folder",
                polarity="depth",
                scale=0.001,
                invalid=(0.0, 65535.0),
                train="0:40",
                val="40:48",
                test="48:63",
            ),
            crop=(96, 128),
            zoom=(1.0, 1.5),
            color_jitter=0.3,
            batch_size=8,
        ),
        model=ModelConfig(encoder=Choice("resnet18"), decoder_width=32, init="he"),
        optim=OptimConfig(name="adamw", learning_rate=3e-4, encoder_lr_scale=1.0, warmup_steps=20),
        train=TrainConfig(steps=200, eval_every=100),
        eval=EvalConfig(num_images=0),
        init_from="runs/ranking",
    )
