"""The paper's main training: improved ranking loss on ReDWeb, 3000 random pairs an image.

    reldepth train --config redweb --config.data.source.root=ReDWeb_V1
    reldepth train --config redweb:diw --config.data.subset=3600 \\
        --config.data.source.root=ReDWeb_V1 --config.data.validation.root=DIW    # Figure 5b

Stated by the paper (Xian et al., CVPR 2018, Sections 3 and 4): ResNet-50, 384x384, random crop and
mirroring, 3000 new pairs each iteration, labels by Eq. (1) with 0.02 on the RD values, the
easiest quarter dropped, SGD, batches of 4, encoder learning rate 10 times smaller.

Our choice, because the paper is silent: learning rate 0.01 with momentum 0.9, weight decay 1e-4 and
a cosine to 1 %; 36,000 steps (44 passes over 3240 images); images resized to cover the crop at up
to 1.5 times; 360 images held out (as many as MiDaS). `configs/redweb.py:diw` trains on all 3600 and
validates on 1410 pairs of DIW, as the paper did.

The encoder starts from ImageNet weights and learns at a tenth of the rate, as in the paper.
torchvision's file (102.5 MB) is fetched once. Where there is no network, bring the folder
`~/.cache/reldepth_jax/weights` from where `reldepth models --fetch imagenet:resnet50` has filled
it, or start from a file, or from scratch at one rate for all layers, which will hardly reach the
paper's score:

    reldepth convert resnet50-0676ba61.pth resnet50.safetensors
    reldepth train --config redweb --weights resnet50.safetensors
    reldepth train --config redweb --config.init_from= --config.init_part=network \\
        --config.optim.encoder_lr_scale=1

Cost: not measured on a GPU yet.
Score: not measured yet; to aim at: DIW test WHDR 14.33 % (Table 4), on its validation pairs 15.74 %
(Table 2).
"""

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config(variant: str = "") -> Config:
    """Return the configuration; `variant` is empty or "diw"."""
    if variant not in ("", "diw"):
        raise ConfigError(f"no variant {variant!r}; there is diw")
    root = "data/ReDWeb_V1"
    return Config(
        data=DataConfig(
            source=Choice("redweb", root=root, validation=0 if variant else 360),
            validation=Choice("diw", root="data/DIW") if variant else None,
            crop=(384, 384),
            zoom=(1.0, 1.5),
            batch_size=4,
            threads=4,
        ),
        model=ModelConfig(encoder=Choice("resnet50"), init="he", dtype="bfloat16"),
        loss=Choice("ranking", sigma=0.02, drop_easiest=0.25),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(name="sgd", learning_rate=0.01, encoder_lr_scale=0.1, warmup_steps=500),
        train=TrainConfig(steps=36_000, eval_every=900, eval_images=0, checkpoint_every=900),
        init_from="imagenet:resnet50",
        init_part="encoder",
    )
