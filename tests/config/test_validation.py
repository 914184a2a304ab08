"""Mistakes in values: one line with the field and the nearest legal value."""

import pytest

from reldepth_jax.config import Config, ConfigError, DataConfig, override, validate

MISTAKES = [
    ({"optim.lerning_rate": "1"}, "'optim.lerning_rate'", "'learning_rate'"),
    ({"optin.learning_rate": "1"}, "'optin.learning_rate'", "'optim'"),
    ({"loss.sigm": "1"}, "'loss.sigm'", "'sigma'"),
    ({"loss.name": "rankin"}, "loss.name", "'ranking'"),
    ({"model.encoder.name": "resnet5O"}, "model.encoder.name", "'resnet50'"),
    ({"pairs.name": "unifrom"}, "pairs.name", "'uniform'"),
    ({"data.source.name": "sintetic"}, "data.source.name", "'synthetic'"),
    ({"model.encoder": "resnet5O"}, "model.encoder", "'resnet50'"),
    ({"data.batch_size": "-4"}, "data.batch_size", "at least 1"),
    ({"data.batch_size": "4.5"}, "data.batch_size", "whole number"),
    ({"data.batch_size": "four"}, "data.batch_size", "whole number"),
    ({"data.crop": "100,128"}, "data.crop", "96 or 128"),
    ({"data.crop": "16,128"}, "data.crop", "nearest: 32"),
    ({"data.crop": "-32,32"}, "data.crop", "nearest: 32"),
    ({"data.crop": "128"}, "data.crop", "expected 2"),
    ({"data.crop": "128,a"}, "data.crop", "whole number"),
    ({"data.zoom": "0.5,1"}, "data.zoom", "1 <= smallest"),
    ({"data.zoom": "2,1"}, "data.zoom", "1 <= smallest"),
    ({"data.flip": "yes"}, "data.flip", "true or false"),
    ({"data.color_jitter": "1.5"}, "data.color_jitter", "below 1"),
    ({"data": "x"}, "data is a group", "data.{source"),
    ({"data.batch_size.x": "1"}, "data.batch_size", "no fields"),
    ({"model.dtype": "float23"}, "model.dtype", "'float32'"),
    ({"model.transition": "every"}, "model.transition", "taps, every_block"),
    ({"optim.learning_rate": "0"}, "optim.learning_rate", "greater than 0"),
    ({"optim.learning_rate": "nan"}, "optim.learning_rate", "finite"),
    ({"optim.learning_rate": "inf"}, "optim.learning_rate", "finite"),
    ({"optim.name": "adam"}, "optim.name", "'adamw'"),
    ({"optim.warmup_steps": "1000"}, "optim.warmup_steps", "below train.steps"),
    ({"train.steps": "0"}, "train.steps", "at least 1"),
    ({"train.seed": "-1"}, "train.seed", "at least 0"),
    ({"train.checkpoint_minutes": "0"}, "train.checkpoint_minutes", "greater than 0"),
    ({"eval.sigma": "-0.1"}, "eval.sigma", "at least 0"),
    ({"eval.image_size": "100"}, "eval.image_size", "96 or 128"),
    ({"pairs.num_pairs": "many"}, "pairs.num_pairs", "whole number"),
]


@pytest.mark.parametrize(("assignments", "field", "hint"), MISTAKES, ids=lambda m: str(m))
def test_a_mistake_names_the_field_and_the_nearest_legal_value(assignments, field, hint):
    with pytest.raises(ConfigError) as mistake:
        validate(override(Config(), assignments))
    message = str(mistake.value)
    assert field in message
    assert hint in message
    assert "\n" not in message


def test_wrong_types_in_a_file_are_found():
    for group, field in (
        (DataConfig(mix=(3,)), "data.mix.0: expected MixedSource"),  # pyright: ignore[reportArgumentType]: the mistake
        (DataConfig(batch_size=True), "data.batch_size"),
        (DataConfig(crop=()), "data.crop: expected 2"),  # pyright: ignore[reportArgumentType]: the mistake
        (DataConfig(validation=3), "data.validation: expected Choice"),  # pyright: ignore[reportArgumentType]: the mistake
        (DataConfig(crop=[96, 128]), "data.crop"),  # pyright: ignore[reportArgumentType]: the mistake
        (DataConfig(source="synthetic"), "data.source"),  # pyright: ignore[reportArgumentType]: the mistake
    ):
        with pytest.raises(ConfigError, match=field):
            validate(Config(data=group))
