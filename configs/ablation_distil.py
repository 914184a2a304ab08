"""What a student gains from photographs that the network of the package has ordered.

    pip install "reldepth-jax[pretrained]"
    (cd DATA/nyu_v2_train/rgb && ls | sed -n 704,742p |
        reldepth predict --list - --npy --output ../../nyu_teacher)
    (cd DATA/kitchen/rgb && ls | sed -n 1,32p |
        reldepth predict --list - --npy --output ../../kitchen_teacher)
    reldepth ablate --config ablation_distil:DATA

DATA (without a variant: data/) holds nyu_v2_train and kitchen, as in configs/ablation_nyu.py. The
student is that of configs/ablation_nyu.py, half as long trained. It has the depth of 40 photographs
of NYUv2, drawn from the first 663. `labelled` trains on them alone; the other arms take half of
each batch from photographs of which they know what the teacher says: photographs 703 to 741 of
NYUv2 and the first 32 frames of the kitchen, which the teacher was not trained on. Of these

- `order` learns the order alone, as if it were measured;
- `weights` the order, each pair as heavy as the teacher is sure;
- `targets` the teacher's probabilities.

Judged on photographs 742 to 782 of NYUv2, other rooms, and on the last 31 frames of the kitchen,
the same room. Maps belong to photographs by their number; a photograph without one is left out.

Cost and score: docs/training.md.
"""

import dataclasses
from typing import Any

from reldepth_jax.config import Choice, Config, MixedSource
from reldepth_jax.evaluation.ablation import grid
from reldepth_jax.evaluation.ablation.grid import Grid, Heldout

STEPS = 200
TEMPERATURE = 0.451
"""Of the teacher (docs/model_card.md)."""


def get_grid(variant: str = "data") -> Grid:
    """Return the grid; `variant` is the folder that holds the folders of data."""

    def measured(name: str, **options: Any) -> Choice:
        return Choice("folder", root=f"{variant}/{name}", scale=0.001, **options)

    def told(name: str, teacher: str) -> Choice:
        return Choice(
            "folder",
            root=variant,
            images=f"{name}/rgb",
            maps=f"{teacher}/*.npy",
            seconds=0.5,
            polarity="ordinal",
            temperature=TEMPERATURE,
            train=":",
            val="0:0",
            test="0:0",
        )

    rooms = measured("nyu_v2_train", invalid=(0.0,), train="0:663", val="663:703", test="742:783")
    kitchen = measured("kitchen", invalid=(0.0, 65535.0), train="0:0", val="0:0", test="32:63")
    new = (
        MixedSource(source=told("nyu_v2_train", "nyu_teacher"), share=0.275),
        MixedSource(source=told("kitchen", "kitchen_teacher"), share=0.225),
    )
    weights = Choice("distillation", sigma=0.05, confidence="weights")
    targets = Choice("distillation", sigma=0.05)
    recipe = grid.load(f"ablation_nyu:{variant}").arms["pretrained"]["plain_ranking"]
    labelled = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, source=rooms, subset=40),
        train=dataclasses.replace(
            recipe.train, steps=STEPS, eval_every=STEPS, checkpoint_every=STEPS
        ),
    )

    def taught(loss: Choice) -> Config:
        return dataclasses.replace(
            labelled, data=dataclasses.replace(labelled.data, mix=new), loss=loss
        )

    return Grid(
        arms={
            "distillation": {
                "labelled": labelled,
                "order": taught(recipe.loss),
                "weights": taught(weights),
                "targets": taught(targets),
            }
        },
        heldout={
            "nyu": Heldout(source=rooms, sigma=0.1),
            "kitchen": Heldout(source=kitchen, sigma=0.1),
        },
    )
