"""Each published transformer whole, against its torch module and through files of both layouts.

    python -m tests.parity.whole_networks [NAME...]

Random weights, float32 on both sides, images of two sizes that are not square and of the native
one. Exit code 1 if an error is beyond the bar, or a network with a tanh GELU is not. ViT-S takes
seconds, ViT-L and DPT-Large take minutes on two CPU cores, 8 GB of memory and 3 GB of disk.
"""

import argparse
import dataclasses
import gc
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
import safetensors.torch
import torch
from torch import nn

from reldepth_jax.inference import networks
from reldepth_jax.weights import arrays, convert, presets
from tests.references import hugging_face
from tests.references.torch_dpt import (
    DPT_HYBRID,
    DPT_LARGE,
    VITB,
    VITL,
    VITS,
    DepthAnything,
    Dpt,
    Mlp,
    Sizes,
)
from tests.references.transfer import randomise

BAR = 2e-4
"""Of the output's deviation; a tanh GELU gives 1e-3."""

_LAST_FOUR = {12: (8, 9, 10, 11), 24: (20, 21, 22, 23)}


def _depth_anything(letter: str, size: Sizes) -> dict[str, Sizes]:
    v2, taps = "depth_anything_v2", _LAST_FOUR[size.blocks]
    return {
        f"depth_anything_v1_vit{letter}": dataclasses.replace(size, taps=taps),
        f"{v2}_vit{letter}": size,
        f"{v2}_metric_hypersim_vit{letter}": dataclasses.replace(size, max_depth=20.0),
        f"{v2}_metric_vkitti_vit{letter}": dataclasses.replace(size, max_depth=80.0),
    }


SIZES: dict[str, Sizes] = {
    **_depth_anything("s", VITS),
    **_depth_anything("b", VITB),
    **_depth_anything("l", VITL),
    "dpt_hybrid": DPT_HYBRID,
    "dpt_large": DPT_LARGE,
}


def reference(name: str) -> nn.Module:
    """Return the torch module of a preset."""
    return (Dpt if name.startswith("dpt") else DepthAnything)(SIZES[name])


def images(size: tuple[int, int]) -> np.ndarray:
    """Return an image, float32 (1, h, w, 3) in [0, 1]."""
    return np.random.default_rng(0).uniform(size=(1, *size, 3)).astype(np.float32)


def torch_output(module: nn.Module, size: tuple[int, int]) -> np.ndarray:
    """Return what the torch module makes of the image."""
    with torch.no_grad():
        return module(torch.tensor(images(size).transpose(0, 3, 1, 2))).numpy()


class Agreement(NamedTuple):
    """How far a map is from that of torch."""

    of_deviation: float
    """Largest difference over the deviation of torch's map."""
    of_largest: float
    """The same over the largest value there."""


def agreement(got: np.ndarray, target: np.ndarray) -> Agreement:
    """Compare two maps."""
    assert got.shape == target.shape, (got.shape, target.shape)
    # A dead network would agree with anything.
    assert target.std() > 0.02 * np.abs(target).max()
    difference = float(np.abs(got - target).max())
    return Agreement(difference / float(target.std()), difference / float(np.abs(target).max()))


def through_files(name: str, module: nn.Module, folder: pathlib.Path) -> networks.Model:
    """Return our network from the published file; the other layout, and back, must be the same."""
    state = module.state_dict()
    path = folder / f"{name}.pth"
    torch.save(state, path)
    weights = convert.from_file(path, name)
    path.unlink()

    path = folder / "model.safetensors"
    safetensors.torch.save_file(hugging_face.tensors(state, hybrid=name == "dpt_hybrid"), path)
    theirs = convert.from_file(path, name)
    assert set(theirs.arrays) == set(weights.arrays)
    for key, value in weights.arrays.items():
        np.testing.assert_array_equal(theirs.arrays[key], value, key)
    del theirs  # each copy of the largest network takes 1.4 GB
    path.unlink()

    again = {key: torch.tensor(value) for key, value in convert.to_torch(weights).items()}
    with torch.device("meta"):
        exported = reference(name)
    exported.load_state_dict(again, strict=True, assign=True)
    dead = presets.get(name).dead
    for key, value in exported.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if key in dead else state[key]), key
    del again, exported

    variables = arrays.variables(weights.arrays)
    return networks.Model(weights.model, variables, weights.preprocessing, weights.provenance)


class Row(NamedTuple):
    """What one size of the image gave; times are seconds, ours with compiling."""

    size: tuple[int, int]
    found: Agreement
    torch_seconds: float
    seconds: float
    tanh: float | None
    """Where it was tried: the difference of a tanh GELU, over the deviation."""


def compared(name: str, folder: pathlib.Path) -> Iterator[Row]:
    """Yield a row for each size, the smallest first."""
    module = reference(name)
    randomise(module, seed=1)
    module.eval()
    model = through_files(name, module, folder)
    patch = SIZES[name].patch
    # Odd numbers of patches one way, the other way, and the size of the table of positions.
    sizes = [(18 * patch, 23 * patch), (25 * patch, 16 * patch), (SIZES[name].grid * patch,) * 2]
    for size in sizes:
        began = time.perf_counter()
        target = torch_output(module, size)
        middle = time.perf_counter()
        got = np.asarray(model(images(size)))
        row = Row(size, agreement(got, target), middle - began, time.perf_counter() - middle, None)
        if size == sizes[0]:
            row = row._replace(tanh=agreement(_with_tanh(module, size), target).of_deviation)
        yield row


def _with_tanh(module: nn.Module, size: tuple[int, int]) -> np.ndarray:
    """Return the map of the network with the wrong GELU."""
    layers = [part for part in module.modules() if isinstance(part, Mlp)]
    for part in layers:
        part.approximate = "tanh"
    found = torch_output(module, size)
    for part in layers:
        part.approximate = "none"
    return found


def main(names: list[str]) -> int:
    """Print a table; return 1 if a bar was not kept."""
    failed = False
    print("| network | image | error / deviation | error / largest | tanh GELU | s, torch's |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for row in compared(name, pathlib.Path(folder)):
                tanh = "" if row.tanh is None else f"{row.tanh:.1e}"
                print(
                    f"| `{name}` | {row.size[0]}x{row.size[1]} | {row.found.of_deviation:.1e}"
                    f" | {row.found.of_largest:.1e} | {tanh}"
                    f" | {row.seconds:.1f}, {row.torch_seconds:.1f} |",
                    flush=True,
                )
                failed |= row.found.of_deviation > BAR
                failed |= row.tanh is not None and row.tanh <= BAR
        # The next one is as large.
        gc.collect()
        jax.clear_caches()
    return int(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SIZES)}")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in SIZES]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SIZES)}")
    sys.exit(main(options.names or list(SIZES)))
