"""The configuration: what can be set, its meaning, its legal values. Imports no JAX.

A configuration file is Python with `get_config() -> Config`. Overrides on the command line,
`--config.optim.learning_rate=0.1`, are applied by `override`; `validate` then checks every value.
All raise `ConfigError` with one line that names the field and the nearest legal value.

Plug-ins (source, encoder, loss, pair sampler) stand in the configuration as a `Choice`: a name and
options. Options are checked against the plug-in's own source (see `registry`).
"""

from reldepth_jax.config.loading import load, override
from reldepth_jax.config.schema import (
    Choice,
    Config,
    ConfigError,
    DataConfig,
    EvalConfig,
    LabelNoise,
    LayerGroup,
    MixedSource,
    ModelConfig,
    OptimConfig,
    TrainConfig,
)
from reldepth_jax.config.serialisation import from_dict, to_dict
from reldepth_jax.config.validation import lookup, validate

__all__ = [
    "Choice",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "LabelNoise",
    "LayerGroup",
    "MixedSource",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "from_dict",
    "load",
    "lookup",
    "override",
    "to_dict",
    "validate",
]
