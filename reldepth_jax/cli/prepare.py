r"""Prepare a data set as shards, which are read instead of its folder.

python scripts/prepare_data.py redweb --manual-dir ReDWeb_V1 --data-dir prepared
python scripts/prepare_data.py redweb --data-dir prepared --verify [--manual-dir ReDWeb_V1]

Checks the number of records against the published one, decodes every image, and writes
DATA_DIR/NAME/VERSION (TFDS, array_record; needs pip install "reldepth-jax[tfds]"). May be stopped
at any time: the same command begins again. Train with --config.data.source.prepared=DATA_DIR.
--verify reads the shards again and compares them with what was written, and with the folder.
"""

import argparse
import os

from reldepth_jax import config
from reldepth_jax.cli import command

DATA_SETS = ("redweb", "hr_wsi", "diw", "nyu_depth_v2", "vizdoom")
RENDERED = ("vizdoom",)
"""Those that have no folder."""


def main(argv: list[str] | None = None) -> int:
    """Read the command line, prepare or verify."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_set", metavar="NAME", choices=DATA_SETS, help=", ".join(DATA_SETS))
    parser.add_argument("--manual-dir", metavar="DIR", help="the extracted folder")
    parser.add_argument("--data-dir", metavar="DIR", required=True, help="where shards are kept")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; 0: this one; default: one for each core",
    )
    parser.add_argument("--parts", metavar="PART,…", help="of train, val, test; default: all")
    parser.add_argument(
        "--partial", action="store_true", help="prepare what is there of an incomplete folder"
    )
    parser.add_argument("--verify", action="store_true", help="compare, write nothing")
    options, _ = command.parse(parser, argv)
    if options.data_set in RENDERED and options.manual_dir is not None:
        raise config.ConfigError(f"{options.data_set} is rendered; leave --manual-dir")
    if options.manual_dir is None and not options.verify and options.data_set not in RENDERED:
        raise config.ConfigError("--manual-dir is needed: the extracted folder of the data set")
    if options.verify and (options.parts or options.partial):
        raise config.ConfigError("--verify takes all that is prepared; leave --parts and --partial")
    workers = options.workers
    if workers is None:
        workers = len(os.sched_getaffinity(0))
    if workers < 0:
        raise config.ConfigError(f"--workers must be at least 0, got {workers}")

    # Only now, because importing JAX takes longer than telling a mistake.
    from rich import progress as rich
    from rich.console import Console
    from rich.text import Text

    from reldepth_jax.data.prepared import prepare

    class Rate(rich.ProgressColumn):
        """Records per second."""

        def render(self, task: rich.Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:.0f}/s")

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        Rate(),
        rich.TimeRemainingColumn(),
    )
    screen = Console(stderr=True)
    # Elsewhere than on a terminal the bar would stand between the messages.
    with rich.Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:
        tasks: dict[str, rich.TaskID] = {}

        def progress(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(f"{options.data_set} {part}", total=total)
            bars.update(tasks[part], completed=done)

        lines: list[str] = []
        if options.verify:
            prepare.verify(
                options.data_set, options.data_dir, options.manual_dir,
                workers=workers, progress=progress, say=lines.append,
            )  # fmt: skip
        else:
            prepare.prepare(
                options.data_set, options.manual_dir or "", options.data_dir, workers=workers,
                parts=options.parts.split(",") if options.parts else None,
                partial=options.partial, progress=progress, say=lines.append,
            )  # fmt: skip
    print("\n".join(lines))
    return 0
