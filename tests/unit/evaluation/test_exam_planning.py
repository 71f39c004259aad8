"""Forecasts by `dethrone project validate` of exams that do not exist yet; the sizes that `dethrone init` writes."""

import re

import pytest

from pipeline_tasks.errors import ConfigError
from pipeline_tasks.evaluation import exam_planning
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import SIZES, init_project, template_names
from pipeline_tasks.project.yaml_reader import ProjectError
from tests.unit.evaluation import support as s


def config(**gate):
    return s.project(gate={"exam": {"min_items": 100}, **gate}).config


def test_what_an_exam_can_show_is_told_in_items_and_chances():
    """By the exact test at 3.04 %, where models differ on 10 % of the items."""
    assert exam_planning.exam_text(config()) == (
        "Where two models differ on 10.0 % of the items, a true gain of 3.0 / 5.0 / 10.0 points is shown by one epoch "
        "of 100 items with 9 % / 25 % / 94 % and by a full window of 1,000 items with 85 % / 100 % / 100 %. One epoch "
        "of 100 takes about 1,000 labeled items. At most 0.5 promotions a year of models that are no better are to be "
        "expected (as many again in the first)."
    )
    assert "bounds no false promotions" in exam_planning.exam_text(config(mode="eager"))


def test_a_window_that_shows_nothing_is_warned_of():
    hopeless = config(exam={"min_items": 10, "window_items": 10})
    (text,) = exam_planning.exam_warnings(hopeless)
    assert re.search(r"window_items of 10 shows even a gain of 10.0 points with a chance of .* Raise it to 1000", text)
    assert exam_planning.exam_warnings(config()) == []
    assert exam_planning.exam_warnings(config(mode="eager", exam={"min_items": 10, "window_items": 10})) == []


@pytest.mark.parametrize("template", template_names())
@pytest.mark.parametrize("labels", [300, 999, 1000, 2500, 3000, 50_000])
def test_a_new_project_has_exams_that_its_labels_can_fill(tmp_path, template, labels):
    loaded = load_project(init_project(tmp_path, name="my_project", template=template, labels=labels)).config
    wanted = SIZES[max(size for size in SIZES if size <= labels)]
    gate = loaded.gate
    assert loaded.split.exam_share * labels >= gate.exam.min_items
    assert (gate.confidence, gate.previous_margin, gate.exam.min_items, gate.false_promotions_a_year) == (
        float(wanted["confidence"]),
        float(wanted["previous_margin"]),
        int(wanted["min_items"]),
        float(wanted["false_promotions_a_year"]),
    )
    assert exam_planning.chances(gate, num_items=round(loaded.split.exam_share * labels))[-1] > 0.8


def test_too_few_labels_for_any_exam_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"labels must be 300 or more \(got 299\)"):
        init_project(tmp_path, name="my_project", template="tabular", labels=299)
    assert list(tmp_path.iterdir()) == []


def test_a_window_smaller_than_an_epoch_is_refused(tmp_path):
    folder = init_project(tmp_path, name="my_project", template="tabular")
    path = folder / "project.yaml"
    path.write_text(path.read_text().replace("  exam:\n", "  exam:\n    window_items: 49\n"))
    with pytest.raises(ProjectError, match=r"window_items must be at least gate.exam.min_items \(got 49 and 50\)"):
        load_project(folder)


@pytest.mark.parametrize(
    ("num_exam", "num_all", "num_items", "expected"),
    [
        (22, 110, 1000, "about 40 more groups, or begin anew under another name, with split.exam_share: 0.35."),
        (1, 6, 600, "gate promotes nothing on fewer than 30. Bring items of about 145 more groups."),
        (30, 150, 1000, ""),
        (22, 110, 110, ""),  # every item is a group of its own: more of them come with time
        (0, 0, 0, ""),
    ],
)
def test_too_few_groups_are_told_as_soon_as_items_arrive(num_exam, num_all, num_items, expected):
    """Departures of 110 planes with ten each: 22 planes in the exam, found with a data set of other people."""
    project = config()
    project = project.model_copy(update={"split": project.split.model_copy(update={"exam_share": 0.2})})
    text = exam_planning.few_groups(project, num_exam=num_exam, num_all=num_all, num_items=num_items)
    assert text.endswith(expected)
    assert bool(text) == bool(expected)
