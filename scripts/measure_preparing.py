"""Measure how fast shards are prepared, in this process and by worker processes, in turn.

python scripts/measure_preparing.py

Makes a DIW (JPEG 640x480, quality 90, one pair each) and a ReDWeb (the same with 8-bit maps) of
many names for few files, and prepares each with 0, 1 and 2 workers. Files are in the page cache.
Prints a table in Markdown: median and range over the rounds, records a second.
"""

import argparse
import os
import pathlib
import platform
import shutil
import statistics
import tempfile
import time

from reldepth_jax.cli import command

_DIFFERENT = 20
_WORKERS = (0, 1, 2)


def main() -> int:
    """Make the data, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2000, help="of each set, default: 2000")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options, _ = command.parse(parser)

    # Only now, because it takes longer than telling a mistake.
    from reldepth_jax.data.prepared import writing

    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        _make(root, options.images)
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(options.rounds):
            for name in ("diw", "redweb"):
                for workers in _WORKERS:
                    started = time.perf_counter()
                    writing.prepare(
                        name, str(root / name), str(root / "out"), workers=workers, partial=True,
                        say=lambda line: None,
                    )  # fmt: skip
                    rate = options.images / (time.perf_counter() - started)
                    rates.setdefault((name, workers), []).append(rate)
                    shutil.rmtree(root / "out")
    print("| records/s | this process | 1 worker | 2 workers |\n| --- | --- | --- | --- |")
    for name in ("diw", "redweb"):
        cells = [
            f"{statistics.median(found):.0f} ({min(found):.0f}–{max(found):.0f})"
            for found in (rates[name, workers] for workers in _WORKERS)
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{os.cpu_count()} cores, Python {platform.python_version()}, {options.images} records")
    return 0


def _make(root: pathlib.Path, count: int) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for inside in ("diw/DIW_test", "redweb/Imgs", "redweb/RDs"):
        (root / inside).mkdir(parents=True)
    for number in range(_DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"redweb/Imgs/{number:05}.jpg", quality=90)
        Image.fromarray(smooth[..., 0]).save(root / f"redweb/RDs/{number:05}.png")
    for number in range(count):
        first = f"{number % _DIFFERENT:05}"
        if number >= _DIFFERENT:
            os.link(root / f"redweb/Imgs/{first}.jpg", root / f"redweb/Imgs/{number:05}.jpg")
            os.link(root / f"redweb/RDs/{first}.png", root / f"redweb/RDs/{number:05}.png")
        os.link(root / f"redweb/Imgs/{first}.jpg", root / f"diw/DIW_test/{number:05}.thumb")
    lines = [f"./DIW_test/{number:05}.thumb\n1,1,480,640,>,640,480\n" for number in range(count)]
    (root / "diw/DIW_test.csv").write_text("".join(lines))


if __name__ == "__main__":
    command.run(main)
