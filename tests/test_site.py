"""The pages become a site without a warning: no broken link, no page that nothing lists."""

import html
import pathlib
import re
import subprocess
import sys

import pytest

DOCS = pathlib.Path("docs")
COMPLETE = ("losses", "samplers", "metrics", "ops")
"""Rooms whose modules are all on the page of that name."""


def build(folder: pathlib.Path, output: pathlib.Path, *options: str) -> tuple[int, str]:
    """Return exit code and what was said."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", *options]
    done = subprocess.run(
        [*command, str(folder), str(output)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_site_is_built_without_a_warning(tmp_path: pathlib.Path):
    code, said = build(DOCS, tmp_path / "site", "-d", str(tmp_path / "doctrees"))
    assert (code, said) == (0, "")
    pages = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert len(pages) > 40
    assert [page for page in pages if not (tmp_path / "site" / page).is_file()] == []
    shown = html.unescape(re.sub("<[^>]+>", "", (tmp_path / "site/api/ops.html").read_text()))
    assert "unit_range(value: Float[Array, 'b h w'], mask: Bool[Array, 'b h w'])" in shown
    first = (tmp_path / "site/index.html").read_text()
    assert 'href="bad_input.html"' in first
    assert "REST" not in first


def test_the_build_sees_broken_links_and_lists_new_pages(tmp_path: pathlib.Path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "conf.py").write_text((DOCS / "conf.py").read_text())
    (folder / "index.md").write_text("# Site\n\n```{toctree}\nREST\n```\n")
    (folder / "broken.md").write_text("# Page\n\n[there](nowhere.md)\n")
    (folder / "sound.md").write_text("---\norphan: false\n---\n# Page\n")
    code, said = build(folder, tmp_path / "site")
    assert code != 0
    (warning,) = re.findall("^.*WARNING.*$", said, re.MULTILINE)
    assert "broken.md" in warning
    assert "nowhere.md" in warning
    index = (tmp_path / "site/index.html").read_text()
    assert 'href="broken.html"' in index
    assert 'href="sound.html"' in index


@pytest.mark.parametrize("room", COMPLETE)
def test_every_module_of_these_rooms_is_on_its_page(room: str):
    page = (DOCS / f"api/{room}.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\.\. automodule:: (\S+)$", page, re.MULTILINE))
    modules = {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in pathlib.Path("reldepth_jax", room).rglob("*.py")
    }
    assert listed == modules
