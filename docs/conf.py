"""How Sphinx makes the site of these pages: `sphinx-build -W docs build/docs` (extra `docs`)."""

import pathlib
import re
from typing import Any

import reldepth_jax

project = "reldepth_jax"
author = copyright = "The reldepth_jax authors"
version = release = reldepth_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"reldepth_jax {release}"
# Anchors of headings as code hosts make them.
myst_heading_anchors = 3
# Commands of a shell inside Python are those of notebooks.
suppress_warnings = ["misc.highlighting_failure"]

default_role = "literal"
napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}

_LITERAL = re.compile(r"(``?[^`]+``?)")
_SPECIAL = re.compile(r"[|*\\]|(?<=\w)_(?=\W|$)")
_SECTION = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields):$")


def _plain(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let a docstring be plain text with `code`: |x|, x * y and indented equations stay so."""
    shown, section, before = [], False, 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if _SECTION.match(line.strip()):
            section = True
        elif line and indent == 0 and before:
            section = False
        if line and not section and shown and shown[-1] and indent != before:
            shown.append("")
        parts = _LITERAL.split(line)
        parts[::2] = [_SPECIAL.sub(r"\\\g<0>", part) for part in parts[::2]]
        shown.append("".join(parts))
        before = indent if line else before
    lines[:] = shown


def _readable(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: str
) -> tuple[str, str] | None:
    """Let annotations of arrays read as they are written: `Float[Array, "b h w"]`."""

    def short(text: str) -> str:
        text = re.sub(r"\b(jaxlib\._jax|jax|collections\.abc|typing)\.(?=[A-Z])", "", text)
        return text.replace("numpy.ndarray", "np.ndarray")

    # Modules and data have none.
    return None if signature is None else (short(signature), short(returns or ""))


def _rest(app: Any, name: str, source: list[str]) -> None:
    """Let the first page list every page of its folder that it does not name: `REST`."""
    if name == "index":
        folder = pathlib.Path(app.srcdir)
        named = set(re.findall(r"^[\w/]+$", source[0], re.MULTILINE))
        rest = {path.stem for path in folder.glob("*.md")} - named - {"index"}
        source[0] = source[0].replace("REST", "\n".join(sorted(rest)))


def setup(app: Any) -> None:
    """Connect what this file does to pages and docstrings; napoleon comes after."""
    app.connect("source-read", _rest)
    app.connect("autodoc-process-docstring", _plain, priority=400)
    app.connect("autodoc-process-signature", _readable)
