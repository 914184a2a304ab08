r"""Check a data set before training.

reldepth check-data redweb /path/to/ReDWeb_V1
reldepth check-data diw /path/to/DIW --sample 20000
reldepth check-data redweb /path/to/ReDWeb_V1 --against diw:/path/to/DIW
reldepth check-data hr_wsi /path/to/excerpt --partial
reldepth check-data folder /path/to/photos --config.data.source.invalid=0
python scripts/check_data.py …     the same, from a clone

Prints errors and warnings, each with file, line and how to fix it. Writes all of them to
check_NAME.json, with a contact sheet, check_NAME.png, into runs/check_NAME or --output. Every image
and map is decoded; --sample looks at a fixed random choice. Nothing is changed or written in the
folder of the data set. --config.data.source.OPTION=… sets an option of the source.

Exit code 0: training may start, there is no error; 1: it may not; 2: wrong usage.
"""

import argparse
import collections
import json
import pathlib
from typing import Any

from reldepth_jax import config, processor
from reldepth_jax.cli import command

SHOWN = 20
"""Findings of one check that are printed."""


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("check-data", __doc__)
    options.add_argument("name", help="data set, as in data.source.name")
    options.add_argument("root", help="the folder as its authors distribute it")
    options.add_argument(
        "--sample", type=int, default=0, metavar="N", help="samples of each part, default: all"
    )
    options.add_argument(
        "--partial", action="store_true", help="fewer images than published are meant to be"
    )
    options.add_argument("--output", type=pathlib.Path, help="default: runs/check_NAME")
    options.add_argument("--threads", type=int, help="default: one for each core, at most 16")
    options.add_argument(
        "--against", action="append", default=[], metavar="NAME:PATH",
        help="another data set that may not hold the same images; can be repeated",
    )  # fmt: skip
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, examine, print and write."""
    options, assignments = command.parse(parser(), argv, overrides=True)
    threads = min(16, processor.cores()) if options.threads is None else options.threads
    if options.sample < 0 or threads < 1:
        raise config.ConfigError("--sample must be at least 0, --threads at least 1")
    if not all(":" in other for other in options.against):
        raise config.ConfigError("--against takes NAME:PATH, e.g. diw:/path/to/DIW")
    of_source = _source_options(options.name, assignments)
    output = options.output or pathlib.Path("runs", f"check_{options.name}")

    # Imported late: a mistake is reported before.
    from reldepth_jax.data import checks
    from reldepth_jax.data.images import io, pictures

    others = [tuple(other.split(":", 1)) for other in options.against]
    examination = checks.Examination(
        options.name,
        options.root,
        sample=options.sample,
        partial=options.partial,
        threads=threads,
        against=others,
        options=of_source,
    )
    if pathlib.Path(options.root).resolve() in (output.resolve(), *output.resolve().parents):
        raise config.ConfigError(f"--output {output} lies in the data set; choose another folder")
    with command.progress_bar(f"{options.name} samples") as progress:
        findings = list(examination.findings(progress))

    output.mkdir(parents=True, exist_ok=True)
    report = output / f"check_{options.name}.json"
    errors = sum(finding.severity == "error" for finding in findings)
    content = {
        "data_set": options.name,
        "root": options.root,
        "options": of_source,
        "samples": examination.num_samples,
        "valid": sum(examination.valid) / len(examination.valid) if examination.valid else None,
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": [finding._asdict() for finding in findings],
    }
    with io.atomic_write(report) as file:
        text = json.dumps(content, indent=1, ensure_ascii=False)
        file.write(f"{text}\n".encode("utf-8", "backslashreplace"))
    picture = examination.contact_sheet()
    if picture is not None:
        pictures.save_picture(report.with_suffix(".png"), picture)

    groups = collections.defaultdict(list)
    for finding in findings:
        groups[finding.severity, finding.check].append(finding)
    for (severity, check), members in sorted(groups.items()):
        for finding in members[:SHOWN]:
            print(f"{severity}: {finding.place}: {finding.message} [{check}]")
        if len(members) > SHOWN:
            print(f"{severity}: … and {len(members) - SHOWN} more, see {report} [{check}]")
    valid = content["valid"]
    truth = "" if valid is None else f" Ground truth at {valid:.0%} of the pixels."
    print(
        f"{options.name}: {examination.num_samples} samples, {errors} errors,"
        f" {len(findings) - errors} warnings: training {'may not' if errors else 'may'} start."
        f"{truth} Written: {output}"
    )
    return 1 if errors else 0


def _source_options(name: str, assignments: dict[str, str]) -> dict[str, Any]:
    """Return the options of the source that the command line sets."""
    start = "data.source."
    for path in assignments:
        if not path.startswith(start) or path == f"{start}name":
            raise config.ConfigError(f"{path}: only options of the source can be set here")
    if not assignments:
        return {}
    settings = config.override(config.Config(), {f"{start}name": name, **assignments})
    config.validate(settings)
    return settings.data.source.options
