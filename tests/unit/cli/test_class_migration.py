"""`dethrone project migrate`: the plan is shown and asked about, then carried out; or refused with what to give."""

import json
import types

import pytest

from pipeline_tasks.cli import main
from pipeline_tasks.orchestration import resources
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, Case, with_classes

RENAME = ["project", "migrate", NAME, "--rename", "owl=eagle"]
EAGLE = ["cat", "dog", "eagle"]


@pytest.fixture
def case(database, monkeypatch, tmp_path):
    """Three labeled items, and a project.yaml in which a class has another name."""
    case = Case(database, FakeLabelStudio())
    for item_id, label in zip(case.add_numbers(range(3)), CLASSES, strict=True):
        case.annotate()
        case.labeling.answer(case.ls_project(), item_id, label)
    case.collect()
    case.project = with_classes(EAGLE)
    parts = types.SimpleNamespace(
        project=lambda _: case.project,
        database=database,
        labeling=case.labeling,
        settings=types.SimpleNamespace(split_key=case.installation),
    )
    (tmp_path / "projects" / NAME).mkdir(parents=True)
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path / "projects"))
    monkeypatch.setattr(resources, "build_resources", lambda: parts)
    return case


def test_the_plan_has_counts_and_nothing_changes_where_nobody_can_be_asked(case, capsys):
    assert main.main(RENAME) == 1
    said = capsys.readouterr()
    assert "owl    renamed to eagle: 1 decided labels, 1 annotations, 0 exam items, 0 source labels" in said.err
    assert "Nothing was changed. Give --yes" in said.out
    assert case.labels.registration(NAME)[:2] == (CLASSES, 1)


def test_a_yes_carries_it_out_and_an_undo_takes_it_back(case, capsys):
    assert main.main([*RENAME, "--yes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["schema_version"], data["becomes"]["owl"], data["num_labels"]) == (2, "renamed to eagle", 1)
    assert case.labels.registration(NAME)[:2] == (EAGLE, 2)
    assert main.main([*RENAME, "--yes"]) == 0  # given again, it changes nothing
    assert "The classes of pets stay" in capsys.readouterr().out
    case.project = with_classes(CLASSES)
    assert main.main(["project", "migrate", NAME, "--undo", "--yes"]) == 0
    assert "pets has schema version 3" in capsys.readouterr().out
    assert case.labels.registration(NAME)[:2] == (CLASSES, 3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([NAME], "CLASSES_ORPHANED", "1 annotations and 1 items would be orphaned"),
        ([NAME, "--rename", "cow=eagle"], "CLASSES_INVALID", "got 'cow=eagle'"),
        ([], "CONFIG_INVALID", "name must be given with migrate"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(case, capsys, words, code, message):
    assert main.main(["project", "migrate", *words, "--yes"]) == 2
    said = capsys.readouterr().err
    assert code in said
    assert message in said
    assert case.labels.registration(NAME)[:2] == (CLASSES, 1)
