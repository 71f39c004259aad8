import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Makefile").read_text()
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def targets():
    return set(re.findall(r"^([a-z][a-z-]*):", TEXT, re.MULTILINE))


def test_help_lists_every_target():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[0] for line in listed.splitlines() if line.startswith("  ")} == targets()


def test_help_is_grouped():
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    groups = [part.splitlines() for part in listed.strip().split("\n\n")]
    assert len(groups) > 4
    assert all(not head.startswith(" ") and targets for head, *targets in groups)


def test_the_hooks_before_a_commit_run_the_tools_of_the_environment_and_fetch_nothing():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["id"]: hook["entry"].split()[0] for hook in repository["hooks"] if hook["language"] == "system"}
    assert repository["repo"] == "local"
    assert hooks == {"ruff": ".venv/bin/ruff", "ruff-format": ".venv/bin/ruff", "mypy": ".venv/bin/mypy"}


def test_every_target_is_phony():
    phony = re.search(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE).group(1).split()
    assert set(phony) == targets()


def test_the_promised_targets_exist():
    promised = (
        "all help install demo up down status clean format-check lint types test test-all test-services lock lock-check"
    )
    assert set(promised.split()) <= targets()


def test_there_is_a_lock_for_each_environment():
    assert [path.name for path in LOCKS] == [
        "cluster.lock",
        "dev.lock",
        "gateway.lock",
        "label-studio.lock",
        "pipeline.lock",
        "serving-cuda.lock",
        "serving.lock",
    ]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_is_exact_and_names_no_place(path):
    hashes_by_line = requirements_of(path)
    assert len(hashes_by_line) > 20
    assert [
        line for line in hashes_by_line if not re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9A-Za-z.]*( ; .*)?", line)
    ] == []
    assert not re.search(r"https?://|file:|find-links|index-url|(^|\s)/", path.read_text())


SEVERAL_BUILDS = re.compile(r"(torch|triton|(nvidia|cuda)-(?!ml-py=)[a-z0-9-]+)==.*")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_the_hashes_of_all_but_what_comes_in_several_builds(path):
    hashes_by_line = requirements_of(path)
    assert [
        line for line, hashes in hashes_by_line.items() if bool(hashes) == bool(SEVERAL_BUILDS.fullmatch(line))
    ] == []
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for hashes in hashes_by_line.values() for digest in hashes)


def requirements_of(path):
    """Return the hashes of each line of a lock."""
    hashes, line = {}, ""
    for row in path.read_text().splitlines():
        text = row.removesuffix(" \\")
        if text.startswith("    --hash="):
            hashes[line].append(text.removeprefix("    --hash="))
        elif not text.lstrip().startswith("#"):
            hashes[line := text] = []
    return hashes


def test_the_pipeline_lock_holds_every_exact_pin_of_the_project():
    pins = re.findall(r'^    "([a-z0-9-]+==[^"]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    locked = requirements_of(ROOT / "requirements" / "pipeline.lock").keys()
    assert len(pins) == 11
    assert set(pins) <= set(locked)
