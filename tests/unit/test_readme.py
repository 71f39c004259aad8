"""The README names every command, and only files that exist."""

import argparse
import re
from pathlib import Path

from pipeline_tasks.cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def commands():
    (actions,) = [one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction)]
    return sorted(actions.choices)


def test_every_command_stands_in_the_readme():
    text = README.split("## Commands")[1].split("## Call a model")[0]
    assert [name for name in commands() if not re.search(rf"`(dethrone )?{name}\b", text)] == []


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
