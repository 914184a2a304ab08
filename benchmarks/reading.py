"""Part: what a core of the host reads and prepares for training, stage by stage."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.context import Context
from benchmarks.photographs import photograph
from benchmarks.report import Part, Row
from reldepth_jax import processor
from reldepth_jax.cli.timing import Seconds
from reldepth_jax.config import Config
from reldepth_jax.types import Sample, Source

PHOTO, LARGE = (480, 640), (1440, 1920)
BATCH = 8
FOLDER, SHARDS = "folder", "shards"

Stage = Callable[[], Seconds]
"""Does it once for all examples; returns one value each, seconds of one example."""


def reading(context: Context) -> Part:
    """Time decoding, cropping, augmentation and batching, and the pipeline as a whole."""
    from reldepth_jax.registry import SOURCES

    images, examples = (16, 32) if context.quick else (96, 192)
    config = context.settings(size=context.size, batch=BATCH)
    crop: Any = {"split": "train", "size": config.data.crop, "validation": 1}
    with tempfile.TemporaryDirectory() as place:
        roots = {size: pathlib.Path(place, str(size[0])) for size in (PHOTO, LARGE)}
        write(roots[PHOTO], images, PHOTO)
        write(roots[LARGE], max(4, images // 8), LARGE)
        source: Source = SOURCES.create("redweb", root=str(roots[PHOTO]), **crop)
        ways = {FOLDER: source}
        with context.trying("prepared shards"):
            ways[SHARDS] = SOURCES.create("redweb", prepared=_prepare(place, roots[PHOTO]), **crop)
        large = SOURCES.create("redweb", root=str(roots[LARGE]), **crop)
        stages = _stages(config, roots[PHOTO], source, examples)
        for what, whole in (("an example, one thread", False), ("the same, whole image", True)):
            for way, each in ways.items():
                stages[what, way] = _each(_example(config, each, whole), len(each), examples)
        for way, each in ways.items():
            stages["pipeline", way] = lambda each=each: _pipeline(config, each, examples)
        stages[f"pipeline, {LARGE[1]}x{LARGE[0]}", FOLDER] = lambda: _pipeline(
            config, large, max(2 * BATCH, examples // 4)
        )
        taken = _in_turn(context, stages)
    rows = [
        Row(what, who, seconds.wall, "s", seconds.cpu, _rate(what, seconds, context))
        for (what, who), seconds in taken.items()
    ]
    context.say(
        f"Per image: {PHOTO[1]}x{PHOTO[0]} JPEG (quality 90) and 8-bit PNG in ReDWeb's layout,"
        f" files in the page cache, crop {context.size}x{context.size}, batches of {BATCH},"
        f" {config.data.threads} threads in the pipeline, one elsewhere. Images/s a core: by CPU"
        " time. Cores: for the step as fast as measured here, largest batch."
    )
    return Part("input", "Input pipeline, seconds an image", rows, context.taken_notes())


def write(root: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Write photographs with the detail of real ones, and smooth maps, as ReDWeb lays them out."""
    for name in ("Imgs", "RDs"):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    extent = size[1], size[0]
    for number in range(count):
        picture = Image.fromarray(photograph(rng, size))
        picture.save(root / f"Imgs/{number:05}.jpg", quality=90)
        coarse = Image.fromarray(rng.integers(0, 255, (6, 8), np.uint8))
        coarse.resize(extent, Image.Resampling.BICUBIC).save(root / f"RDs/{number:05}.png")


def _prepare(place: str, root: pathlib.Path) -> str:
    from reldepth_jax.data.prepared import writing

    out = os.path.join(place, "prepared")
    writing.prepare("redweb", str(root), out, partial=True, say=lambda line: None)
    return out


def _stages(
    config: Config, root: pathlib.Path, source: Source, examples: int
) -> dict[tuple[str, str], Stage]:
    from reldepth_jax.data.images import io
    from reldepth_jax.data.transforms import TrainTransform

    photos = [io.read_bytes(path) for path in sorted((root / "Imgs").iterdir())]
    maps = sorted((root / "RDs").iterdir())
    samples = [source[index] for index in range(min(BATCH, len(source)))]
    plain = TrainTransform(config.data.crop)
    jittered = dataclasses.replace(plain, color_jitter=0.2, gamma_jitter=0.2)
    cropped = [plain(sample, np.random.default_rng(0)) for sample in samples]

    def through(transform: TrainTransform) -> Callable[[int], Sample]:
        rng = np.random.default_rng(0)
        return lambda index: transform(samples[index], rng)

    def stack(index: int) -> dict[str, np.ndarray]:
        del index
        keys = ("image", "depth", "mask")
        return {key: np.stack([each[key] for each in cropped]) for key in keys}

    return {
        ("decode JPEG", FOLDER): _each(
            lambda i: io.decode_image(photos[i], "photo"), len(photos), examples
        ),
        ("decode PNG", FOLDER): _each(lambda i: io.read_values(maps[i]), len(maps), examples),
        ("crop, resize, flip", FOLDER): _each(through(plain), len(samples), examples),
        ("the same, colours and gamma", FOLDER): _each(through(jittered), len(samples), examples),
        ("batching", FOLDER): _each(stack, 1, examples, each=len(cropped)),
    }


def _example(config: Config, source: Source, whole: bool) -> Callable[[int], Sample]:
    """Return what training does of a sample: it reads what the crop shows, or the whole image."""
    from reldepth_jax.data.cropping import open_sample
    from reldepth_jax.data.transforms import TrainTransform

    transform, rng = TrainTransform(config.data.crop), np.random.default_rng(0)
    read = source.__getitem__ if whole else functools.partial(open_sample, source)
    return lambda index: transform(read(index), rng)


def _each(do: Callable[[int], Any], count: int, examples: int, each: int = 1) -> Stage:
    """Return what does it for index after index below `count`; one call makes `each` examples."""

    def stage() -> Seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        for index in itertools.islice(itertools.cycle(range(count)), examples):
            do(index)
        return _per(examples * each, wall, cpu)

    return stage


def _pipeline(config: Config, source: Source, examples: int) -> Seconds:
    from reldepth_jax.data.pipeline import train_batches

    batches = train_batches(config, [source], start=0)
    with contextlib.closing(batches):  # type: ignore[arg-type]: grain's iterators have it
        # What is prefetched beyond the last batch was so beyond the first as well.
        for _ in range(config.data.prefetch + 1):
            next(batches)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(examples // BATCH):
            next(batches)
        return _per(examples // BATCH * BATCH, wall, cpu)


def _per(examples: int, wall: float, cpu: float) -> Seconds:
    used = time.process_time() - cpu
    return Seconds([(time.perf_counter() - wall) / examples], [used / examples])


def _in_turn(
    context: Context, stages: dict[tuple[str, str], Stage]
) -> dict[tuple[str, str], Seconds]:
    taken = {key: Seconds([], []) for key in stages}
    total = (context.rounds + 1) * len(stages)
    with context.bar("input") as progress:
        for turn in range(context.rounds + 1):
            for place, (key, stage) in enumerate(stages.items()):
                progress(turn * len(stages) + place, total)
                found = stage()
                if turn:  # the first warms up
                    taken[key].wall.extend(found.wall)
                    taken[key].cpu.extend(found.cpu)
    return taken


def _rate(what: str, seconds: Seconds, context: Context) -> str:
    a_core = 1 / statistics.median(seconds.cpu)
    told = f"{a_core:.4g} images/s a core"
    if what.startswith("pipeline") and context.images_per_second:
        needed = context.images_per_second[max(context.images_per_second)] / a_core
        told += f"; the step needs {needed:.2g} of {processor.cores()} cores"
    return told
