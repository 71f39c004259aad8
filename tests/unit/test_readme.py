"""The reference names every command, and README and docs only files that exist."""

import argparse
import re
from pathlib import Path

import pytest

from pipeline_tasks.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands():
    (actions,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return sorted(actions.choices)


def test_every_command_stands_in_the_reference():
    text = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in commands() if not re.search(rf"`(dethrone )?{name}\b", text)] == []


@pytest.mark.parametrize(
    "page", [Path("README.md"), *sorted(path.relative_to(ROOT) for path in ROOT.glob("docs/*.md"))]
)
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_every_page_of_the_docs_is_linked_from_the_readme_or_another_page():
    pages = {path.name for path in ROOT.glob("docs/*.md")}
    assert pages <= {Path(link).name for link in re.findall(r"\]\(docs/([^)#:]+)\)", README)} | {"other-data.md"}


def test_the_readme_is_read_on_a_screen_and_a_half():
    assert len(README.split()) <= 1200


def test_every_file_of_the_architecture_is_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.py)?)`", text))
    parents = (ROOT, ROOT / "pipeline_tasks", ROOT / "bento_services")
    stored = {"packs/", "items/"}  # prefixes of the object store
    assert {name for name in named - stored if not any((parent / name).exists() for parent in parents)} == set()
    folders = {
        f"pipeline_tasks/{path.name}/"
        for path in (ROOT / "pipeline_tasks").iterdir()
        if (path / "__init__.py").is_file()
    }
    assert folders <= named
