"""Configurations as JSON."""

import dataclasses
import json

import pytest

from reldepth_jax.config import Choice, Config, ConfigError, from_dict, to_dict


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
