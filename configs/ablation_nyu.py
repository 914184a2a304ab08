"""What ranking is worth on real photographs: losses and samplers on NYUv2, pre-trained and not.

    pip install "reldepth-jax[pretrained]"
    reldepth ablate --config ablation_nyu              # DATA is data/
    reldepth ablate --config ablation_nyu:/mnt/depth

DATA holds nyu_v2_train and kitchen, as in configs/small.py. Of NYUv2's 783 photographs the first
663 are for training, the next 40 for the validation curves and the thresholds of the three-way
errors, the last 80 for judging. Names are sorted, and neighbours show the same room. The kitchen is
of another data set, and nothing is trained on it.

EfficientNet-Lite0 at 96x128, decoder of width 32, 400 steps, three seeds. For equal seeds
all arms have the same initial weights, order of photographs, crops and colours. Depths within 5 %
are equal, since the maps have steps of 39 mm.

Cost and score: docs/ablation_nyu.md.
"""

import dataclasses
from typing import Any

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.evaluation.ablation.grid import Grid, Heldout

STEPS = 400
PLAIN: dict[str, Any] = {"sigma": 0.05, "drop_easiest": 0.0}

LOSSES = {
    "plain_ranking": Choice("ranking", **PLAIN),
    "improved_ranking": Choice("ranking", sigma=0.05),
    "l1_depth": Choice("mae", normalisation="minmax"),
    "l1_inverse": Choice("mae", normalisation="inverse_minmax"),
    "l1_median_mad": Choice("mae", normalisation="inverse_median_mad"),
    "midas": Choice("sum"),
}
"""L1 on depth and on inverse depth scaled to 0 ... 1 (the paper's Table 3 does not say which), by
median and mean deviation, and the total loss of MiDaS."""


def get_grid(variant: str = "data") -> Grid:
    """Return the grid; `variant` is the folder that holds the folders of data."""

    def folder(name: str, **options: Any) -> Choice:
        return Choice("folder", root=f"{variant}/{name}", scale=0.001, **options)

    rooms = folder("nyu_v2_train", invalid=(0.0,), train="0:663", val="663:703", test="703:783")
    kitchen = folder("kitchen", invalid=(0.0, 65535.0), train="0:0", val="0:0", test=":")
    pretrained = _base(rooms)
    scratch = dataclasses.replace(
        pretrained,
        init_from="",
        optim=dataclasses.replace(pretrained.optim, encoder_lr_scale=1.0),
    )
    return Grid(
        arms={
            "pretrained": _arms(pretrained, LOSSES) | _more(pretrained),
            "scratch": _arms(scratch, LOSSES),
        },
        heldout={
            "nyu": Heldout(source=rooms, sigma=0.1, three_way=True),
            "kitchen": Heldout(source=kitchen, sigma=0.1),
        },
    )


def _base(source: Choice) -> Config:
    return Config(
        data=DataConfig(
            source=source,
            crop=(96, 128),
            zoom=(1.0, 1.6),
            batch_size=8,
            color_jitter=0.4,
            gamma_jitter=0.5,
        ),
        model=ModelConfig(
            encoder=Choice("efficientnet_lite0"), decoder_width=32, normalisation="tf", init="he"
        ),
        pairs=Choice("uniform", num_pairs=3000),
        optim=OptimConfig(
            name="adamw",
            learning_rate=1e-3,
            encoder_lr_scale=0.2,
            warmup_steps=50,
            weight_decay=0.02,
            max_grad_norm=1.0,
        ),
        train=TrainConfig(
            steps=STEPS, eval_every=100, eval_images=40, checkpoint_every=STEPS, keep=1
        ),
        eval=EvalConfig(num_images=80, sigma=0.1),
        init_from="pretrained:efficientnet_lite0",
        init_part="encoder",
    )


def _arms(base: Config, losses: dict[str, Choice]) -> dict[str, Config]:
    return {name: dataclasses.replace(base, loss=loss) for name, loss in losses.items()}


def _more(base: Config) -> dict[str, Config]:
    """Return other samplers and sums, and one experiment for each guess why dropping hurts.

    The guesses: without the easiest quarter equal pairs weigh more (then there must be no harm
    without equal pairs), or the larger gradient wants another learning rate.
    """
    ranking, improved = LOSSES["plain_ranking"], LOSSES["improved_ranking"]
    both = Choice("sum", terms=(ranking, Choice("gradient_matching")), weights=(1.0, 0.5))
    edges = Choice(
        "mixture", samplers=(Choice("uniform"), Choice("edge_guided")), num_pairs=(1500, 1500)
    )

    def rate(factor: float) -> OptimConfig:
        return dataclasses.replace(base.optim, learning_rate=factor * base.optim.learning_rate)

    return {
        "ranking_gradient": dataclasses.replace(base, loss=both),
        "ranking_edges": dataclasses.replace(base, loss=ranking, pairs=edges),
        "improved_half_rate": dataclasses.replace(base, loss=improved, optim=rate(0.5)),
        "improved_double_rate": dataclasses.replace(base, loss=improved, optim=rate(2.0)),
        "plain_double_rate": dataclasses.replace(base, loss=ranking, optim=rate(2.0)),
        "plain_no_equal": dataclasses.replace(
            base, loss=Choice("ranking", sigma=0.0, drop_easiest=0.0)
        ),
        "improved_no_equal": dataclasses.replace(base, loss=Choice("ranking", sigma=0.0)),
    }
