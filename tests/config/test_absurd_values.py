"""Values that no machine can serve are refused at once, with the field and the reason."""

import dataclasses
import pathlib
import typing

import pytest

from reldepth_jax import config
from reldepth_jax.config import Config, ConfigError
from reldepth_jax.run_dir import layout


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.batch_size", "1000000000"),
        ("data.threads", "1000000"),
        ("data.workers", "100000"),
        ("data.prefetch", "1000000000"),
        ("model.decoder_width", "1000000"),
        ("train.steps", "2147483648"),
        ("train.seed", "4294967296"),
        ("eval.seed", "4294967296"),
        ("eval.image_size", "1000000"),
    ],
)
def test_the_field_is_named_with_its_limit(path: str, value: str):
    with pytest.raises(ConfigError, match=rf"^{path} must be at most \d+, got {value}$"):
        config.validate(config.override(Config(), {path: value}))


def test_a_crop_that_no_machine_can_hold():
    settings = config.override(Config(), {"data.crop": "3200000,3200000"})
    with pytest.raises(ConfigError, match=r"data\.crop .* take 327,680 GB a batch"):
        config.validate(settings)


def test_every_whole_number_has_a_largest_value():
    def numbers(group: type, path: str = "") -> list[str]:
        hints, found = typing.get_type_hints(group), []
        for field in dataclasses.fields(group):
            if dataclasses.is_dataclass(hints[field.name]):
                found += numbers(typing.cast(type, hints[field.name]), f"{path}{field.name}.")
            elif hints[field.name] is int and "most" not in field.metadata:
                found.append(path + field.name)
        return found

    # The levels of simulated label noise have no cost.
    assert set(numbers(Config)) <= {"data.label_noise.levels"}


def test_a_configuration_that_exits_is_one_line(tmp_path: pathlib.Path):
    (tmp_path / "c.py").write_text("import sys\n\ndef get_config():\n    sys.exit('no data')\n")
    with pytest.raises(ConfigError, match=r"c\.py, line 4: SystemExit: no data$"):
        config.load(str(tmp_path / "c.py"))


def test_a_colon_may_be_part_of_the_path(tmp_path: pathlib.Path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    file = folder / "c.py"
    file.write_text(
        "from reldepth_jax.config import Config, TrainConfig\n"
        "def get_config(variant='1'):\n"
        "    return Config(train=TrainConfig(seed=int(variant)))\n"
    )
    assert config.load(str(file)).train.seed == 1
    assert config.load(f"{file}:7").train.seed == 7
    assert layout.default_run_dir(f"{file}:7") == pathlib.Path("runs/c_7")
    assert layout.default_run_dir(str(file)) == pathlib.Path("runs/c")
