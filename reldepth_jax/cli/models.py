"""List networks: size, cost, licence, where weights are.

reldepth models [--json]
reldepth models --fetch midas_v21_small       into the cache, for the time without a network
python scripts/list_models.py …     the same, from a clone
"""

import argparse
import json

from reldepth_jax.cli import command


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    options = command.Parser("models", __doc__)
    options.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options.add_argument("--fetch", metavar="NAME", help="fetch and convert these public weights")
    return options


def main(argv: list[str] | None = None) -> int:
    """Read the command line, build every network as shapes, print the table."""
    options, _ = command.parse(parser(), argv)

    # Imported late: a mistake is reported before JAX is loaded.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from reldepth_jax.weights import by_name, catalogue, presets

    if options.fetch is not None:
        by_name.load(options.fetch)
        packaged = presets.published(options.fetch)[1].packaged
        print(f"{options.fetch} is in {'the package' if packaged else by_name.folder()}")
        return 0
    names = presets.names()
    entries = []
    with command.progress_bar("networks") as progress:
        for done, name in enumerate(names, start=1):
            entries.append(catalogue.describe(presets.get(name)))
            progress(done, len(names))
    if options.json:
        print(json.dumps([entry.to_dict() for entry in entries], indent=1))
        return 0
    console = Console(highlight=False)
    for part in ("network", "encoder"):
        table = Table(title=f"{part}s", box=box.SIMPLE_HEAD, title_justify="left")
        for heading in ("name", "parameters", "GMAC", "input", "output"):
            justify = "right" if heading in ("parameters", "GMAC") else "left"
            table.add_column(heading, justify=justify, overflow="fold")
        for entry in entries:
            if entry.part == part:
                table.add_row(
                    entry.name,
                    f"{entry.parameters:,}",
                    f"{entry.multiply_adds / 1e9:.3f}",
                    entry.input,
                    entry.output,
                )
        console.print(table)
    table = Table(title="public weights", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("name", "MB", "licence", "where"):
        # Folded: a name that is cut off cannot be looked up.
        justify = "right" if heading == "MB" else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for entry in entries:
        for each in entry.files:
            size = f"{each['bytes'] / 1e6:.1f}" if each["bytes"] else "?"
            way = (
                "with the package" if each["packaged"] else "fetched" if each["url"] else "by hand"
            )
            where = f"{way}: {entry.source}"
            table.add_row(each["name"], size, each["licence"], where)
        if not entry.files:
            table.add_row(entry.name, "", entry.licence, entry.source)
    console.print(table)
    print(
        "By these names `--model` (networks) and `--config.init_from` take weights: fetched once,"
        f" then kept in {by_name.folder()};\naddresses and digests: --json\n"
    )
    print(catalogue.NOTE)
    return 0
