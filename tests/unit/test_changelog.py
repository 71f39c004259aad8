"""The version and the changelog of a release: one version everywhere, sections in the form of Keep a Changelog."""

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
RELEASES = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
GROUPS = ("Upgrading from ", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
# What names a version of the product: its images' tags and labels, and the tag that Airflow's chart takes.
NAMED = re.compile(r'(?:dethrone-[a-z-]+:|defaultAirflowTag: |opencontainers\.image\.version=")([0-9][0-9a-z.]*)')


def test_the_newest_release_is_the_version_of_the_package():
    assert RELEASES[0] == "Unreleased"
    name, _, day = RELEASES[1].partition(" - ")
    assert name == VERSION
    assert date.fromisoformat(day)


def test_every_file_names_this_version():
    listed = ["git", "ls-files", "deploy", "docs", "docker-compose.yml", "README.md"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named = {
        (name, version)
        for name in files
        if (ROOT / name).suffix not in {".png", ".gz"}
        for version in NAMED.findall((ROOT / name).read_text())
    }
    assert {version for _, version in named} == {VERSION}
    assert len(named) >= 9


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_has_the_groups_of_keep_a_changelog_in_their_order(release):
    section = CHANGELOG.split(f"## {release}\n")[1].split("\n## ")[0]
    groups = re.findall(r"^### (.+)$", section, re.MULTILINE)
    places = [next(i for i, name in enumerate(GROUPS) if group.startswith(name)) for group in groups]
    assert places == sorted(set(places))
    assert all(line.startswith(("- ", "  ", "#")) for line in section.partition("\n### ")[2].splitlines()[1:] if line)
