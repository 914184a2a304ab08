"""Measure how fast training reads: the original folder against prepared shards.

python scripts/measure_reading.py

Makes photographs (JPEG, 640x480, quality 90) with 16-bit PNG depth, prepares them as shards, and
reads the same records both ways, in turn: `read + decode` in plain threads, `pipeline` through
data.pipeline.train_batches (random crop of 384x384, flip, batches of 8). Files are in the page
cache. Prints a table in Markdown: median and range over the rounds, examples a second.
"""

import argparse
import dataclasses
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
    from reldepth_jax.data.cropping import Crop, Truth
    from reldepth_jax.data.data_set import DataSetSource, Maps
    from reldepth_jax.data.images import io
    from reldepth_jax.data.pipeline import train_batches
    from reldepth_jax.data.prepared import shards, writing
    from reldepth_jax.data.reading.declaration import DataSet, Map, OwnFormat
    from reldepth_jax.data.reading.records import FileRecords, Part
    from reldepth_jax.registry import SOURCES, Entry
    from reldepth_jax.types import Split

    def read_folder(root: str, part: Part) -> FileRecords:
        del part
        names = [f"{number:05}" for number in range(options.images)]
        images, maps = (
            tuple(os.path.join(root, f"{name}.{kind}") for name in names) for kind in ("jpg", "png")
        )
        return FileRecords(root, images, {"depth": maps})

    @SOURCES.register("measured")
    @dataclasses.dataclass(frozen=True)
    class Measured(DataSetSource):
        """Photographs with 16-bit depth."""

        data_set = DataSet(
            name="measured",
            parts=("train",),
            counts={"train": options.images},
            layout=OwnFormat(read_folder),
            maps={"depth": Map(np.dtype(np.uint16))},
        )

        split: Split
        size: tuple[int, int]
        root: str = ""
        prepared: str = ""

        def truth(self, maps: Maps, crop: Crop, path: str) -> Truth:
            depth = crop.map(maps["depth"]).astype(np.float32)
            return {"depth": depth, "mask": depth > 0}

    SOURCES.entries["measured"] = Entry("dataclasses", {})

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

    def only_reading(source: Measured, threads: int) -> float:
        order = np.random.default_rng(1).integers(0, len(source), options.examples)
        with futures.ThreadPoolExecutor(threads) as pool:
            start = time.perf_counter()
            for _ in pool.map(source.__getitem__, map(int, order)):
                pass
            return options.examples / (time.perf_counter() - start)

    def pipeline(source: Measured, threads: int) -> float:
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
        writing.prepare("measured", str(root), data_dir, say=lambda line: None)
        ways = {
            "folder": Measured("train", (0, 0), root=str(root)),
            "shards": Measured("train", (0, 0), prepared=data_dir),
        }
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
