"""Names in the files of HuggingFace's `transformers`, where they are no plain prefixes."""

import re
from collections.abc import Mapping

from reldepth_jax.weights.presets.base import Names, substitute

OLD = ("attention.attention.query", "attention.attention.key", "attention.attention.value")
"""Queries, keys and values of a block, whose arrays are one below the other in the originals."""


def names(
    key: str,
    *,
    prefixes: Mapping[str, str],
    layer: str,
    block: Mapping[str, str],
    parts: tuple[str, str, str] = OLD,
) -> Names:
    """Return the name, or those of queries, keys and values, for one of ours.

    Args:
      prefixes: as of `substitute`, outside of blocks.
      layer: what stands before the number of a block.
      block: as `prefixes`, inside of blocks.
    """
    found = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", key)
    if found is None:
        return substitute(key, prefixes)
    front, inner = f"{layer}.{found[1]}", found[2]
    if inner.startswith("attn.qkv."):
        leaf = inner.removeprefix("attn.qkv.")
        return tuple(f"{front}.{part}.{leaf}" for part in parts)
    return f"{front}.{substitute(inner, block)}"


def decoder_names() -> dict[str, str]:
    """Return the names of the maps, the fusion stages and their residual units, coarsest first."""
    found = {"decoder.fusion.3.lateral": "neck.fusion_stage.layers.0.residual_layer2"}
    for k in range(4):
        reassemble, tap = f"decoder.reassemble.{k}", f"neck.reassemble_stage.layers.{k}"
        found[f"{reassemble}.readout"] = f"neck.reassemble_stage.readout_projects.{k}.0"
        found[f"{reassemble}.project"] = f"{tap}.projection"
        found[f"{reassemble}.resize"] = f"{tap}.resize"
        stage, theirs = f"decoder.fusion.{k}", f"neck.fusion_stage.layers.{3 - k}"
        found[f"{stage}.transition"] = f"neck.convs.{k}"
        found[f"{stage}.narrow_after"] = f"{theirs}.projection"
        found.setdefault(f"{stage}.lateral", f"{theirs}.residual_layer1")
        found[f"{stage}.post"] = f"{theirs}.residual_layer2"
    return found


def unit_names(key: str, name: str) -> str:
    """Return `name` with the convolutions of a residual unit as they are called there."""
    if key.startswith("decoder.fusion."):
        return re.sub(r"(residual_layer\d)\.conv(\d)", r"\1.convolution\2", name)
    return name


DEAD = ("neck.fusion_stage.layers.0.residual_layer1.",)
"""Beginnings of keys that take no part in the output: the first unit of the coarsest stage."""
