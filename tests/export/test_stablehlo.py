"""StableHLO files: the function, in a process that does not have this package, at any size."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from reldepth_jax import runtime
from reldepth_jax.cli import export as command
from reldepth_jax.config import ConfigError
from reldepth_jax.export import stablehlo_file, traced, verification
from reldepth_jax.inference import networks
from reldepth_jax.weights import presets
from tests.export.networks import (
    BAR,
    error,
    expected,
    images,
    random_weights,
    small,
    tiny_encoders,
)
from tests.parity import test_transformer_parity as transformers

__all__ = ["tiny_encoders"]

ELSEWHERE = """
import sys
sys.modules["reldepth_jax"] = None  # whatever imports it, fails
import jax, numpy as np
network = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
assert set(network.platforms) == {"cpu", "cuda"}
for place, path in enumerate(sys.argv[2:]):
    np.save(f"{path}.out.npy", network.call(np.load(path)))
"""


def test_it_agrees_with_torch_in_a_process_without_this_package(tmp_path: pathlib.Path):
    """A transformer: odd numbers of patches, and the grid of its table of positions."""
    module = transformers.reference("depth_anything_v2_vits")
    sizes = [(56, 70), (70, 70)]
    with runtime.for_any_device():
        model, preset = transformers.ours("depth_anything_v2_vits", module)
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


def test_the_command_writes_it_with_its_facts_beside_or_nothing(
    tiny_encoders: None,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    model = random_weights(small(presets.get("sgrl")))
    networks.save_model(model, tmp_path / "x.safetensors")
    path = tmp_path / "x.stablehlo"
    words = ["--weights", str(tmp_path / "x.safetensors"), "--output", str(path)]
    with monkeypatch.context() as patch:
        patch.setattr(traced, "function", lambda model: lambda x: x[..., 0] * 2)
        with pytest.raises(verification.ExportError, match="differs"):
            command.main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    mine = tmp_path / "x.stablehlo.json"
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"x\.stablehlo\.json exists; choose another name"):
        command.main(words)
    mine.unlink()
    with pytest.raises(ConfigError, match=r"x\.safetensors is a file; name another place"):
        command.main([*words[:3], str(tmp_path / "x.safetensors" / "y.stablehlo")])

    assert command.main(words) == 0
    assert "larger is nearer" in capsys.readouterr().out
    about = json.loads((tmp_path / "x.stablehlo.json").read_text(encoding="utf-8"))
    assert about["larger_is"] == "nearer"
    # No form that is for CPU alone: a convolution is a convolution.
    text = jax.export.deserialize(bytearray(path.read_bytes())).mlir_module()
    assert text.count("stablehlo.convolution") >= 20
    with pytest.raises(ConfigError, match="--float16 belongs to the formats onnx and hub"):
        command.main([*words, "--force", "--float16"])
