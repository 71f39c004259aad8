"""Labels and Label Studio.

Source: the walk through every page and command of 2026-11-29 (tests/reported/README.md).
"""

import datetime as dt
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_tasks.annotation.people import missing_line
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.core.ports import LabelingTask
from pipeline_tasks.errors import GateClosed, PermanentError, ServiceUnavailable
from pipeline_tasks.project.loader import load_project
from pipeline_tasks.project.scaffold import init_project
from pipeline_tasks.project.schema import Labels
from tests.labeling_case import CLASSES, NAME, Case, codes_of, make_project, texts_of, with_classes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def second(tmp_path):
    """A catalog of its own, for another installation."""
    engine = create_engine(f"sqlite:///{tmp_path / 'second.db'}")
    tables.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()


# Ours by id and mark


def test_c3_a_renamed_project_is_still_ours_and_keeps_its_name(case):
    items = case.add_numbers(range(3))
    case.annotate()
    before = case.ls_project()
    case.labeling.rename(before, "Pets of the neighbours")
    case.labeling.answer(before, items[0], "cat")
    assert case.collect().num_decided == 1
    assert case.annotate().num_pushed == 0
    assert case.ls_project() == before
    assert case.labeling.project(before).title == "Pets of the neighbours"
    assert len(case.labeling.state["projects"]) == 2
    assert case.label_of(items[0]) == (1, "decided", "cat")


def test_c3_a_foreign_project_with_our_title_is_left_alone(case):
    theirs = case.labeling.create_project(
        mark="none", title=NAME, description="theirs", label_config="<View/>", annotators_per_item=1,
        show_predictions=True,
    )  # fmt: skip
    untouched = dict(case.labeling.state["projects"][str(theirs)])
    case.add_numbers(range(2))
    case.annotate()
    case.collect()
    assert case.ls_project() != theirs
    assert case.labeling.state["projects"][str(theirs)] == untouched
    assert case.labeling.tasks_of(theirs) == []


def test_c3_after_a_crash_between_create_and_record_the_marked_project_is_adopted(case):
    case.add_numbers(range(2))
    register = case.labels.register
    case.labels.register = lambda *_args, **_more: (_ for _ in ()).throw(RuntimeError("killed"))
    with pytest.raises(RuntimeError, match="killed"):
        case.annotate()
    case.labels.register = register
    case.annotate()
    assert len(case.labeling.state["projects"]) == 2


@pytest.mark.parametrize("num_answers", [1, 30])
def test_c3_a_project_deleted_there_is_made_anew_and_its_labels_stay(case, num_answers):
    items = case.add_numbers(range(num_answers + 2))
    (exam,) = case.add_numbers([99], split="exam")
    case.annotate()
    for item_id in items[:num_answers]:
        case.labeling.answer(case.ls_project(), item_id, "cat")
    case.labeling.answer(case.ls_project("exam"), exam, "owl", by="ann@x")
    case.collect()
    for queue in ("label", "exam"):
        case.labeling.drop_project(case.ls_project(queue))
    report = case.collect()
    assert (report.num_deleted, report.num_deletions_held) == (0, 0)
    assert case.annotate().num_pushed == 3
    assert case.label_of(items[0]) == (1, "decided", "cat")
    case.labeling.answer(case.ls_project("exam"), exam, "owl", by="ben@x")
    case.labeling.answer(case.ls_project(), items[-1], "dog")
    assert case.collect().num_decided == 2  # the exam item with the answer from before
    assert case.label_of(exam) == (1, "decided", "owl")
    assert [case.label_of(item)[1] for item in items[:num_answers]] == ["decided"] * num_answers
    report = case.collect()
    assert (report.num_annotations, report.num_deleted, report.num_decided) == (0, 0, 0)


def test_c3_a_label_studio_set_up_anew_with_another_project_of_our_number(case):
    items = case.add_numbers(range(3))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[0], "cat")
    case.collect()
    old = case.ls_project()
    case.labeling.wipe()
    theirs = case.labeling.create_project(
        mark="none", title=NAME, description="theirs", label_config="<View/>", annotators_per_item=1,
        show_predictions=True,
    )  # fmt: skip
    case.labeling.import_tasks(theirs, [LabelingTask("theirs", {"image": "x"})])
    assert theirs == old
    assert case.annotate().num_pushed == 2
    assert len(case.labeling.tasks_of(theirs)) == 1
    assert case.labeling.project(theirs).label_config == "<View/>"
    assert case.label_of(items[0]) == (1, "decided", "cat")


def test_c3_two_installations_on_one_label_studio_do_not_meet(case, second):
    other = Case(second, case.labeling, installation="theirs")
    mine, theirs = case.add_numbers(range(2)), other.add_numbers(range(2))
    assert mine == theirs
    case.annotate()
    other.annotate()
    case.labeling.answer(case.ls_project(), mine[0], "cat")
    other.labeling.answer(other.ls_project(), mine[0], "dog")
    for side in (case, other, case, other):
        side.annotate()
        side.collect()
    assert case.ls_project() != other.ls_project()
    assert (case.label_of(mine[0]), other.label_of(mine[0])) == ((1, "decided", "cat"), (1, "decided", "dog"))
    assert len(case.labeling.state["tasks"]) == 4


@pytest.mark.parametrize("title", [NAME, "renamed"])
def test_c3_an_installation_from_before_the_marks_goes_on(case, title):
    items = case.add_numbers(range(2))
    case.annotate()
    before = case.ls_project()
    case.labeling.describe(before, "written by people")
    case.labeling.rename(before, title)
    case.labeling.answer(before, items[0], "cat")
    assert case.collect().num_decided == 1
    assert case.ls_project() == before
    assert case.labeling.project(before).description.startswith("written by people\n\nDethrone fills")


def test_c3_two_installations_that_shared_a_project_are_parted_and_lose_no_label(case, second):
    other = Case(second, case.labeling, installation="theirs")
    items = case.add_numbers(range(2))
    other.add_numbers(range(2))
    case.annotate()
    shared = case.ls_project()
    other.labels.register(
        NAME, classes=CLASSES, schema_version=1, ls_project_ids={"label": shared, "exam": case.ls_project("exam")},
        now=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )  # fmt: skip
    case.labeling.describe(shared, "")
    case.labeling.describe(case.ls_project("exam"), "")
    case.annotate()
    other.annotate()
    assert case.ls_project() == shared != other.ls_project()
    case.labeling.answer(shared, items[0], "cat")
    other.collect()
    assert other.label_of(items[0]) is None


# Classes that are not frozen by a slot of Airflow


NEW = ["boot", "dog", "shoe"]


def test_e1_nothing_is_registered_before_there_is_an_item(case):
    report = case.annotate()
    assert (report.num_requested, dict(report.ls_project_ids)) == (0, {})
    assert case.collect().num_annotations == 0
    assert case.labels.registration(NAME) is None
    assert case.labeling.state["projects"] == {}
    case.project = with_classes(NEW)
    case.add_numbers([1])
    case.annotate()
    assert case.labels.registration(NAME)[0] == NEW


@pytest.mark.parametrize("first", ["annotate", "collect"])
def test_e1_without_collected_labels_another_class_list_is_taken(case, first):
    items = case.add_numbers(range(2))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[1], None)  # a skip is no label
    before = case.labeling.task_ids(case.ls_project())
    case.project = with_classes(NEW)
    getattr(case, first)()
    assert case.labels.registration(NAME)[0] == NEW
    assert '"boot"' in case.labeling.project(case.ls_project()).label_config
    assert case.labeling.task_ids(case.ls_project()) == before
    case.labeling.answer(case.ls_project(), items[0], "shoe")
    assert case.collect().num_decided == 1


def test_e1_labels_of_the_source_are_judged_anew_with_the_new_list(case):
    (now_known,) = case.add_numbers([1], label="boot")
    (unknown,) = case.add_numbers([2], label="cow")
    assert case.annotate().num_pushed == 2
    assert codes_of(case) == ["UNKNOWN_CLASS"] * 2
    case.project = with_classes(NEW)
    assert case.annotate().num_imported_labels == 1
    assert case.label_of(now_known) == (1, "decided", "boot")
    ((_, digest, reason),) = texts_of(case)
    assert (digest, reason) == (unknown, "label must be one of boot, dog, shoe (got cow).")
    assert case.labels.counts(NAME)["label"].outstanding == 1  # nobody is asked for what the source says


def collected(case, item_id):
    case.labeling.answer(case.ls_project(), item_id, "cat")
    case.collect()


def imported(case, item_id):
    case.add_numbers([50], label="cat")
    case.annotate()


def waiting(case, item_id):
    case.labeling.answer(case.ls_project(), item_id, "cat")


@pytest.mark.parametrize("given", [collected, imported, waiting])
@pytest.mark.parametrize("stage", ["annotate", "collect"])
def test_e1_with_a_label_the_list_stays_and_the_message_is_true(case, given, stage):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    given(case, item_id)
    project = case.project
    case.project = with_classes(NEW)
    expected = (
        r"labels.classes of pets must have every class that labels were given with, and no name of a former one: "
        r"cat, dog, owl \(got: added boot, shoe; removed cat, owl\). `dethrone project migrate pets` prints "
        r"what may become of them. Labels of 1 items were collected."
    )
    with pytest.raises(GateClosed, match=expected) as caught:
        getattr(case, stage)()
    assert caught.value.code == "SCHEMA_DRIFT"
    assert '"boot"' not in case.labeling.project(case.ls_project()).label_config
    case.project = project
    case.collect()


def test_e1_an_older_attempt_changes_no_class_list(case):
    case.add_numbers([1])
    case.annotate()
    case.project = with_classes(NEW)
    update = case.labeling.update_project

    def overtaken(*args, **more):
        case.database.acquire(f"{NAME}/annotate", Attempt("run", "annotate", 99), now=dt.datetime.now(dt.UTC))
        update(*args, **more)

    case.labeling.update_project = overtaken
    with pytest.raises(PermanentError, match="must hold the lease pets/annotate"):
        case.annotate()
    assert case.labels.registration(NAME)[0] == CLASSES


# One person


def test_e9_the_demo_is_finished_by_one_account(case, tmp_path):
    from pipeline_tasks.demo.labelers import let_one_person_finish

    folder = tmp_path / "fashion"
    folder.mkdir()
    for name in ("project.yaml", "labeling.xml"):
        (folder / name).write_bytes((ROOT / "projects" / "fashion" / name).read_bytes())
    said = []
    let_one_person_finish(folder / "project.yaml", say=said.append)
    let_one_person_finish(folder / "project.yaml", say=said.append)
    assert len(said) == 1
    demo = load_project(folder)
    assert demo.config.labels == load_project(ROOT / "projects" / "fashion").config.labels.model_copy(
        update={"exam_annotators": 1}
    )
    case.project = make_project(exam_annotators=demo.config.labels.exam_annotators)
    case.labeling.people = ["admin@dethrone.local"]
    train, exam = case.add_numbers(range(3)), case.add_numbers(range(3, 6), split="exam")
    assert case.annotate().note == ""
    for queue, items in (("label", train), ("exam", exam)):
        for item_id in items:
            case.labeling.answer(case.ls_project(queue), item_id, "cat", by="admin@dethrone.local")
    assert case.collect().num_decided == 6
    assert sum(counted.outstanding for counted in case.labels.counts(NAME).values()) == 0


def test_e9_who_is_missing_is_said_by_annotate_and_collect_until_nothing_waits(case):
    case.labeling.people = ["admin@dethrone.local"]
    (item_id,) = case.add_numbers([1], split="exam")
    line = (
        "1 items of pets (queue exam) wait for 2 people each (labels.exam_annotators) and 1 has an account in Label "
        "Studio (admin@dethrone.local). Invite 1 more there (Organization, Add People), or set labels.exam_annotators "
        "to 1."
    )
    assert case.annotate().note == line
    case.labeling.answer(case.ls_project("exam"), item_id, "cat", by="admin@dethrone.local")
    assert case.collect().note == line
    case.labeling.people.append("ben@x")
    assert case.collect().note == ""


def test_e9_status_says_who_is_missing_and_nothing_while_label_studio_is_away(case, tmp_path):
    from pipeline_tasks.orchestration.labeler_status import missing_people_lines

    init_project(tmp_path, name=NAME, template="image-classification", classes=CLASSES)
    case.labeling.people = ["admin@dethrone.local"]
    parts = SimpleNamespace(
        database=case.database, labeling=case.labeling, settings=SimpleNamespace(projects_dir=tmp_path)
    )
    assert missing_people_lines(parts) == []
    case.add_numbers([1], split="exam")
    case.annotate()
    (line,) = missing_people_lines(parts)
    assert line.startswith("1 items of pets (queue exam) wait for 2 people each")
    case.labeling.fail("accounts", ServiceUnavailable("away"))
    assert missing_people_lines(parts) == []


@pytest.mark.parametrize(
    ("wanted", "waiting", "accounts", "starts"),
    [
        ({"annotators": 3, "exam_annotators": 3}, {"label": 4, "exam": 0}, ["a", "b"], "4 items of pets (queue label)"),
        ({"annotators": 3, "exam_annotators": 3}, {"label": 0, "exam": 0}, ["a"], ""),
        ({"exam_annotators": 2}, {"label": 9, "exam": 1}, ["a", "b"], ""),
        ({"exam_annotators": 2}, {"label": 0, "exam": 1}, [], "1 items of pets (queue exam)"),
    ],
)
def test_e9_the_line_on_who_is_missing(wanted, waiting, accounts, starts):
    line = missing_line("pets", Labels(classes=CLASSES, **wanted), waiting=waiting, accounts=accounts)
    assert line.startswith(starts)
    assert bool(line) == bool(starts)
