"""Configuration: overrides, validation, and what a person is told about a mistake."""

import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys

import pytest

from reldepth_jax import config as configuration
from reldepth_jax.config import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    from_dict,
    load,
    override,
    to_dict,
    validate,
)

# Without the grid of `scripts/ablate.py`.
CONFIGS = sorted({*pathlib.Path("configs").glob("*.py")} - {pathlib.Path("configs/ablation.py")})


def test_override_reaches_fields_options_and_tuples():
    config = override(
        Config(),
        {
            "optim.learning_rate": "3e-4",
            "loss.drop_easiest": "0",
            "data.crop": "64,96",
            "data.flip": "false",
        },
    )
    assert config.optim.learning_rate == 3e-4
    assert config.loss == Choice("ranking", drop_easiest=0.0)
    assert config.data.crop == (64, 96)
    assert config.data.flip is False
    validate(config)


def test_naming_another_plug_in_starts_from_its_defaults():
    config = override(Config(loss=Choice("ranking", sigma=0.1)), {"loss.name": "mae"})
    assert config.loss == Choice("mae")


def test_naming_the_same_plug_in_keeps_its_options():
    config = override(Config(loss=Choice("ranking", sigma=0.1)), {"loss.name": "ranking"})
    assert config.loss == Choice("ranking", sigma=0.1)


def test_overrides_do_not_depend_on_their_order():
    one = {"loss.normalisation": "minmax", "loss.name": "mae"}
    other = dict(reversed(one.items()))
    assert override(Config(), one) == override(Config(), other)


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
        (DataConfig(batch_size=True), "data.batch_size"),
        (DataConfig(crop=[96, 128]), "data.crop"),  # pyright: ignore[reportArgumentType]: the mistake
        (DataConfig(source="synthetic"), "data.source"),  # pyright: ignore[reportArgumentType]: the mistake
    ):
        with pytest.raises(ConfigError, match=field):
            validate(Config(data=group))


def test_file_mistakes_name_file_and_line(tmp_path: pathlib.Path):
    path = tmp_path / "mine.py"
    for text, expected in (
        ("x = = 1", "line 1"),
        ("\n1 / 0", "line 2: ZeroDivisionError"),
        ("x = 1", "no function get_config"),
        ("def get_config():\n    return 3", "expected a reldepth_jax.config.Config, got int"),
        (
            "from reldepth_jax.config import *\ndef get_config():\n"
            "    return Config(optim=OptimConfig(learning_rat=1))",
            "line 3: OptimConfig has no field 'learning_rat'. Did you mean 'learning_rate'?",
        ),
        (
            "from reldepth_jax.config import *\ndef get_config():\n"
            "    return Config(loss=Choice('ranking', sigm=1))",
            "Did you mean 'sigma'?",
        ),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as mistake:
            load(str(path))
        assert expected in str(mistake.value)
        assert str(path) in str(mistake.value)


def test_json_round_trip_gives_the_same_experiment():
    config = Config(
        loss=Choice("mae", normalisation="minmax"),
        train=dataclasses.replace(Config().train, steps=7),
    )
    values = json.loads(json.dumps(to_dict(config)))
    again = from_dict(values)
    assert to_dict(again) == to_dict(config)
    assert again.train == config.train
    assert values["pairs"] == {"name": "uniform", "num_pairs": 3000, "padded_to": 0}


def test_unknown_fields_in_json_are_refused():
    values = to_dict(Config()) | {"lerning": 1}
    with pytest.raises(ConfigError, match="lerning"):
        from_dict(values)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_loads_and_says_what_it_does(path: pathlib.Path):
    load(str(path))
    text = path.read_text()
    for heading in ("Cost:", "Score:", "python scripts/train.py"):
        assert heading in text.split('"""')[1], f"{path}: docstring lacks {heading!r}"


def test_every_leaf_of_the_configuration_is_read():
    """A field that no module reads would be a promise not kept."""
    sources = "\n".join(
        p.read_text() for p in pathlib.Path("reldepth_jax").rglob("*.py") if "config" not in p.parts
    )
    sources += inspect.getsource(configuration.Config).partition("@property")[2]
    unread = []
    for group in dataclasses.fields(configuration.Config):
        value = getattr(Config(), group.name)
        names = (
            [f.name for f in dataclasses.fields(value)]
            if dataclasses.is_dataclass(value)
            else [group.name]
        )
        unread += [f"{group.name}.{name}" for name in names if f".{name}" not in sources]
    assert not unread


def test_configuration_needs_no_jax():
    code = (
        "import sys; from reldepth_jax import config; from reldepth_jax.cli import command;"
        "config.validate(config.load('configs/ranking.py'));"
        "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
