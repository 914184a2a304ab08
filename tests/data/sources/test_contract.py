"""One contract for every data source: a new file is tested the moment it exists.

It is also what a file in a folder of RELDEPTH_PLUGINS is tested with. Its data set is written by
`tests/fixtures/NAME.py`, or by the function that the source is registered with as `example`.
"""

import importlib
import importlib.util
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reldepth_jax import config, registry
from reldepth_jax.data import checks
from reldepth_jax.data.cropping import Crop, WholeSample, open_sample
from reldepth_jax.data.data_set import declared
from reldepth_jax.data.prepared import shards, writing
from reldepth_jax.data.reading.files import DataError
from reldepth_jax.data.reading.records import PARTS
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Source

# Tests may add sources of their own.
NAMES = [name for name, e in SOURCES.entries.items() if e.module.startswith("reldepth_jax.")]
DATA_SETS = [name for name in checks.data_sets() if name in NAMES]
PREPARED = [name for name in DATA_SETS if "prepared" in SOURCES.lookup(name).options]
EXTRAS = {"motorcycle": "skimage", "vizdoom": "vizdoom"}
"""Packages without which there are no samples."""


def writer(name: str) -> Callable[[pathlib.Path], None]:
    """Return what writes the data set of a source into a folder."""
    example = SOURCES.extras(name).get("example")
    return example or importlib.import_module(f"tests.fixtures.{name}").write


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], pathlib.Path]:
    """Return what gives the folder of a data set, written once."""
    written: dict[str, pathlib.Path] = {}

    def folder(name: str) -> pathlib.Path:
        if name not in written:
            written[name] = tmp_path_factory.mktemp(name)
            writer(name)(written[name])
        return written[name]

    return folder


def assert_equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("name", NAMES)
def test_a_source_keeps_the_contract(name: str, example):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name], reason="the samples come with this package")
    options = SOURCES.lookup(name).options
    given = {"root": str(example(name))} if "root" in options else {}
    refused = []
    for split in PARTS:
        try:
            source = SOURCES.create(name, split=split, size=(32, 64), **given)
        except DataError as error:
            refused.append((split, str(error)))
        else:
            check(source)
    assert len(refused) < len(PARTS)
    assert all(f"{name} has no {split} split" in error for split, error in refused)


def check(source: Source) -> None:
    sample: Any = source[len(source) - 1]
    height, width = sample["depth"].shape
    assert sample["image"].shape == (height, width, 3)
    assert sample["mask"].shape == (height, width)
    dtypes = {"image": np.uint8, "depth": np.float32, "mask": np.bool_, "pairs": np.int32}
    assert sample.keys() <= dtypes.keys()
    assert all(values.dtype == dtypes[key] for key, values in sample.items())
    assert (sample["depth"][sample["mask"]] >= 0).all()  # neither negative nor NaN
    assert ("pairs" in sample) == (source.pairs_per_image > 0)
    if "pairs" in sample:
        assert len(sample["pairs"]) > 0
        limits = (height, width, height, width)
        assert (sample["pairs"][:, :4] >= 0).all()
        assert (sample["pairs"][:, :4] < limits).all()
        assert set(sample["pairs"][:, 4].tolist()) <= {-1, 0, 1}
    else:
        assert sample["mask"].any()

    assert_equal(sample, source[len(source) - 1])
    assert_equal(sample, pickle.loads(pickle.dumps(source))[len(source) - 1])
    with pytest.raises(IndexError):
        source[len(source)]
    names = getattr(source, "names", lambda: None)()
    assert names is None or len(set(names)) == len(names) == len(source)

    # A part is what is cut out of the whole, and no more: nothing is resized here.
    opened = open_sample(source, len(source) - 1)
    assert opened.size == (height, width)
    np.testing.assert_array_equal(opened.pairs, sample.get("pairs", np.zeros((0, 5))))
    crop = Crop((height, width), (height, width), (3, 5), (height // 2, width // 3), mirrored=True)
    part = opened.read(crop)
    assert_equal(part, WholeSample(sample).read(crop))
    inside = (slice(3, 3 + height // 2), slice(5, 5 + width // 3))
    np.testing.assert_array_equal(part["image"], sample["image"][inside][:, ::-1])
    np.testing.assert_array_equal(part["depth"], sample["depth"][inside][:, ::-1])


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_data_set_is_as_declared_and_the_doctor_is_silent(name: str, example):
    data_set, root = declared(name).data_set, example(name)
    assert data_set.name == name
    assert set(data_set.counts) <= set(data_set.parts)
    for part in PARTS:
        records = data_set.read(str(root), part)
        assert (records is None) <= (part not in data_set.parts) or part == "val"
        for index in range(len(records or ())):
            record = records[index]
            assert record["maps"].keys() == data_set.maps.keys()
            assert {n: record["maps"][n].dtype for n in data_set.dtypes} == data_set.dtypes
            assert (len(record["pairs"]) > 0) == data_set.pairs
            assert records.places(index).keys() >= {"image"}
    examination = checks.Examination(name, str(root), partial=True, threads=2)
    assert list(examination.findings()) == []


@pytest.mark.parametrize("name", PREPARED)
def test_shards_hold_the_records_of_the_folder_in_its_order(
    name: str, example, tmp_path: pathlib.Path
):
    root, data_set = str(example(name)), declared(name).data_set
    writing.prepare(name, root, str(tmp_path), partial=True, say=lambda line: None)
    writing.verify(name, str(tmp_path), root, say=lambda line: None)
    found = 0
    for part in PARTS:
        records, again = data_set.read(root, part), shards.read_part(name, str(tmp_path), part)
        assert (records is None) == (again is None)
        if again is None:
            continue
        again = pickle.loads(pickle.dumps(again))
        assert len(again) == len(records)
        for index in range(len(records)):
            one, other = records[index], again[index]
            assert (one["name"], one["image"]) == (other["name"], other["image"])
            assert_equal(one["maps"], other["maps"])
            assert_equal({"pairs": one["pairs"]}, {"pairs": other["pairs"]})
            assert all(values.flags.writeable for values in other["maps"].values())
        for index in (-1, len(records)):
            with pytest.raises(IndexError):
                again[index]
        found += len(records)
    assert found >= 5
    assert "tensorflow" not in sys.modules
    assert not list(tmp_path.glob("*/incomplete*"))
    for split in ("train", "val"):
        folder, prepared = (
            SOURCES.create(name, split=split, size=(1, 1), **given)
            for given in ({"root": root}, {"prepared": str(tmp_path)})
        )
        assert_equal(folder[0], prepared[0])


TOY = '''
"""Toy: photographs with depth in centimetres, brighter is farther."""

import dataclasses

import numpy as np
from PIL import Image

from reldepth_jax.data.data_set import DataSetSource
from reldepth_jax.data.reading.declaration import DataSet, Files, Folders, Map
from reldepth_jax.registry import SOURCES


def write(root):
    for number in range(8):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (40, 60, 3), np.uint8)
        depth = 500 - 10 * np.arange(40)[:, None] + rng.integers(0, 5, 60)
        depth[:, 0] = 0
        for kind, pixels in (("photos", image), ("cm", depth.astype(np.uint16))):
            (root / "toy" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / f"toy/{kind}/{number}.png")


@SOURCES.register("toy", example=write)
@dataclasses.dataclass(frozen=True)
class Toy(DataSetSource):
    data_set = DataSet(
        name="toy",
        parts=("train",),
        counts={"train": 8},
        layout=Folders(
            {
                "image": Files(("photos",), {".png"}, "photographs"),
                "cm": Files(("cm",), {".png"}, "depth maps"),
            },
            above=("toy",),
        ),
        maps={"cm": Map(np.dtype(np.uint16))},
    )

    split: str
    size: tuple[int, int]
    root: str = ""
    prepared: str = ""
    validation: int = 2
    unit: float = 0.01

    def truth(self, maps, crop, path):
        values = crop.map(maps["cm"])
        return {"depth": values * np.float32(self.unit), "mask": values > 0}
'''


def test_a_new_data_set_is_one_new_file(plugin_folder: pathlib.Path, tmp_path: pathlib.Path):
    (plugin_folder / "toy.py").write_text(TOY)
    registry.extend(plugin_folder)
    root = tmp_path / "data"
    writer("toy")(root)

    # Reading, by options from the command line.
    changed = config.override(
        config.Config(),
        {"data.source.name": "toy", "data.source.root": str(root), "data.source.unit": "0.02"},
    )
    config.validate(changed)
    source = SOURCES.create("toy", split="train", size=(1, 1), **changed.data.source.options)
    assert len(source) == 6
    held = np.sort(np.argsort(np.random.Philox(0).random_raw(8), kind="stable")[:2])
    first = min(set(range(8)) - set(held.tolist()))
    values = np.asarray(Image.open(root / f"toy/cm/{first}.png"))
    np.testing.assert_allclose(source[0]["depth"], 0.02 * values, rtol=1e-6)
    np.testing.assert_array_equal(source[0]["mask"], values > 0)
    with pytest.raises(DataError, match="toy has no test split"):
        SOURCES.create("toy", split="test", size=(1, 1), root=str(root))

    # Shards, written by another process.
    lines: list[str] = []
    out = str(tmp_path / "out")
    writing.prepare("toy", str(root), out, workers=1, say=lines.append)
    assert "train 8 records" in lines[-1]

    # The doctor finds what is wrong.
    (root / "toy/cm/1.png").unlink()
    Image.new("L", (60, 40)).save(root / "toy/cm/2.png")
    Image.new("I;16", (50, 40)).save(root / "toy/cm/3.png")
    found = list(checks.Examination("toy", str(root)).findings())
    assert {(f.severity, f.check, os.path.relpath(f.place, root)) for f in found} == {
        ("error", "partner", "toy/photos/1.png"), ("error", "map type", "toy/cm/2.png"),
        ("error", "size", "toy/cm/3.png"), ("warning", "counts", "."),
    }  # fmt: skip

    # The contract tests take it up by themselves.
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "toy"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 passed" in result.stdout
