"""Part: how fast shards are prepared, in this process and by worker processes."""

import os
import pathlib
import shutil
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks.context import Context
from benchmarks.report import Part, Row
from reldepth_jax.cli.timing import spread
from reldepth_jax.data.prepared import writing

DATA_SETS = ("diw", "redweb")
WORKERS = {"this process": 0, "1 worker": 1, "2 workers": 2}
DIFFERENT = 20
"""Files; all other names are links to them."""


def preparing(context: Context) -> Part:
    """Time the preparation of a DIW (JPEG, one pair each) and a ReDWeb (JPEG and 8-bit maps)."""
    images = 100 if context.quick else 600
    seconds: dict[tuple[str, str], list[float]] = {
        (name, who): [] for name in DATA_SETS for who in WORKERS
    }
    with tempfile.TemporaryDirectory() as folder, context.bar("prepare") as progress:
        root = pathlib.Path(folder)
        write(root, images)
        for turn in range(context.rounds):
            for place, (name, who) in enumerate(seconds):
                progress(turn * len(seconds) + place, context.rounds * len(seconds))
                began = time.perf_counter()
                writing.prepare(
                    name, str(root / name), str(root / "out"), workers=WORKERS[who], partial=True,
                    say=lambda line: None,
                )  # fmt: skip
                seconds[name, who].append((time.perf_counter() - began) / images)
                shutil.rmtree(root / "out")
    rows = [
        Row(what, who, taken, note=f"{1 / spread(taken).median:.4g} records/s")
        for (what, who), taken in seconds.items()
    ]
    context.say(f"JPEG 640x480, quality 90, in the page cache; {images} records each.")
    return Part("prepare", "Preparing shards, seconds a record", rows, context.taken_notes())


def write(root: pathlib.Path, count: int) -> None:
    """Write both data sets, `count` records each."""
    rng = np.random.default_rng(0)
    for inside in ("diw/DIW_test", "redweb/Imgs", "redweb/RDs"):
        (root / inside).mkdir(parents=True)
    for number in range(DIFFERENT):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC))
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"redweb/Imgs/{number:05}.jpg", quality=90)
        Image.fromarray(smooth[..., 0]).save(root / f"redweb/RDs/{number:05}.png")
    for number in range(count):
        first = f"{number % DIFFERENT:05}"
        if number >= DIFFERENT:
            os.link(root / f"redweb/Imgs/{first}.jpg", root / f"redweb/Imgs/{number:05}.jpg")
            os.link(root / f"redweb/RDs/{first}.png", root / f"redweb/RDs/{number:05}.png")
        os.link(root / f"redweb/Imgs/{first}.jpg", root / f"diw/DIW_test/{number:05}.thumb")
    lines = [f"./DIW_test/{number:05}.thumb\n1,1,480,640,>,640,480\n" for number in range(count)]
    (root / "diw/DIW_test.csv").write_text("".join(lines))
