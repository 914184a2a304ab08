"""Former names of fields, plug-ins and options: in files, on the command line, in config.json."""

import json
import pathlib
from typing import Any

import pytest

from reldepth_jax.config import (
    Choice,
    Config,
    DataConfig,
    OptimConfig,
    from_dict,
    load,
    override,
    renamed,
    to_dict,
    validate,
)
from reldepth_jax.registry import LOSSES
from reldepth_jax.run_dir import layout
from reldepth_jax.run_dir.saved_config import differences, load_config

SUM = Choice(
    "sum",
    terms=(Choice("mse"), Choice("gradient_matching", scales=2, alignment="least_squares")),
    weights=(1.0, 2.0),
)
NOW = Config(
    data=DataConfig(max_unreadable=0.5), optim=OptimConfig(frozen_batch_norm="encoder"), loss=SUM
)
TEXTS = ("l2", "gradient_matching:scales=2:alignment=least_squares")


@pytest.fixture(autouse=True)
def _nothing_printed_yet():
    renamed._print_once.cache_clear()


def test_in_a_configuration_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "mine.py"
    path.write_text(
        "from reldepth_jax.config import *\n"
        "def get_config():\n"
        "    return Config(\n"
        "        data=DataConfig(max_bad=0.5),\n"
        "        optim=OptimConfig(frozen_statistics='encoder'),\n"
        f"        loss=Choice('sum', losses={TEXTS}, weights=(1.0, 2.0)),\n"
        "    )\n"
    )
    assert load(str(path)) == load(str(path)) == NOW
    assert capsys.readouterr().err.splitlines() == [
        "DataConfig: 'max_bad' is now called 'max_unreadable'",
        "OptimConfig: 'frozen_statistics' is now called 'frozen_batch_norm'",
        f"loss: Choice('sum', losses={TEXTS}, weights=(1.0, 2.0)) is now written {SUM}",
    ]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"data.max_bad": "0.5"}, {"data.max_unreadable": "0.5"}),
        ({"optim.frozen_statistics": "all"}, {"optim.frozen_batch_norm": "all"}),
        ({"loss.name": "l2"}, {"loss.name": "mse"}),
        (
            {"loss.name": "sum", "loss.losses": "l2, ranking:sigma=0.5:average=images"},
            {
                "loss.name": "sum",
                "loss.terms": "mse,ranking",
                "loss.terms.1.sigma": "0.5",
                "loss.terms.1.average": "images",
            },
        ),
    ],
    ids=str,
)
def test_on_the_command_line(before: Any, now: Any, capsys: pytest.CaptureFixture[str]):
    expected = override(Config(), now)
    assert not capsys.readouterr().err
    found = override(Config(), before)
    validate(found)
    assert found == expected != Config()
    (line,) = capsys.readouterr().err.splitlines()
    assert "is now" in line


def test_in_the_config_of_an_old_run_which_continues(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
    values = json.loads(json.dumps(to_dict(NOW)))
    values["data"]["max_bad"] = values["data"].pop("max_unreadable")
    values["optim"]["frozen_statistics"] = values["optim"].pop("frozen_batch_norm")
    values["loss"] = {"name": "sum", "losses": list(TEXTS), "weights": [1.0, 2.0]}
    (tmp_path / layout.CONFIG).write_text(json.dumps(values))
    old = load_config(tmp_path)
    assert old is not None
    assert (old.data.max_unreadable, old.optim, old.loss) == (0.5, NOW.optim, NOW.loss)
    assert differences(old, NOW) == []
    # The texts gave only the options that differ from the defaults.
    complete = from_dict(to_dict(NOW))
    assert complete.loss != NOW.loss
    assert differences(old, complete) == []
    other = override(NOW, {"loss.terms.1.scales": "3"})
    assert len(differences(old, other)) == 1
    assert not capsys.readouterr().err


def test_pair_samplers_of_a_mixture_were_names(capsys: pytest.CaptureFixture[str]):
    before = Config(pairs=Choice("mixture", samplers=("uniform", "instance_guided")))
    now = Choice("mixture", samplers=(Choice("uniform"), Choice("instance_guided")))
    assert before.pairs == now
    assert "is now written" in capsys.readouterr().err
    assert override(Config(pairs=now), {"pairs.samplers": "uniform,instance_guided"}).pairs == now
    assert not capsys.readouterr().err


def test_a_plug_in_that_takes_a_former_name_is_itself(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(LOSSES.entries, "l2", LOSSES.entries["mse"])
    assert Config(loss=Choice("l2")).loss == Choice("l2")
