"""The network of the paper at its size, for a GPU: ResNet-50, 384x384, bfloat16 convolutions.

    pip install -e ".[cuda12]"
    reldepth train --config ranking_resnet50

Trained from scratch on the embedded scenes, since nothing is downloaded: AdamW, and one learning
rate for all layers. The paper names SGD with mini-batches of 4 and a learning rate 10
times smaller for its pre-trained encoder, and no learning rate, schedule or number of epochs.

Cost: 61.8 GMAC an image forward. Not yet measured on a GPU.
Score: not yet measured.
"""

from reldepth_jax.config import Choice, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        data=DataConfig(crop=(384, 384), batch_size=32, threads=8),
        model=ModelConfig(encoder=Choice("resnet50"), init="he", dtype="bfloat16"),
        loss=Choice("ranking"),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(name="adamw", learning_rate=5e-4, encoder_lr_scale=1.0, warmup_steps=500),
        train=TrainConfig(steps=20_000, eval_every=2000, checkpoint_every=2000),
    )
