"""The network that comes with the package: photographs, drawn scenes and game frames, by ranking.

    pip install "reldepth-jax[pretrained,vizdoom]"
    reldepth train --config small                      # DATA is data/
    reldepth train --config small:/mnt/depth

configs/small_fine.py goes on from there, with larger crops; docs/model_card.md has all commands.

DATA holds the folders nyu_v2_train, tabletop_mosd and strawberry_farm, each with rgb/ and depth/
(16-bit PNG, millimetres, 0: not measured); docs/model_card.md says what they are. The first 703
photographs of NYUv2's training half are for training, the last 80 for validation: names are sorted,
and neighbours show the same room.

EfficientNet-Lite2 from ImageNet, decoder of width 64. Every pair counts (no easiest ones are
dropped), and depths within 5 % are equal: the maps of NYUv2 have steps of 39 mm. The crops are
strong, up to 1.6 times enlarged, and colours vary much, because few photographs must do.

Cost: 0.4 s a step on 2 CPU cores (AMD EPYC) that other work used too.
Score: docs/model_card.md.
"""

from typing import Any

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    EvalConfig,
    MixedSource,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config(variant: str = "data") -> Config:
    """Return the configuration; `variant` is the folder that holds the folders of data."""

    def folder(name: str, **ranges: str) -> Choice:
        options: dict[str, Any] = {"root": f"{variant}/{name}", "scale": 0.001, "invalid": (0.0,)}
        return Choice("folder", **options, **ranges)

    whole = {"train": ":", "val": "0:0", "test": "0:0"}
    return Config(
        data=DataConfig(
            source=folder("nyu_v2_train", train="0:703", val="703:783", test="703:783"),
            mix=(
                MixedSource(source=Choice("synthetic"), share=0.22),
                MixedSource(source=Choice("vizdoom", height=120), share=0.13),
                MixedSource(source=folder("tabletop_mosd", **whole), share=0.10),
                MixedSource(source=folder("strawberry_farm", **whole), share=0.07),
            ),
            crop=(128, 160),
            zoom=(1.0, 1.6),
            batch_size=8,
            color_jitter=0.4,
            gamma_jitter=0.5,
        ),
        model=ModelConfig(
            encoder=Choice("efficientnet_lite2"), decoder_width=64, normalisation="tf", init="he"
        ),
        loss=Choice("ranking", sigma=0.05, drop_easiest=0.0),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            encoder_lr_scale=0.2,
            warmup_steps=100,
            weight_decay=0.02,
            max_grad_norm=1.0,
        ),
        train=TrainConfig(steps=4000, eval_every=500, eval_images=80),
        eval=EvalConfig(num_images=80, sigma=0.1),
        init_from="pretrained:efficientnet_lite2",
        init_part="encoder",
    )
