r"""Prepare a data set as shards, for faster reading.

reldepth prepare redweb --manual-dir ReDWeb_V1 --data-dir prepared
reldepth prepare redweb --data-dir prepared --verify [--manual-dir ReDWeb_V1]
python scripts/prepare_data.py …     the same, from a clone

Checks the number of records against the published one, decodes every image, and writes
DATA_DIR/NAME/VERSION (TFDS, array_record; needs pip install "reldepth-jax[tfds]"). May be stopped
at any time: the same command begins again. Train with --config.data.source.prepared=DATA_DIR.
--verify reads the shards again and compares them with what was written, and with the folder.
"""

import argparse

from reldepth_jax import config, processor
from reldepth_jax.cli import command
from reldepth_jax.registry import SOURCES


def data_sets() -> list[str]:
    """Return the sources that can read prepared shards."""
    return [name for name, entry in SOURCES.entries.items() if "prepared" in entry.options]


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("prepare", __doc__)
    names = data_sets()
    options.add_argument("data_set", metavar="NAME", choices=names, help=", ".join(names))
    options.add_argument("--manual-dir", metavar="DIR", help="the extracted folder")
    options.add_argument("--data-dir", metavar="DIR", required=True, help="where shards are kept")
    options.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; 0: this one; default: one for each core",
    )
    options.add_argument("--parts", metavar="PART,…", help="of train, val, test; default: all")
    options.add_argument(
        "--partial", action="store_true", help="prepare what is there of an incomplete folder"
    )
    options.add_argument("--verify", action="store_true", help="compare, write nothing")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, prepare or verify."""
    options, _ = command.parse(parser(), argv)
    rendered = "root" not in SOURCES.lookup(options.data_set).options
    if rendered and options.manual_dir is not None:
        raise config.ConfigError(f"{options.data_set} is rendered; leave --manual-dir")
    if options.manual_dir is None and not options.verify and not rendered:
        raise config.ConfigError("--manual-dir is needed: the extracted folder of the data set")
    if options.verify and (options.parts or options.partial):
        raise config.ConfigError("--verify takes all that is prepared; leave --parts and --partial")
    workers = options.workers
    if workers is None:
        workers = processor.cores()
    if workers < 0:
        raise config.ConfigError(f"--workers must be at least 0, got {workers}")

    # Imported late: a mistake is reported before JAX is loaded.
    from reldepth_jax.data.prepared import writing

    lines: list[str] = []
    with command.progress_bar(options.data_set) as bar:

        def progress(part: str, done: int, total: int) -> None:
            bar(done, total, f"{options.data_set} {part}")

        if options.verify:
            writing.verify(
                options.data_set, options.data_dir, options.manual_dir,
                workers=workers, progress=progress, say=lines.append,
            )  # fmt: skip
        else:
            writing.prepare(
                options.data_set, options.manual_dir or "", options.data_dir, workers=workers,
                parts=options.parts.split(",") if options.parts else None,
                partial=options.partial, progress=progress, say=lines.append,
            )  # fmt: skip
    print("\n".join(lines))
    return 0
