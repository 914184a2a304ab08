"""What a continued run may change."""

import dataclasses

import pytest

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    LabelNoise,
    LayerGroup,
    MixedSource,
    OptimConfig,
    override,
)
from reldepth_jax.run_dir.saved_config import differences

FREE = {
    "data.workers", "data.threads", "data.prefetch", "data.timeout", "data.max_unreadable",
    "train.steps", "train.epochs", "train.log_every", "train.eval_every", "train.eval_images",
    "train.checkpoint_every", "train.checkpoint_minutes", "train.keep", "train.max_minutes",
    "train.grace_seconds", "train.max_skipped", "init_from", "init_part",
    "eval.num_images", "eval.pairs_per_image", "eval.seed", "eval.sigma", "eval.image_size",
}  # fmt: skip
BASE = Config(
    data=DataConfig(
        source=Choice("redweb", root="a"),
        mix=(MixedSource(source=Choice("hr_wsi", root="b"), share=0.5),),
    ),
    optim=OptimConfig(groups=(LayerGroup(prefix="head", lr_scale=0.5),)),
    loss=Choice("sum"),
)


def leaves() -> list[str]:
    found = []
    for name, group in vars(Config()).items():
        if dataclasses.is_dataclass(group):
            found += [f"{name}.{field.name}" for field in dataclasses.fields(group)]
        else:
            found.append(name)
    return found


@pytest.mark.parametrize("path", leaves())
def test_exactly_these_fields_are_free(path: str):
    *group, name = path.split(".")
    before = getattr(Config(), group[0]) if group else Config()
    # No legal value for most; only whether it is the same matters.
    values = {
        "source": Choice("redweb"),
        "validation": Choice("redweb"),
        "encoder": Choice("resnet18"),
        "loss": Choice("mae"),
        "pairs": Choice("annotated"),
        "label_noise": LabelNoise(gain=0.5),
    }
    value = values.get(name)
    after = dataclasses.replace(before, **{name: value})
    if group:
        after = dataclasses.replace(Config(), **{group[0]: after})
    lines = differences(Config(), after)
    assert all(line.startswith(path) for line in lines)
    assert (not lines) == (path in FREE)


@pytest.mark.parametrize(
    ("assignments", "expected"),
    [
        ({"data.source.root": "elsewhere", "data.source.prepared": "here"}, []),
        ({"data.mix.0.source.root": "elsewhere", "data.mix.0.source.prepared": "here"}, []),
        ({"data.mix.0.share": "0.25"}, ["data.mix.0.share: 0.5 -> 0.25"]),
        ({"data.mix.0.source.instances": "true"}, ["data.mix.0.source.instances: False -> True"]),
        ({"data.source.validation": "0"}, ["data.source.validation: 360 -> 0"]),
        ({"data.label_noise.gain": "0.5"}, ["data.label_noise.gain: 0.0 -> 0.5"]),
        ({"optim.groups.0.lr_scale": "0"}, ["optim.groups.0.lr_scale: 0.5 -> 0.0"]),
        ({"loss.weights": "1,1"}, ["loss.weights: [1.0, 0.5] -> [1.0, 1.0]"]),
        # A default that is written out is no change.
        ({"loss.terms.0.trim": "0.2", "loss.terms.1.scales": "4"}, []),
    ],
)
def test_differences_name_the_innermost_field(assignments: dict[str, str], expected: list[str]):
    assert differences(BASE, override(BASE, assignments)) == expected


def test_a_source_more_is_a_difference():
    more = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, mix=BASE.data.mix * 2))
    for one, other in ((BASE, more), (more, BASE), (Config(), BASE)):
        assert any(line.startswith("data.mix: [") for line in differences(one, other))
