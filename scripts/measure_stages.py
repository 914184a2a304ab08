"""Measure what a training example costs a core of the host, stage by stage.

python scripts/measure_stages.py

Photographs (JPEG, quality 90) of two sizes with 16-bit PNG depth, and shards of the same, are read
for crops of two sizes. `whole, then cut out` decodes everything and cuts it out afterwards, as
samples of a source that has no `open` are; `only what is shown` is what training does. CPU
time of one thread, files in the page cache; stages in turn, median over the rounds. Prints tables
in Markdown: milliseconds an example, examples a second and core, and how many cores a device needs
that takes 950 or 2100 images/s.
"""

import argparse
import itertools
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from reldepth_jax.cli import command
from reldepth_jax.config import LabelNoise
from reldepth_jax.data.cropping import Crop, Opened, OpenedPhotograph, Truth, open_sample
from reldepth_jax.data.images import io
from reldepth_jax.data.images.photograph import Photograph, Pixels
from reldepth_jax.data.label_noise import noisy_depth
from reldepth_jax.data.prepared import shards
from reldepth_jax.data.reading.records import Record
from reldepth_jax.data.transforms import TrainTransform, apply_gamma, jitter_colors
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import NO_PAIRS, Sample

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks import photographs

SIZES = ((480, 640), (1500, 2000))
CROPS = ((384, 384), (96, 128))
RATES = (950, 2100)
BATCH = 8

Stage = Callable[[int], Any]
"""Does it for one of the samples."""


def main() -> int:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8, help="of each size, default: 8")
    parser.add_argument("--rounds", type=int, default=5, help="over all of them, default: 5")
    options, _ = command.parse(parser)
    with tempfile.TemporaryDirectory() as place:
        for size, crop in itertools.product(SIZES, CROPS):
            root = pathlib.Path(place, f"{size[1]}x{size[0]}")
            if not root.exists():
                _write(root, size, options.images)
            seconds = _measure(_stages(root, crop, options.images), options)
            print(f"\n{size[1]}x{size[0]}, crop {crop[0]}x{crop[1]}\n")
            print("| stage | ms | examples/s | cores for 950/s | for 2100/s |")
            print("| --- | --- | --- | --- | --- |")
            for name, each in seconds.items():
                needed = " | ".join(f"{rate * each:.2g}" for rate in RATES)
                print(f"| {name} | {1e3 * each:.2f} | {1 / each:.0f} | {needed} |", flush=True)
    return 0


def _write(root: pathlib.Path, size: tuple[int, int], count: int) -> None:
    """Write a folder as the source `folder` reads it, and a shard of the same."""
    for name in ("rgb", "depth"):
        (root / name).mkdir(parents=True)
    rng, (height, width) = np.random.default_rng(0), size
    rows, columns = np.mgrid[:height, :width]
    writer = shards.Writer(str(root / "shard"), {"depth": np.dtype(np.uint16)})
    for number in range(count):
        image = photographs.photograph(rng, size)
        photograph = root / f"rgb/{number:03}.jpg"
        Image.fromarray(image).save(photograph, quality=90)
        waves = 300 * np.sin(columns / rng.uniform(20, 60)) + rng.normal(0, 3, size)
        depth = (1000 + 8000 * (1 - rows / height) + waves).astype(np.uint16)
        io.write_png(root / f"depth/{number:03}.png", depth)
        name, data = photograph.name, photograph.read_bytes()
        writer.write({"name": name, "image": data, "maps": {"depth": depth}, "pairs": NO_PAIRS})
    writer.close()


class _Shards:
    """What sources make of a shard; here 16-bit depth without unit."""

    pairs_per_image = 0

    def __init__(self, path: pathlib.Path, count: int):
        from array_record.python import array_record_module  # type: ignore[attr-defined]: compiled

        self._count = count
        self._features = shards.features({"depth": np.dtype(np.uint16)})
        self._as_stored = {"image": shards.import_tfds().decode.SkipDecoding()}
        self._reader = array_record_module.ArrayRecordReader(str(path), "readahead_buffer_size:0")

    def __len__(self) -> int:
        return self._count

    def record(self, index: int) -> Record:
        stored = self._reader.read([index])[0]
        example = self._features.deserialize_example_np(stored, decoders=self._as_stored)
        return shards.to_record(example)

    def __getitem__(self, index: int) -> Sample:
        return self.open(index).read()

    def open(self, index: int) -> Opened:
        record = self.record(index)

        def truth(crop: Crop) -> Truth:
            depth = crop.map(record["maps"]["depth"]).astype(np.float32)
            return {"depth": depth, "mask": depth > 0}

        return OpenedPhotograph(Photograph(record["image"], record["name"]), truth)


class _Decoded(Photograph):
    """What is left to be done after decoding."""

    def __init__(self, data: bytes, size: tuple[int, int]):
        super().__init__(data, "")
        self._pixels = super().decode(size)

    def decode(self, size: tuple[int, int]) -> Pixels:
        del size
        return self._pixels


def _stages(root: pathlib.Path, crop: tuple[int, int], count: int) -> dict[str, Stage]:
    ranges = {"train": ":", "val": "0:0", "test": "0:0"}
    folder = SOURCES.create("folder", split="train", size=crop, root=str(root), **ranges)
    prepared = _Shards(root / "shard", count)
    transform, rng = TrainTransform(crop), np.random.default_rng(0)
    jpegs = [(root / f"rgb/{number:03}.jpg").read_bytes() for number in range(count)]
    sample = folder[0]
    (height, width), example = sample["depth"].shape, transform(sample, rng)
    scale = max(crop[0] / height, crop[1] / width)
    size = max(crop[0], round(height * scale)), max(crop[1], round(width * scale))
    cut = Crop((height, width), size, (0, 0), crop, mirrored=True)
    decoded = Photograph.of(sample["image"])
    reduced = _Decoded(jpegs[0], size)
    image, depth, mask = example["image"], example["depth"], example["mask"]
    noise = LabelNoise(gain=0.5, offset=0.1, levels=256, wrong=0.05)
    stages: dict[str, Stage] = {
        "decode PNG depth": lambda n: io.read_values(root / f"depth/{n:03}.png"),
        "read and unpack a record of a shard": prepared.record,
        "decode JPEG": lambda n: Photograph(jpegs[n], "").decode((height, width)),
        "decode JPEG, reduced": lambda n: Photograph(jpegs[n], "").decode(size),
        "cut out, resize, mirror image": lambda n: cut.image(decoded),
        "the same, reduced": lambda n: cut.image(reduced),
        "cut out, resize, mirror depth": lambda n: cut.map(sample["depth"]),
        "jitter of colours": lambda n: jitter_colors(image, 1.1, 0.9, 1.2),
        "jitter of gamma": lambda n: apply_gamma(image, 1.1),
        "noise of labels": lambda n: noisy_depth(depth, mask, noise, rng),
        f"stack {BATCH}": lambda n: [np.stack([x] * BATCH) for x in (image, depth, mask)],
    }
    for name, source in (("folder", folder), ("shards", prepared)):
        stages[f"{name}: whole, then cut out"] = lambda n, s=source: transform(s[n], rng)
        stages[f"{name}: only what is shown"] = lambda n, s=source: transform(
            open_sample(s, n), rng
        )
    return stages


def _measure(stages: dict[str, Stage], options: argparse.Namespace) -> dict[str, float]:
    """Return the median CPU time of an example."""
    taken: dict[str, list[float]] = {name: [] for name in stages}
    for turn in range(options.rounds + 1):
        for name, stage in stages.items():
            start = time.thread_time()
            for number in range(options.images):
                stage(number)
            if turn:  # the first warms up
                taken[name].append((time.thread_time() - start) / options.images)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    medians[f"stack {BATCH}"] /= BATCH
    return medians


if __name__ == "__main__":
    command.run(main)
