"""The quick start is a page and a notebook, and what it shows works.

The notebook is written from the page: `RELDEPTH_WRITE_DOCS=1 python -m pytest
tests/test_quick_start.py`.
"""

import os
import pathlib
import re
from typing import Any

import jupytext
import nbclient
import nbformat
import pytest

PAGE, NOTEBOOK = pathlib.Path("docs/quick_start.md"), pathlib.Path("examples/quick_start.ipynb")


def converted() -> Any:
    """Return the page as a notebook."""
    text = PAGE.read_text(encoding="utf-8")
    # Pages that it links stand in docs; the notebook lies beside that folder.
    text = re.sub(r"\]\((?=[\w/]+\.md)", "](../docs/", text)
    text = text.replace(f"](../{NOTEBOOK})", "](quick_start.ipynb)")
    notebook = jupytext.reads(text, fmt="md")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def test_the_notebook_is_that_of_the_page():
    written = nbformat.writes(converted()) + "\n"
    if os.environ.get("RELDEPTH_WRITE_DOCS"):
        NOTEBOOK.write_text(written, encoding="utf-8")
    assert NOTEBOOK.read_text(encoding="utf-8") == written


# What the client and the kernel say of their own event loops and sockets.
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUICK_START", "smoke")
    monkeypatch.setenv("QUICK_START_STEPS", "24")
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path.cwd()))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    said = "".join(
        output.text
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "stream"
    )
    assert re.search(r"larger is farther\n.*nearer: the first point, \d+% sure", said, re.DOTALL)
    assert re.search(
        r"SIGINT: saved at step \d+ of 24.*exit code 130\n.*continuing at step \d+\n"
        r".*exit code 0\nwhdr +[\d.]+%\nrule_whdr +[\d.]+%\n",
        said,
        re.DOTALL,
    )
    pictures = [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
