"""StableHLO files: the function, in a process that does not have this package, at any size."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from reldepth_jax import runtime
from reldepth_jax.export import stablehlo_file
from tests.export.test_onnx import BAR, error, expected, images
from tests.parity import test_transformer_parity as transformers

ELSEWHERE = """
import sys
sys.modules["reldepth_jax"] = None  # whatever imports it, fails
import jax, numpy as np
network = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert set(network.platforms) == {"cpu", "cuda"}
for place, path in enumerate(sys.argv[2:]):
    np.save(f"{path}.out.npy", network.call(np.load(path)))
"""


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("depth_anything_v2_vits", [(56, 70), (70, 70)]),
        ("dpt_hybrid", [(48, 32)]),
    ],
)
def test_it_agrees_with_torch_in_a_process_without_this_package(
    name: str, sizes: list[tuple[int, int]], tmp_path: pathlib.Path
):
    module = transformers.reference(name)
    with runtime.for_any_device():
        model, preset = transformers.ours(name, module)
        data = stablehlo_file.serialised(
            lambda image: model.raw(image.transpose(0, 2, 3, 1)), preset.model.multiple
        )
    (tmp_path / "network").write_bytes(data)
    paths = []
    for place, size in enumerate(sizes):
        paths.append(tmp_path / f"{place}.npy")
        np.save(paths[-1], images(size))
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "network"), *map(str, paths)], check=True
    )
    for path, size in zip(paths, sizes, strict=True):
        got = np.load(f"{path}.out.npy")
        assert error(got, expected(module, images(size))) < BAR
