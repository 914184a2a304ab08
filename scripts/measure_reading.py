"""Measure how fast training reads: the original folder against prepared shards.

python scripts/measure_reading.py

Makes photographs (JPEG, 640x480, quality 90) with 16-bit PNG depth, prepares them as shards, and
reads the same records both ways, in turn: `read + decode` in plain threads, `pipeline` through
data.pipeline.train_batches (random crop of 384x384, flip, batches of 8). Files are in the page
cache. Prints a table in Markdown: median and range over the rounds, examples a second.
"""

import argparse
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from concurrent import futures

from reldepth_jax.cli import command


def main() -> int:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200, help="different ones, default: 200")
    parser.add_argument("--examples", type=int, default=400, help="of a round, default: 400")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    options, _ = command.parse(parser)

    # Only now, because importing JAX takes longer than telling a mistake.
    import grain
    import jax
    import numpy as np
    import tensorflow_datasets as tfds
    from PIL import Image

    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
    from benchmarks.photographs import photograph
    from reldepth_jax import config
    from reldepth_jax.data.cropping import ChooseCrop, whole
    from reldepth_jax.data.images import io
    from reldepth_jax.data.images.photograph import Photograph
    from reldepth_jax.data.pipeline import train_batches
    from reldepth_jax.data.prepared import builders, prepare, shards
    from reldepth_jax.data.reading.records import FileRecords, Part, Records
    from reldepth_jax.types import Sample

    class Measured:
        """What the builders need to know of a data set: here one with 16-bit depth."""

        COUNTS: dict[Part, int] = {"train": options.images}
        MAPS = {"depth": np.dtype(np.uint16)}

        @staticmethod
        def read_part(root: str, part: Part) -> FileRecords | None:
            names = [f"{number:05}" for number in range(options.images)]
            images, maps = (
                tuple(os.path.join(root, f"{name}.{kind}") for name in names)
                for kind in ("jpg", "png")
            )
            return FileRecords(root, images, {"depth": maps}) if part == "train" else None

    class Builder(builders.RecordsBuilder, skip_registration=True):
        name = "measured"

        @classmethod
        def reader(cls) -> type[Measured]:
            return Measured

    builders.BUILDERS["measured"] = Builder

    class Source:
        """The same decoding for both ways."""

        pairs_per_image = 0

        def __init__(self, records: Records):
            self.records = records

        def __len__(self) -> int:
            return len(self.records)

        def __getitem__(self, index: int) -> Sample:
            return self.read_crop(index, whole)

        def read_crop(self, index: int, choose: ChooseCrop) -> Sample:
            record = self.records[index]
            photo = Photograph(record["image"], record["name"])
            crop = choose(*photo.size, record["pairs"])
            depth = crop.map(record["maps"]["depth"]).astype(np.float32)
            return {"image": crop.image(photo), "depth": depth, "mask": depth > 0}

    def write(root: pathlib.Path) -> None:
        root.mkdir()
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[:480, :640]
        for number in range(options.images):
            image = Image.fromarray(photograph(rng, (480, 640)))
            image.save(root / f"{number:05}.jpg", quality=90)
            depth = 1000 + 8000 * (1 - rows / 480) + 300 * np.sin(columns / rng.uniform(20, 60))
            depth = depth + rng.normal(0, 3, depth.shape)
            io.write_png(root / f"{number:05}.png", depth.astype(np.uint16))

    def only_reading(source: Source, threads: int) -> float:
        order = np.random.default_rng(1).integers(0, len(source), options.examples)
        with futures.ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            for _ in pool.map(source.__getitem__, map(int, order)):
                pass
            return options.examples / (time.perf_counter() - start)

    def pipeline(source: Source, threads: int) -> float:
        settings = config.override(
            config.Config(),
            {"data.crop": "(384, 384)", "data.batch_size": "8", "data.threads": str(threads),
             "data.prefetch": "2", "data.workers": "0"},
        )  # fmt: skip
        batches = train_batches(settings, [source], start=0)
        # Enough for what was prefetched before the clock started to be a small part.
        for _ in range(4):
            next(batches)
        start = time.perf_counter()
        for _ in range(options.examples // 8):
            next(batches)
        seconds = time.perf_counter() - start
        batches.close()  # type: ignore[attr-defined]: grain has it
        return options.examples // 8 * 8 / seconds

    with tempfile.TemporaryDirectory() as place:
        root, data_dir = pathlib.Path(place, "folder"), os.path.join(place, "prepared")
        write(root)
        prepare.prepare("measured", str(root), data_dir, say=lambda line: None)
        folder, prepared = Measured.read_part(str(root), "train"), None
        prepared = shards.read_part("measured", data_dir, "train")
        assert folder is not None
        assert prepared is not None
        ways = {"folder": Source(folder), "shards": Source(prepared)}
        rows = []
        for what, measure in (("read + decode", only_reading), ("pipeline", pipeline)):
            for threads in (1, 2):
                rates: dict[str, list[float]] = {way: [] for way in ways}
                for turn in range(options.rounds + 1):
                    for way, source in ways.items():
                        rate = measure(source, threads)
                        if turn:  # the first warms up
                            rates[way].append(rate)
                rows.append((what, threads, rates))
        sizes = {
            kind: [p.stat().st_size for p in root.glob(f"*.{kind}")] for kind in ("jpg", "png")
        }
        written = shards.describe(shards.newest("measured", data_dir))["parts"]["train"]

    def cell(values: list[float]) -> str:
        return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"

    print(
        "| examples/s | threads | folder | shards | shards / folder |\n"
        "| --- | --- | --- | --- | --- |"
    )
    for what, threads, rates in rows:
        ratios = [b / a for a, b in zip(rates["folder"], rates["shards"], strict=True)]
        print(
            f"| {what} | {threads} | {cell(rates['folder'])} | {cell(rates['shards'])}"
            f" | {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    print(
        f"\n{options.images} images, JPEG {np.mean(sizes['jpg']) / 1e3:.0f} KB, PNG"
        f" {np.mean(sizes['png']) / 1e3:.0f} KB, in shards"
        f" {sum(written['shard_bytes']) / options.images / 1e3:.0f} KB an example."
        f" {options.rounds} rounds of {options.examples} examples, in turn; median (range)."
        f" {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, jax"
        f" {jax.__version__}, grain {grain.__version__}, tfds {tfds.__version__}."
    )
    return 0


if __name__ == "__main__":
    command.run(main)
