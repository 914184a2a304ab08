"""What fields declare: part in the compiled step, resume rule, and that none forgets it."""

import dataclasses
import pathlib
from typing import Any

import pytest

from reldepth_jax.config import Choice, Config, schema
from reldepth_jax.config.setting import seen_by_step
from reldepth_jax.training import step as step_module

IN_STEP = {
    *(f"model.{field.name}" for field in dataclasses.fields(schema.ModelConfig)),
    *(f"optim.{field.name}" for field in dataclasses.fields(schema.OptimConfig)),
    "train.steps", "train.accumulate", "train.remat", "train.drop_path", "train.ema",
    "train.winograd", "eval.sigma",
}  # fmt: skip
FIELDS = [
    (outer.name, inner.name)
    for outer in dataclasses.fields(Config)
    if dataclasses.is_dataclass(getattr(Config(), outer.name))
    for inner in dataclasses.fields(getattr(Config(), outer.name))
]


def keys(monkeypatch: pytest.MonkeyPatch, *configs: Config) -> list[Any]:
    """Return what the compiled step of each configuration is cached by."""
    found: list[Any] = []
    monkeypatch.setattr(step_module, "_compiled", lambda *key: found.append(key))
    for config in configs:
        step_module.step_function(config)
    return found


@pytest.mark.parametrize(("name", "field"), FIELDS, ids=".".join)
def test_the_cache_key_of_the_step_has_exactly_the_fields_of_the_step(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch
):
    before = Config()
    inner = getattr(before, name)
    # No legal value for most; the key does not look at it.
    value = 17 if field == "seed" else "another value"
    after = dataclasses.replace(before, **{name: dataclasses.replace(inner, **{field: value})})
    one, again, other = keys(monkeypatch, before, Config(), after)
    assert one == again
    assert hash(one) == hash(again)
    if f"{name}.{field}" in IN_STEP:
        assert one != other
        assert getattr(getattr(other[0], name), field) == value
    else:
        assert one == other
        with pytest.raises(TypeError, match=f"{name}.{field} is used in the compiled step but not"):
            assert getattr(getattr(one[0], name), field) == getattr(inner, field)


def test_loss_and_pairs_are_in_the_key_but_not_a_padded_budget(monkeypatch: pytest.MonkeyPatch):
    base = Config(pairs=Choice("uniform", num_pairs=5, padded_to=60))
    one, budget, pairs, loss, spelled = keys(
        monkeypatch,
        base,
        dataclasses.replace(base, pairs=Choice("uniform", num_pairs=40, padded_to=60)),
        dataclasses.replace(base, pairs=Choice("uniform", num_pairs=40, padded_to=61)),
        dataclasses.replace(base, loss=Choice("ranking", sigma=0.5)),
        dataclasses.replace(base, loss=Choice("ranking", sigma=0.02)),
    )
    assert one == budget == spelled
    assert len({one, pairs, loss}) == 3


@pytest.mark.parametrize(
    "use", [bool, float, lambda x: x + 1, lambda x: x == 1, lambda x: x.real, lambda x: x[0], len]
)
def test_a_field_outside_the_step_cannot_be_used_in_it(use: Any):
    with pytest.raises(TypeError):
        use(seen_by_step(Config()).train.seed)


def run_schema(planted: str, group: str) -> None:
    """Run the schema's source with a further field in one group."""
    source = pathlib.Path(schema.__file__).read_text()
    head = f"class {group}:\n"
    assert head in source
    code = compile(source.replace(head, f"{head}    {planted}\n"), "planted.py", "exec")
    exec(code, {"__name__": "planted"})


@pytest.mark.parametrize("group", ["DataConfig", "ModelConfig", "TrainConfig", "Config"])
def test_a_new_field_that_does_not_say_if_the_step_sees_it_is_refused(group: str):
    for planted in ("planted: int = 3", "planted: int = setting(3, least=1)"):
        with pytest.raises(TypeError, match=rf"^{group}\.planted: declare whether the compiled"):
            run_schema(planted, group)
    run_schema("planted: int = setting(3, least=1, step=False)", group)
