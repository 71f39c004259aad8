"""Classes that change on a real Label Studio: one added, two renamed, two merged, one removed, and back."""

import pytest

from pipeline_tasks.adapters.label_studio import LabelStudio
from pipeline_tasks.annotation.class_plan import ClassOptions
from pipeline_tasks.annotation.label_studio_projects import labeling_config
from pipeline_tasks.demo.scripted_annotators import Annotator, answer_all
from tests.labeling_case import NAME, Case, codes_of, with_classes

pytestmark = pytest.mark.integration
BEFORE = ["cat", "dog", "owl", "cow", "boot", "shoe", "hat"]
AFTER = ["feline", "canine", "cow", "footwear", "hat", "bat"]  # owl is gone
NOW = {"cat": "feline", "dog": "canine", "boot": "footwear", "shoe": "footwear", "owl": None}
CHANGES = ClassOptions(
    renames=("cat=feline", "dog=canine"), merges=("boot,shoe=footwear",), removed=("owl",), drop=True
)


@pytest.fixture
def case(database, label_studio_server):
    """A project with two answered items of each class, on the server until the end."""
    tool = LabelStudio(label_studio_server.url, label_studio_server.token)
    case = Case(database, tool, project=with_classes(BEFORE))
    case.server = label_studio_server
    items = case.add_numbers(range(2 * len(BEFORE)))
    case.truth = {item_id: BEFORE[number // 2] for number, item_id in enumerate(items)}
    case.annotate()
    answer(case, case.truth)
    assert case.collect().num_decided == len(items)
    yield case
    for project_id in case.labels.registration(NAME)[2].values():
        tool._sdk.projects.delete(project_id)


def answer(case, truth):
    return answer_all(
        case.labeling,
        url=case.server.url,
        admin_token=case.server.token,
        password_secret=case.server.password,
        project_id=case.ls_project(),
        annotators=[Annotator("one@dethrone.test", 0.0)],
        people_per_item=1,
        config=labeling_config(case.project),
        truth=truth,
        similar={},
    )


def labels_of(case):
    decisions = case.labels.decisions(NAME, case.truth)
    return {item_id: decisions[item_id].label for item_id in case.truth}


def results_in_label_studio(case):
    given = case.labeling.annotations(case.ls_project())
    return {row.annotation_id: (row.item_id, row.annotator, row.result[0]["value"]["choices"]) for row in given}


def test_classes_change_and_change_back_and_no_annotation_is_orphaned(case):
    results = results_in_label_studio(case)
    assert len(results) == 14
    case.migrate(AFTER, CHANGES)
    assert '"footwear"' in case.labeling.project(case.ls_project()).label_config
    assert '"boot"' not in case.labeling.project(case.ls_project()).label_config
    assert labels_of(case) == {item_id: NOW.get(label, label) for item_id, label in case.truth.items()}
    assert results_in_label_studio(case) == results

    (new,) = case.add_numbers([99])
    case.annotate()
    assert answer(case, {**case.truth, new: "bat"}).num_answers == 1
    assert case.collect().num_decided == 1
    assert case.labels.decisions(NAME, [new])[new].label == "bat"
    assert codes_of(case) == []

    annotation = next(key for key, (_, _, choices) in results.items() if choices == ["shoe"])
    body = case.labeling._sdk.annotations.get(int(annotation.partition("@")[0]))
    case.labeling._sdk.tasks.update(str(body.task), is_labeled=False)  # the whole task is read again
    report = case.collect()
    assert (report.num_decided, report.num_refused, report.num_deletions_held) == (0, 0, 0)

    case.migrate(BEFORE, ClassOptions(drop=True), undo=True)
    assert labels_of(case) == case.truth
    assert case.labels.decisions(NAME, [new])[new].status == "withdrawn"
    assert case.collect().num_decided == 0
    assert {key: results_in_label_studio(case)[key] for key in results} == results
    assert '"boot"' in case.labeling.project(case.ls_project()).label_config
