"""Licence, citation, changelog: valid, and of one mind."""

import pathlib
import tomllib

import yaml

import reldepth_jax
from reldepth_jax.weights import presets

PROJECT = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load(pathlib.Path("CITATION.cff").read_text(encoding="utf-8"))
NOTICE = pathlib.Path("NOTICE").read_text(encoding="utf-8")


def test_one_licence_and_one_version_are_stated_everywhere():
    assert PROJECT["license"] == CITATION["license"] == "Apache-2.0"
    assert all(pathlib.Path(name).is_file() for name in PROJECT["license-files"])
    text = pathlib.Path("LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert CITATION["version"] == reldepth_jax.__version__


def test_the_notice_names_what_the_licence_does_not_cover():
    package = pathlib.Path("reldepth_jax")
    weights = sorted(package.rglob("*.safetensors"))
    assert len(weights) == 1
    assert all(str(path) in NOTICE for path in weights)
    assert "research only" in NOTICE
    assert "research use only" in presets.get("reldepth_small").licence
    # Of others: a folder of the package with a licence of its own.
    for path in package.rglob("LICENSE*"):
        assert str(path.parent) in NOTICE


def test_the_citation_has_what_the_format_demands():
    """As the schema of version 1.2.0; `cffconvert --validate` was run on it."""
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys()
    assert all({"name"} <= each.keys() for each in CITATION["authors"])
    (paper,) = CITATION["references"]
    assert (paper["type"], paper["year"]) == ("conference-paper", 2018)
    assert [each["family-names"] for each in paper["authors"]] == [
        "Xian", "Shen", "Cao", "Lu", "Xiao", "Li", "Luo",
    ]  # fmt: skip


def test_the_changelog_has_the_headings_of_its_format():
    text = pathlib.Path("CHANGELOG.md").read_text(encoding="utf-8")
    versions = [line for line in text.splitlines() if line.startswith("## ")]
    assert versions[0] == "## Unreleased"
    kinds = {line for line in text.splitlines() if line.startswith("### ")}
    known = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    assert kinds <= {f"### {kind}" for kind in known}
