"""Whether a change of the code changed a number: hashes of batches, states and evaluations.

python benchmarks/same_numbers.py before.json       # in the root of a checkout, which is used
python benchmarks/same_numbers.py after.json        # in that of another
python benchmarks/same_numbers.py --compare before.json after.json

For each configuration: the first 20 training batches, the state that scripts/train.py saves after
20 steps, and the report that scripts/evaluate.py writes of it. Only results of one machine with the
same packages can be compared: the last bits depend on processor, number of cores and XLA. Exit code
1 if something differs. Takes about 9 minutes on two CPU cores that other jobs use too.
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

STEPS = 20
# Little is validated, and the rate of learning both rises and falls.
TRAINING = {"train.steps": f"{STEPS}", "train.eval_images": "4", "optim.warmup_steps": "5"}
FOLDER = {
    "data.source.train": "0:16",
    "data.source.val": "16:20",
    "data.source.test": "20:24",
    "init_from": "",
}
# Which picture of an animated texture the game shows depends on what it has rendered before: one
# thread asks it, in the same order every time. Validation would ask while batches are prepared.
VIZDOOM = {"data.threads": "1", "data.validation.name": "synthetic"}
CONFIGS: Mapping[str, Mapping[str, str]] = {
    "configs/ranking.py": {},
    "configs/mae.py": {},
    "configs/ranking_lite0.py": {},
    "configs/vizdoom.py:mixed": VIZDOOM,
    "configs/folder.py": FOLDER,
}
"""What else is set for each."""

PARTS = ("batches", "state", "evaluation")
Hashes = dict[str, dict[str, str]]
"""Configuration -> part -> SHA-256."""


def main() -> int:
    """Compute and write, or compare; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", nargs="?", type=pathlib.Path, metavar="OUT.json")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(CONFIGS),
        metavar="CONFIG",
        help="this configuration; may be repeated (default: all)",
    )
    parser.add_argument(
        "--compare", nargs=2, type=pathlib.Path, metavar=("A.json", "B.json"), help="two results"
    )
    options = parser.parse_args()
    if (options.output is None) == (options.compare is None):
        parser.error("give either OUT.json or --compare A.json B.json")
    if options.compare is not None:
        return compare(*(json.loads(path.read_text(encoding="utf-8")) for path in options.compare))
    found = compute(options.only or CONFIGS)
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def compute(configs: Iterable[str]) -> Hashes:
    """Return the hashes of the checkout in the current directory; prints them as they come."""
    _use_checkout()
    found: Hashes = {}
    print(f"{'':<26}{'seconds':>7}  " + "".join(f"{part:<18}" for part in PARTS), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        work = pathlib.Path(scratch)
        write_photographs(work / "photographs")
        for name in configs:
            began = time.monotonic()
            changes = {**TRAINING, **CONFIGS[name]}
            if CONFIGS[name] is FOLDER:
                changes["data.source.root"] = str(work / "photographs")
            run = work / pathlib.Path(name).name
            found[name] = {"batches": _batches(name, changes)}
            overrides = [f"--config.{path}={value}" for path, value in changes.items()]
            _script(work, "train", "--config", name, "--workdir", str(run), *overrides)
            if (run / "bad_samples.jsonl").exists():
                # They count as black images, which no hash tells.
                sys.exit(f"{name}: {(run / 'bad_samples.jsonl').read_text(encoding='utf-8')}")
            found[name]["state"] = state_hash(run, STEPS)
            _script(work, "evaluate", "--workdir", str(run), "--num-images", "8")
            found[name]["evaluation"] = _evaluation(run, work)
            shown = "".join(f"{found[name][part][:16]:<18}" for part in PARTS)
            print(f"{name:<26}{time.monotonic() - began:>7.0f}  {shown}", flush=True)
    return found


def compare(one: Hashes, other: Hashes) -> int:
    """Print for each entry whether it is equal in both; return 1 if one is not."""
    differs = False
    print(f"{'':<26}" + "".join(f"{part:<12}" for part in PARTS))
    for name in dict.fromkeys([*one, *other]):
        words = []
        for part in PARTS:
            values = [each.get(name, {}).get(part) for each in (one, other)]
            equal = values[0] == values[1]
            words.append("missing" if None in values else "equal" if equal else "different")
        differs |= words != ["equal"] * len(PARTS)
        print(f"{name:<26}" + "".join(f"{word:<12}" for word in words))
    return int(differs)


def state_hash(run: pathlib.Path, step: int) -> str:
    """Return one hash of all arrays of a checkpoint: of their names, shapes, types and values."""
    # Not by the package, which may have changed: the record starts with JSON, its own seal follows.
    text = (run / "checkpoints" / f"{step:08d}.json").read_text(encoding="utf-8")
    record, _ = json.JSONDecoder().raw_decode(text)
    return _sha256(json.dumps(record["arrays"], sort_keys=True))


def write_photographs(root: pathlib.Path) -> None:
    """Write 24 photographs with depth: two sizes, of which the larger is decoded at half of its.

    Maps are in millimetres, 0 and 65535 are not measured, and every third map is smaller than its
    photograph.
    """
    rng = np.random.default_rng(0)
    for folder in ("rgb", "depth"):
        (root / folder).mkdir(parents=True)
    for number in range(24):
        height, width = (160, 208) if number % 2 else (320, 416)
        channels = [_smooth(rng, height, width) for _ in range(3)]
        pixels = (255 * np.stack(channels, axis=2)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "rgb" / f"{number:02d}.jpg", quality=92)
        if number % 3 == 0:
            height, width = height // 2, width // 2
        depth = (800 + 7000 * _smooth(rng, height, width)).astype(np.uint16)
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        depth[top : top + 12, left : left + 16] = 0
        depth[-8:, -8:] = 65535
        Image.fromarray(depth).save(root / "depth" / f"{number:02d}.png")


def _smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a map of values from 0 to 1 without edges."""
    cells = rng.random((6, 8), dtype=np.float32)
    large = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(large).clip(0, 1)


def _use_checkout() -> None:
    """Let this process import the package of the current directory; SystemExit if it does not."""
    here = os.getcwd()
    sys.path.insert(0, here)
    import reldepth_jax

    used = pathlib.Path(reldepth_jax.__file__).parents[1]
    if used != pathlib.Path(here).resolve():
        sys.exit(f"run this in the root of a checkout: {here} is none, reldepth_jax is in {used}")


def _batches(name: str, changes: Mapping[str, str]) -> str:
    # Only now, because it is known only now which checkout they come from.
    from reldepth_jax import config
    from reldepth_jax.data import pipeline

    settings = config.override(config.load(name), changes)
    batches = pipeline.train_batches(settings, pipeline.train_sources(settings), start=0)
    digest = hashlib.sha256()
    for batch in itertools.islice(batches, STEPS):
        for key, array in sorted(batch.items()):
            digest.update(f"{key} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _evaluation(run: pathlib.Path, work: pathlib.Path) -> str:
    text = (run / "eval" / "test.json").read_text(encoding="utf-8")
    # Where run and photographs lie is all that differs from one time to the next.
    report = json.loads(text.replace(str(work), ""))
    return _sha256(json.dumps(report, sort_keys=True))


def _script(work: pathlib.Path, name: str, *arguments: str) -> None:
    """Run a script of the checkout; SystemExit with the end of what it said if it fails."""
    paths = [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A cache of its own: what another version has compiled is not used.
    told = {"PYTHONPATH": os.pathsep.join(paths), "JAX_COMPILATION_CACHE_DIR": str(work / "cache")}
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    log = work / "log.txt"
    with open(log, "wb") as file:
        code = subprocess.run(command, env=os.environ | told, stdout=file, stderr=file).returncode
    if code:
        said = log.read_text(encoding="utf-8", errors="replace")
        sys.exit(f"{' '.join(command)} failed with {code}:\n{said[-3000:]}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
