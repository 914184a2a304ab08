"""What ranking is worth: losses, numbers of pairs and images, clean and noisy labels.

    reldepth ablate --config ablation              # quick: two CPU cores
    reldepth ablate --config ablation:table3       # losses
    reldepth ablate --config ablation:figure5a     # pairs an image
    reldepth ablate --config ablation:figure5b     # training images

After Xian et al., CVPR 2018, Tables 2 and 3, Figure 5. Training is on the embedded scenes, on
Freedoom's maps (extra `vizdoom`), or on both; evaluation is on held-out images of both, with clean
labels. For the paper's data change the sources below.

`quick`: ResNet-18 from scratch at 96x128, decoder of width 16, 150 steps of 8 images, three seeds;
regression with the scale of 8-bit maps and by median and mean deviation, MiDaS' total loss, plain
and improved ranking, on three conditions: clean labels, labels like those of web stereo (offset,
gain, 64 values, wrong regions), and such labels on mixed sources. The others: ResNet-50 at 384x384
in bfloat16, for a GPU.

Cost: `quick` 30 minutes on 2 busy CPU cores, 6 GB; the others are not measured.
Score: docs/ablation.md.
"""

import dataclasses
import importlib.util
from typing import Any

from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    LabelNoise,
    MixedSource,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.evaluation.ablation.grid import Grid, Heldout

SCENES = Choice("synthetic")
COLOURS: dict[str, Any] = {"color_jitter": 0.4, "gamma_jitter": 1.0}
"""What Freedoom's frames need, on all sources."""
WEB_STEREO = LabelNoise(gain=1.0, offset=1.0, levels=64, wrong=0.2)
COARSE = 0.12
"""Depths whose ratio is within 1.12 are equal, on all sources, so that only one thing differs."""

LOSSES = {
    "improved_ranking": Choice("ranking"),
    "plain_ranking": Choice("ranking", drop_easiest=0.0),
    "l1": Choice("mae", normalisation="inverse_minmax"),
    "l1_median_mad": Choice("mae", normalisation="inverse_median_mad"),
    "midas": Choice("sum"),
}
L2 = {
    "l2": Choice("mse", normalisation="inverse_minmax"),
    "l2_median_mad": Choice("mse", normalisation="inverse_median_mad"),
}


def get_grid(variant: str = "quick") -> Grid:
    """Return the grid; `variant` is quick, table3, figure5a or figure5b."""
    grids = {"quick": _quick, "table3": _table3, "figure5a": _figure5a, "figure5b": _figure5b}
    if variant not in grids:
        raise ConfigError(f"no variant {variant!r}; there are {', '.join(grids)}")
    return grids[variant]()


def _quick() -> Grid:
    frames = Choice("vizdoom", height=120, length=640)
    base = Config(
        data=DataConfig(source=SCENES, crop=(96, 128), batch_size=8, **COLOURS),
        model=ModelConfig(encoder=Choice("resnet18"), decoder_width=16, init="he"),
        optim=OptimConfig(name="adamw", learning_rate=2e-3, encoder_lr_scale=1.0, warmup_steps=30),
        train=TrainConfig(steps=150, eval_every=50, eval_images=50, checkpoint_every=150, keep=1),
        eval=EvalConfig(num_images=100),
    )
    noisy = dataclasses.replace(base, data=_noisy(base.data))
    conditions = {"clean": _arms(base, LOSSES), "noisy": _arms(noisy, LOSSES)}
    heldout = {"scenes": Heldout(source=SCENES)}
    if _has_vizdoom():
        mixed = _mixed(noisy, frames)
        conditions["noisy_mixed"] = _arms(mixed, LOSSES)
        heldout["freedoom"] = Heldout(source=frames, sigma=COARSE)
    return Grid(arms=conditions, heldout=heldout)


def _table3() -> Grid:
    base, heldout = _large()
    clean = dataclasses.replace(base, data=dataclasses.replace(base.data, label_noise=LabelNoise()))
    losses = LOSSES | L2
    return Grid(
        arms={"clean": _arms(clean, losses), "noisy": _arms(base, losses)},
        heldout=heldout,
        num_images=200,
    )


def _figure5a() -> Grid:
    base, heldout = _large()
    arms = {
        f"pairs_{pairs}": dataclasses.replace(
            base,
            loss=Choice("ranking", sigma=COARSE),
            # All budgets share one compiled step.
            pairs=Choice("uniform", num_pairs=pairs, padded_to=6000),
        )
        for pairs in (3000, 1, 100, 1000, 6000)
    }
    return Grid(arms={"noisy_mixed": arms}, heldout=heldout, num_images=200)


def _figure5b() -> Grid:
    base, heldout = _large()
    base = dataclasses.replace(base, loss=Choice("ranking", sigma=COARSE))
    arms = {
        f"images_{images}": dataclasses.replace(
            base, data=dataclasses.replace(base.data, mix=(), subset=images)
        )
        for images in (3600, 360, 900, 1800, 2700)
    }
    return Grid(arms={"noisy": arms}, heldout=heldout, num_images=200)


def _large() -> tuple[Config, dict[str, Heldout]]:
    frames = Choice("vizdoom")
    base = Config(
        data=DataConfig(source=SCENES, crop=(384, 384), batch_size=32, threads=8, **COLOURS),
        model=ModelConfig(encoder=Choice("resnet50"), init="he", dtype="bfloat16"),
        optim=OptimConfig(name="adamw", learning_rate=5e-4, encoder_lr_scale=1.0, warmup_steps=200),
        train=TrainConfig(steps=4000, eval_every=500, keep=1),
        eval=EvalConfig(num_images=200),
    )
    noisy = dataclasses.replace(base, data=_noisy(base.data))
    heldout = {
        "scenes": Heldout(source=SCENES),
        "freedoom": Heldout(source=frames, sigma=COARSE),
    }
    return _mixed(noisy, frames), heldout


def _arms(base: Config, losses: dict[str, Choice]) -> dict[str, Config]:
    return {
        name: dataclasses.replace(
            base,
            loss=Choice("ranking", **loss.options, sigma=COARSE)
            if loss.name == "ranking"
            else loss,
        )
        for name, loss in losses.items()
    }


def _noisy(data: DataConfig) -> DataConfig:
    return dataclasses.replace(data, label_noise=WEB_STEREO)


def _mixed(config: Config, frames: Choice) -> Config:
    data = dataclasses.replace(config.data, mix=(MixedSource(source=frames, share=0.5),))
    return dataclasses.replace(config, data=data)


def _has_vizdoom() -> bool:
    found = importlib.util.find_spec("vizdoom") is not None
    if not found:
        print(
            "no vizdoom (pip install 'reldepth-jax[vizdoom]'): training and evaluation leave it out"
        )
    return found
