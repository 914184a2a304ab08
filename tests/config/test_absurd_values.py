"""Values that no machine can serve are refused at once, with the field and the reason."""

import dataclasses
import pathlib
import typing
from typing import Any

import pytest

from reldepth_jax import config
from reldepth_jax.config import Config, ConfigError
from reldepth_jax.errors import UserError
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS, SOURCES, Entry, Registry
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


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise GeneratorExit", r"line 3: GeneratorExit$"),
        ("sys.exit()", r"line 3: SystemExit$"),
        ("raise ValueError('\\x1b[2J\\nmore')", r"line 3: ValueError: \\x1b\[2J\\nmore$"),
        ("return get_config()", r"line 3: RecursionError: maximum recursion"),
        ("yield Config()", r"c\.py: expected a reldepth_jax\.config\.Config, got generator$"),
        ("return Config(data=DataConfig(mix=tuple(1 / 0 for _ in 'a')))", "line 3: ZeroDiv"),
        ("return Config(data=DataConfig(mix=(1 / 0 for _ in 'a')))", "data.mix: expected a tuple"),
        ("return Config(loss=Choice(['mae']))", "line 3: TypeError: unhashable type: 'list'"),
        ("return Config(loss=Choice('ranking', sigma=[0.2]))", "loss.sigma: expected a finite"),
        ("return Config(loss=Choice('sum', terms=ITSELF))", r"c\.py.*: RecursionError"),
        ("return Config(train=TrainConfig(seed=Silent()))", r"c\.py: ValueError: not shown$"),
        (
            "return Config(data=DataConfig(source=Choice('open', a={})))",
            "a: expected plain values",
        ),
    ],
)
def test_a_configuration_of_any_content_is_one_line(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
):
    monkeypatch.setitem(SOURCES.entries, "open", Entry("", {"a": ("dict", "None")}))
    (tmp_path / "c.py").write_text(
        f"import sys; from reldepth_jax.config import *\ndef get_config():\n    {code}\n"
        "class Silent:\n    def __repr__(self): raise ValueError('not shown')\n"
        "ITSELF = (Choice('sum'),)\nITSELF[0].options['terms'] = ITSELF\n"
    )
    with pytest.raises(ConfigError, match=told) as caught:
        config.load(str(tmp_path / "c.py"))
    assert str(caught.value).isprintable()


def test_ctrl_c_in_a_configuration_stays_what_it_is(tmp_path: pathlib.Path):
    (tmp_path / "c.py").write_text("def get_config():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        config.load(str(tmp_path / "c.py"))


@pytest.mark.parametrize(
    ("registry", "name", "options", "told"),
    [
        *(
            (PAIR_SAMPLERS, name, {"num_pairs": number}, "num_pairs must be from 1 to 10**8, got ")
            for name in ("uniform", "edge_guided", "instance_guided")
            for number in (0, 10**8 + 1)
        ),
        (PAIR_SAMPLERS, "uniform", {"padded_to": 10**9}, "(3000) to 10**8, got 1000000000"),
        (PAIR_SAMPLERS, "mixture", {"num_pairs": (5, 10**9)}, "of edge_guided must be from 1 to"),
        (PAIR_SAMPLERS, "mixture", {"num_pairs": (0, 5)}, "of uniform must be from 1 to"),
        (PAIR_SAMPLERS, "edge_guided", {"distances": (1, 10**6)}, "largest <= 32768, got 1, 1000"),
        (LOSSES, "gradient_matching", {"scales": 10**9}, "loss.scales must be from 1 to 16, got"),
    ],
)
def test_absurd_options_of_plug_ins(
    registry: Registry, name: str, options: dict[str, Any], told: str
):
    with pytest.raises(UserError) as caught:
        registry.create(name, **options)
    assert told in str(caught.value)
