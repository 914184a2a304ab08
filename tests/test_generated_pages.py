"""One page for each data set and each family of networks, which agrees with its declaration.

What follows the mark in a page is written from the code:
`RELDEPTH_WRITE_DOCS=1 python -m pytest tests/test_generated_pages.py`.
"""

import ast
import importlib
import inspect
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reldepth_jax.config import Choice
from reldepth_jax.config.loading import override_choice
from reldepth_jax.data.data_set import DataSetSource, declared
from reldepth_jax.evaluation.protocols.base import Protocol
from reldepth_jax.evaluation.protocols.report import Estimate, Row
from reldepth_jax.registry import PRESETS, PROTOCOLS, SOURCES
from reldepth_jax.weights import catalogue, presets
from tests.data.sources.test_contract import writer
from tests.fixtures.scenes import scene

MARK = "<!-- From here on written from the code, see tests/test_generated_pages.py. -->\n"
OF_PACKAGE = {
    name: entry
    for registry in (SOURCES, PRESETS)
    for name, entry in registry.entries.items()
    if entry.module.startswith("reldepth_jax.")
}
DATA = {name: SOURCES.entries[name] for name in OF_PACKAGE if name in SOURCES.entries}
NETWORKS = sorted({OF_PACKAGE[name].module for name in OF_PACKAGE if name in PRESETS.entries})


def prose(module: str) -> str:
    """Return the docstring of a module; `Word:` begins a paragraph."""
    text = inspect.cleandoc(importlib.import_module(module).__doc__ or "")
    return re.sub(r"(?<!\n)\n(?=[A-Z][a-z]+: )", "\n\n", text)


def options(source: Any) -> Iterator[tuple[str, str]]:
    """Yield the options of a class with what the strings below them say."""
    (node,) = ast.parse(inspect.getsource(source)).body
    assert isinstance(node, ast.ClassDef)
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and field.value is not None:
            text = ast.literal_eval(below.value) if isinstance(below, ast.Expr) else ""
            assert isinstance(field.target, ast.Name)
            yield field.target.id, " ".join(inspect.cleandoc(text).split())


def table(*rows: tuple[str, ...]) -> str:
    """Return a table of Markdown, its titles first."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def protocols(source: str) -> dict[str, Protocol]:
    """Return the protocols that judge on a data set."""
    made = {
        name: PROTOCOLS.create(name)
        for name, entry in PROTOCOLS.entries.items()
        if entry.module.startswith("reldepth_jax.")
    }
    return {name: protocol for name, protocol in made.items() if protocol.dataset == source}


def used_by(source: str) -> list[str]:
    """Return the configurations that train or validate on a data set."""
    found = []
    for path in sorted(pathlib.Path("configs").glob("*.py")):
        if re.search(rf'Choice\(\s*"{source}"', path.read_text(encoding="utf-8")):
            found.append(f"`{path}`")
    return found


def declared_data(name: str) -> str:
    """Return what the code says of a data set."""
    source: Any = SOURCES.get(name)
    parts = [f"## What `{name}` declares", prose(DATA[name].module)]
    facts = [("", "")]
    if isinstance(source, type) and issubclass(source, DataSetSource):
        its = source.data_set
        counts = [f"{part}: {count:,} images" for part, count in its.counts.items()]
        maps = [
            f"{each.title}{f', {each.dtype} values' if each.dtype else ''}"
            for each in its.maps.values()
        ]
        facts += [
            ("where", f"<{its.home}>" if its.home else ""),
            ("size", its.size),
            ("licence", its.licence or ("none stated that we know of" if its.home else "")),
            ("published", "; ".join(counts)),
            ("parts", ", ".join(its.parts)),
            ("maps", "; ".join(maps)),
            ("annotated pairs", "yes" if its.pairs else ""),
            ("prepared shards", "yes" if "prepared" in DATA[name].options else ""),
        ]
    facts += [("configurations", ", ".join(used_by(name)))]
    if len(shown := [row for row in facts if row[1] or not row[0]]) > 1:
        parts.append(table(*shown))
    rows = [
        (f"`{option}`", f"`{DATA[name].options[option][1]}`", text)
        for option, text in options(source)
        if option in DATA[name].options
    ]
    if rows:
        parts.append(table(("option", "default", "what"), *rows))
    for key, protocol in protocols(name).items():
        measures = _published(protocol)
        published = [
            (row.name, *(_shown(row, each) for each in measures)) for row in protocol.published
        ]
        parts += [
            f"### Published numbers of `--dataset {key}`",
            f"{protocol.title}"
            + (f", {protocol.images:,} images" if protocol.images else "")
            + f". From: {protocol.citation}.",
            table(("method", *measures), *published),
        ]
    return "\n\n".join(parts) + "\n"


def _shown(row: Row, measure: str) -> str:
    value: Any = row.values.get(measure)
    return "" if value is None else Estimate(value).show(measure)


def _published(protocol: Protocol) -> list[str]:
    return [m for m in protocol.measures if any(m in row.values for row in protocol.published)]


def declared_networks(module: str) -> str:
    """Return what the code says of a family of published networks."""
    parts = ["## What is declared", prose(module)]
    rows = []
    for name, entry in PRESETS.entries.items():
        if entry.module != module:
            continue
        preset = PRESETS.create(name)
        encoder = preset.model.encoder.name
        rows.append((f"`{name}`", f"`{encoder}`", preset.licence, preset.paper, preset.source))
    parts.append(table(("preset", "encoder", "licence", "paper", "weights"), *rows))
    files = [
        (f"`{facts['name']}`", f"{each.size / 1e6:.1f} MB" if each.size else "?", facts["licence"])
        for preset, each in presets.public(encoders=False).values()
        for facts in [catalogue.public_facts(preset, each)]
        if PRESETS.entries[preset.name].module == module
    ]
    if files:
        parts.append(table(("name for `--model`", "size", "licence"), *files))
    return "\n\n".join(parts) + "\n"


PAGES = {f"docs/data/{name}.md": lambda name=name: declared_data(name) for name in DATA} | {
    f"docs/networks/{module.rpartition('.')[2]}.md": lambda module=module: declared_networks(module)
    for module in NETWORKS
    if "encoders" not in module
}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_what_the_code_declares(path: str):
    page, written = pathlib.Path(path), PAGES[path]()
    text = page.read_text(encoding="utf-8")
    by_hand, mark, after = text.partition(MARK)
    assert mark, f"{path} lacks the line {MARK}"
    if os.environ.get("RELDEPTH_WRITE_DOCS"):
        page.write_text(by_hand + MARK + "\n" + written, encoding="utf-8")
        after = "\n" + written
    assert after == "\n" + written
    assert len(by_hand.split()) > 40


def test_there_is_no_page_without_a_declaration():
    # Data sets that the source `folder` reads, for which there is no source of their own.
    by_hand = {"docs/data/diode.md", "docs/data/sun_rgbd.md"}
    pages = {
        str(path)
        for kind in ("data", "networks")
        for path in pathlib.Path("docs", kind).glob("*.md")
    }
    assert pages - by_hand == {*PAGES}


def commands(kind: str) -> list[tuple[str, str, str]]:
    """Return page, first word and the rest of each command of a kind in the pages of data."""
    found = []
    for page in sorted(pathlib.Path("docs/data").glob("*.md")):
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found += [
            (page.stem, name, rest.partition("#")[0])
            for name, rest in re.findall(rf"^reldepth {kind} (\S+)(.*)$", text, re.MULTILINE)
        ]
    return found


@pytest.mark.parametrize(("page", "name", "rest"), commands("check-data"))
def test_the_folder_of_a_command_is_read_as_it_stands_there(
    page: str, name: str, rest: str, tmp_path: pathlib.Path
):
    """Each split that the source has, with the options of the command, from a small data set."""
    root = rest.split()[0]
    folder = tmp_path / root
    folder.mkdir(parents=True)
    if page == name:
        writer(name)(folder)
    else:
        WRITERS[page](folder)
    assignments = dict(re.findall(r"--config\.([\w.]+)=(\S+)", rest))
    assert all(path.startswith("data.source.") for path in assignments)
    choice = override_choice(
        Choice(name),
        SOURCES,
        {f"source.{k.removeprefix('data.source.')}": v.strip("'") for k, v in assignments.items()},
        "source",
    )
    for part in declared(name).data_set.parts:
        source = SOURCES.create(name, split=part, size=(0, 0), root=str(folder), **choice.options)
        assert source[0]["image"].shape[2] == 3


def sun_rgbd(folder: pathlib.Path) -> None:
    """Write samples as SUN RGB-D has them, then run the commands of the page."""
    for number, place in enumerate(("kv1/NYUdata/NYU0001", "xtion/sun3ddata/a/b/0000103-0000034")):
        image, depth = scene(number, 24, 32)
        millimetres = np.minimum(np.nan_to_num(depth, posinf=0) * 1000, 8191).astype(np.uint16)
        for kind, name, values in (
            ("image", f"{number}.jpg", image),
            ("depth_bfx", f"other{number}.png", millimetres << 3 | millimetres >> 13),
        ):
            path = folder / place / kind / name
            path.parent.mkdir(parents=True)
            Image.fromarray(values).save(path)
    run_of_page("sun_rgbd", folder, "find ")


def diode(folder: pathlib.Path) -> None:
    """Write samples as DIODE has them."""
    for number in range(10):
        place = folder / "val/indoors/scene_00019/scan_00183"
        place.mkdir(parents=True, exist_ok=True)
        image, depth = scene(number, 24, 32)
        stem = f"00019_00183_indoors_000_{number:03}"
        Image.fromarray(image).save(place / f"{stem}.png")
        np.save(place / f"{stem}_depth.npy", np.nan_to_num(depth, posinf=0)[..., None])
        np.save(place / f"{stem}_depth_mask.npy", np.isfinite(depth).astype(np.float32))


WRITERS = {"sun_rgbd": sun_rgbd, "diode": diode}


def run_of_page(page: str, folder: pathlib.Path, holding: str) -> None:
    """Run the block of commands of a page that holds a text, in a folder."""
    text = pathlib.Path(f"docs/data/{page}.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if holding in b]
    done = subprocess.run(["bash", "-euc", block], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_list_of_kitti_is_made_by_the_commands_of_its_page(tmp_path: pathlib.Path):
    drive = "2011_09_26/2011_09_26_drive_0002_sync"
    lines = []
    for number, measured in ((69, True), (70, False)):
        frame = f"{number:010}"
        image = f"{drive}/image_02/data/{frame}.png"
        depth = f"val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/{frame}.png"
        for path in (image, *([depth] if measured else [])):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"")
        lines.append(f"{drive} {number:010} l")
    (tmp_path / "test_files.txt").write_text("\n".join(lines) + "\n")
    run_of_page("kitti", tmp_path, "test_files.txt")
    assert (tmp_path / "list.txt").read_text() == (
        f"{drive}/image_02/data/0000000069.png"
        " val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png\n"
    )


def test_every_protocol_has_its_command():
    named = set(re.findall(r"--dataset (\w+)", " ".join(rest for *_, rest in commands("evaluate"))))
    built_in = {n for n, e in PROTOCOLS.entries.items() if e.module.startswith("reldepth_jax.")}
    assert named == built_in
