"""The configuration: what can be set, its meaning, its legal values. Imports no JAX.

A configuration file is Python with `get_config() -> Config`; `load` finds it by name or by path.
Overrides on the command line, `--config.optim.learning_rate=0.1`, are applied by `override`;
`validate` then checks every value. All raise `ConfigError` with one line that names the field and
the nearest legal value.

Plug-ins (source, encoder, loss, pair sampler) are a `Choice`: a name and options. Options are
checked against the plug-in's source file (see `registry`).
"""

from reldepth_jax.config.choice import Choice
from reldepth_jax.config.loading import find, load, override, override_choice
from reldepth_jax.config.schema import (
    Config,
    DataConfig,
    Degradation,
    EvalConfig,
    LabelNoise,
    LayerGroup,
    MixedSource,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.config.serialisation import from_dict, to_dict
from reldepth_jax.config.validation import ConfigError, lookup, validate

__all__ = [
    "Choice",
    "Config",
    "ConfigError",
    "DataConfig",
    "Degradation",
    "EvalConfig",
    "LabelNoise",
    "LayerGroup",
    "MixedSource",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "find",
    "from_dict",
    "load",
    "lookup",
    "override",
    "override_choice",
    "to_dict",
    "validate",
]
