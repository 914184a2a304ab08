"""Configurations by name, by path and from the command line."""

import pathlib

import pytest

from reldepth_jax.config import Choice, Config, ConfigError, find, load, override, validate


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


def test_a_configuration_is_found_by_path_then_here_then_in_the_package(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    checkout = pathlib.Path("configs").resolve()
    assert find("ranking") == find("configs/ranking.py:x") == pathlib.Path("configs/ranking.py")
    monkeypatch.chdir(tmp_path)
    assert find("smoke") == checkout / "smoke.py"
    assert load("vizdoom:mixed") == load(f"{checkout / 'vizdoom.py'}:mixed") != load("vizdoom")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/smoke.py").write_text("")
    assert find("smoke:variant") == pathlib.Path("configs/smoke.py")
    assert find("ranking") == checkout / "ranking.py"
    (tmp_path / "smoke").write_text("")
    assert find("smoke") == pathlib.Path("smoke")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rankin", "Did you mean 'ranking'?"),
        ("configs/rankin.py", "Did you mean 'configs/ranking.py'?"),
        ("elsewhere/rankin.py:x", "Did you mean 'ranking'?"),
        ("q", "Available: "),
    ],
)
def test_a_missing_configuration_names_the_nearest(name: str, hint: str):
    with pytest.raises(ConfigError, match="^no configuration file ") as mistake:
        load(name)
    assert hint in str(mistake.value)
    assert "\n" not in str(mistake.value)
