"""The wheel: what it holds, and that it works outside of the repository."""

import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

import numpy as np
import pytest
from PIL import Image


def run(*command: object, cwd: pathlib.Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that finds the repository neither in its folder nor on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        sys.executable, "-m", "pip", "wheel", pathlib.Path.cwd(), "--no-deps", "--quiet",
        "--no-build-isolation", "--no-index", "--wheel-dir", folder, cwd=folder,
    )  # fmt: skip
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Return the folder of programs of a new environment with the wheel in it."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    (packages,) = place.glob("lib/python*/site-packages")
    # The dependencies are those of this environment: a path alone, whose own .pth files, such as
    # that of an editable installation, do not count.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable, "-m", "pip", "--python", place / "bin/python", "install", wheel,
        "--no-deps", "--no-index", "--quiet", cwd=place,
    )  # fmt: skip
    return place / "bin"


def test_the_wheel_holds_the_package_and_the_configurations(wheel: pathlib.Path):
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    folder = pathlib.Path("reldepth_jax")
    package = {path.as_posix() for path in folder.rglob("*.py")}
    for data in ("weights/shipped", "demo/page", "demo/graph"):
        package |= {path.as_posix() for path in (folder / data).rglob("*") if path.is_file()}
    configs = {f"reldepth_jax/{path.as_posix()}" for path in pathlib.Path("configs").glob("*.py")}
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == package | configs | {"reldepth_jax/py.typed"}
    for name in ("LICENSE", "NOTICE"):
        assert any(each.endswith(f".dist-info/licenses/{name}") for each in info)


def test_it_trains_and_predicts(programs: pathlib.Path, tmp_path: pathlib.Path):
    where = "import reldepth_jax; print(reldepth_jax.__file__)"
    module = pathlib.Path(run(programs / "python", "-c", where, cwd=tmp_path).stdout.strip())
    assert module.is_relative_to(programs.parent)
    reldepth = programs / "reldepth"
    assert "train-until-done" in run(reldepth, "--help", cwd=tmp_path).stdout
    options = ["--config", "smoke", "--config.train.steps=2", "--config.train.eval_every=2"]
    run(reldepth, "train", *options, cwd=tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    run(reldepth, "predict", "photo.png", "--workdir", "runs/smoke", cwd=tmp_path)
    run(reldepth, "predict", "photo.png", "--offline", "--output", "shipped", cwd=tmp_path)
    for output in ("out", "shipped"):
        with Image.open(tmp_path / output / "photo.png") as depth:
            assert depth.size == (60, 40)
    done = run(reldepth, "benchmark", "--parts", "step", cwd=tmp_path, code=2)
    assert done.stderr.startswith("error: --parts needs the folder benchmarks/")
    assert len(done.stderr.splitlines()) == 1
