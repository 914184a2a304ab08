"""What each source, and each part of the recipe, gives the network of configs/small.py.

    pip install "reldepth-jax[pretrained,vizdoom]"
    reldepth ablate --config ablation_small            # DATA is data/
    reldepth ablate --config ablation_small:/mnt/depth

DATA holds the folders of configs/small.py, and kitchen. Every arm but the first leaves out one
source, in whose place the others stand more often, or changes one thing. All are judged on the
kitchen, which none was trained on, and on other images of each source: the last 80 photographs of
NYUv2, the last 27 tables, the last 8 views of plants, and the test splits of scenes and games. To
an arm without tables, tables are a new kind of picture.

The recipe is that of configs/small.py made small: EfficientNet-Lite0, crops of 96x128, a
decoder of width 32, and 300 steps. Three seeds.

Cost: 33 trainings of 3.1 to 3.8 minutes on one core (Intel Xeon).
Score: docs/ablation_small.md.
"""

import dataclasses
from typing import Any

from reldepth_jax.config import Choice, Config, MixedSource
from reldepth_jax.config.loading import load
from reldepth_jax.config.schema import Degradation
from reldepth_jax.evaluation.ablation.grid import Grid, Heldout

STEPS = 300
TRAINED_ON = {"nyu_v2_train": "0:703", "tabletop_mosd": "0:80", "strawberry_farm": "0:22"}
JUDGED_ON = {"nyu_v2_train": "703:783", "tabletop_mosd": "80:107", "strawberry_farm": "22:30"}


def get_grid(variant: str = "data") -> Grid:
    """Return the grid; `variant` is the folder that holds the folders of data."""
    recipe = _with_encoder(_recipe(load(f"small:{variant}")), "efficientnet_lite0")

    def folder(name: str, test: str, invalid: tuple[float, ...] = (0.0,)) -> Heldout:
        places: dict[str, Any] = {"root": f"{variant}/{name}", "scale": 0.001, "invalid": invalid}
        return Heldout(
            source=Choice("folder", **places, train="0:0", val="0:0", test=test), sigma=0.1
        )

    return Grid(
        arms={"pretrained": {"recipe": recipe} | _without(recipe) | _changed(recipe)},
        heldout={
            "kitchen": folder("kitchen", ":", invalid=(0.0, 65535.0)),
            "rooms": folder("nyu_v2_train", JUDGED_ON["nyu_v2_train"]),
            "tables": folder("tabletop_mosd", JUDGED_ON["tabletop_mosd"]),
            "plants": folder("strawberry_farm", JUDGED_ON["strawberry_farm"]),
            "scenes": Heldout(source=Choice("synthetic"), sigma=0.1),
            "games": Heldout(source=Choice("vizdoom", height=120), sigma=0.12),
        },
        num_images=80,
        pictures=0,
    )


def _recipe(small: Config) -> Config:
    def trained_on(source: Choice) -> Choice:
        name = str(source.options.get("root", "")).rpartition("/")[2]
        if name not in TRAINED_ON:
            return source
        return Choice(source.name, **source.options | {"train": TRAINED_ON[name]})

    data = small.data
    mix = [dataclasses.replace(each, source=trained_on(each.source)) for each in data.mix]
    return dataclasses.replace(
        small,
        data=dataclasses.replace(
            data, crop=(96, 128), source=trained_on(data.source), mix=tuple(mix)
        ),
        model=dataclasses.replace(small.model, decoder_width=32),
        optim=dataclasses.replace(small.optim, warmup_steps=50),
        train=dataclasses.replace(
            small.train, steps=STEPS, eval_every=STEPS, checkpoint_every=STEPS, keep=1
        ),
    )


def _without(recipe: Config) -> dict[str, Config]:
    """Return the recipe without each of its sources."""
    first, *others = recipe.data.mix
    rooms = MixedSource(source=recipe.data.source, share=1 - sum(m.share for m in recipe.data.mix))
    names = ("rooms", "scenes", "games", "tables", "plants")
    sources = dict(zip(names, (rooms, first, *others), strict=True))
    arms = {}
    for name, left_out in sources.items():
        main, *mix = (each for each in sources.values() if each is not left_out)
        rest = 1 - left_out.share
        data = dataclasses.replace(
            recipe.data,
            source=main.source,
            mix=tuple(dataclasses.replace(each, share=each.share / rest) for each in mix),
        )
        arms[f"no_{name}"] = dataclasses.replace(recipe, data=data)
    return arms


def _changed(recipe: Config) -> dict[str, Config]:
    """Return the recipe with one thing changed."""
    data = recipe.data

    def with_data(**changes: Any) -> Config:
        return dataclasses.replace(recipe, data=dataclasses.replace(data, **changes))

    degradation = Degradation(blur=1.0, noise=0.04, jpeg=30)
    return {
        "no_zoom": with_data(zoom=(1.0, 1.0)),
        "no_colour": with_data(color_jitter=0.0, gamma_jitter=0.0),
        "degradation": with_data(degradation=degradation),
        "average": dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, ema=0.99)),
        "lite2": _with_encoder(recipe, "efficientnet_lite2"),
    }


def _with_encoder(recipe: Config, name: str) -> Config:
    return dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, encoder=Choice(name)),
        init_from=f"pretrained:{name}",
    )
