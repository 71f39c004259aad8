"""Labels and Label Studio (reports C3, C5, E1, E2, E9, E12, and hostile input of annotate and collect).

Source: the walk through every page and command of 2026-11-29 (tests/reported/README.md).
"""

import dataclasses
import datetime as dt
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_tasks import cli
from pipeline_tasks.annotation.people import missing_line
from pipeline_tasks.annotation.projects import labeling_config
from pipeline_tasks.catalog import tables
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.contracts import Attempt
from pipeline_tasks.errors import ConfigError, GateClosed, PermanentError, ServiceUnavailable
from pipeline_tasks.ports import LabelingTask
from pipeline_tasks.project import Labels
from pipeline_tasks.project_init import init_project
from pipeline_tasks.project_labeling import parse_labeling
from pipeline_tasks.project_loader import load_project
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, XML, Case, make_item, make_project

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(catalog_url):
    """An empty catalog of each kind: what is refused has to be storable on both."""
    engine = create_engine(catalog_url)
    tables.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def case(database):
    return Case(database, FakeLabelStudio())


@pytest.fixture
def second(tmp_path):
    """A catalog of its own, for another installation."""
    engine = create_engine(f"sqlite:///{tmp_path / 'second.db'}")
    tables.metadata.create_all(engine)
    yield Database(engine)
    engine.dispose()


def texts_of(case):
    return [(one.code, one.digest, one.reason) for one in case.items.quarantined(NAME)]


def codes_of(case):
    return sorted(one.code for one in case.items.quarantined(NAME))


# C3: ours by id and mark


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
    assert [case.label_of(one)[1] for one in items[:num_answers]] == ["decided"] * num_answers
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
    for one in (case, other, case, other):
        one.annotate()
        one.collect()
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


# C5, E2, E12: labeling.xml

RICH = XML.replace(
    "</View>",
    '<Header value="Anything to say?"/><TextArea name="note" toName="image"/><Rating name="sure" toName="image"/>'
    '<Choices name="quality" toName="image"><Choice value="sharp"/><Choice value="blurred"/></Choices>'
    '<Taxonomy name="part" toName="image"><Choice value="head"><Choice value="ear"/></Choice></Taxonomy>'
    "<Style>.x { color: red }</Style></View>",
)


def region(value="cat", *, name="label", kind="choices", key="choices", to="image"):
    return {"from_name": name, "to_name": to, "type": kind, "value": {key: value if key != "choices" else [value]}}


NOTES = [
    region(["a note"], name="note", kind="textarea", key="text"),
    region(4, name="sure", kind="rating", key="rating"),
    region("blurred", name="quality"),
]


def test_c5_other_controls_are_taken_and_the_class_counts(case):
    case.project = make_project(xml=RICH)
    (item_id,) = case.add_numbers([1])
    case.annotate()
    case.labeling.answer(case.ls_project(), item_id, "", result=[NOTES[0], region("owl"), *NOTES[1:]])
    report = case.collect()
    assert (report.num_decided, report.num_refused) == (1, 0)
    assert case.label_of(item_id) == (1, "decided", "owl")
    (row,) = case.labels.annotations(NAME, [item_id])[item_id]
    assert row.result == [NOTES[0], region("owl"), *NOTES[1:]]
    assert texts_of(case) == []


@pytest.mark.parametrize(
    ("classes", "other"),
    [(["cat", "dog", "owl"], ["good", "bad"]), (["no", "yes"], ["no", "yes", "unsure"]), (["a", "b"], ["b", "c"])],
)
@pytest.mark.parametrize("name", ["label", "animal"])
@pytest.mark.parametrize("first", [True, False])
def test_c5_the_class_control_is_the_one_with_the_classes(classes, other, name, first):
    def control(called, answers):
        choices = "".join(f'<Choice value="{one}"/>' for one in answers)
        return f'<Choices name="{called}" toName="image">{choices}</Choices>'

    controls = [control(name, classes), control("other", other)]
    controls = controls if first else controls[::-1]
    text = f'<View><Image name="image" value="$image"/>{"".join(controls)}</View>'
    config = parse_labeling(text, modality="image", classes=classes, file="labeling.xml")
    assert (config.choices_name, config.choices) == (name, tuple(classes))


def test_e12_every_template_asks_for_an_answer(tmp_path):
    for template in ("image-classification", "tabular", "text-classification"):
        project = load_project(init_project(tmp_path, name=f"p_{template[:4]}", template=template))
        assert 'required="true"' in project.labeling_xml
        assert labeling_config(project).xml.count('required="true"') == 1


def test_e12_a_file_without_it_is_pushed_with_it_and_stays_as_it_is(case):
    case.add_numbers([1])
    case.annotate()
    assert "required" not in case.project.labeling_xml
    assert 'required="true"' in case.labeling.project(case.ls_project()).label_config


def test_e12_an_empty_submit_is_named_and_asked_again(case):
    items = case.add_numbers(range(2))
    case.annotate()
    empty = case.labeling.answer(case.ls_project(), items[0], None, result=[], cancelled=False)
    case.labeling.answer(case.ls_project(), items[1], None)  # a skip stays
    report = case.collect()
    assert (report.num_empty, report.num_skipped, report.num_refused, report.num_decided) == (1, 1, 0, 0)
    ((code, digest, reason),) = texts_of(case)
    assert (code, digest) == ("NO_ANSWER", items[0])
    assert "by ann@x must be one class (got 'an empty submit'). It is asked again." in reason
    assert empty not in case.labeling.state["annotations"]
    assert len(case.labeling.state["annotations"]) == 1
    case.labeling.answer(case.ls_project(), items[0], "cat")
    assert case.collect().num_decided == 1
    assert case.label_of(items[0]) == (1, "decided", "cat")


def test_e12_an_empty_submit_of_another_server_removes_nothing_here(case):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    number = case.labeling.answer(case.ls_project(), item_id, None, result=[], cancelled=False)
    delete, case.labeling.delete_annotation = case.labeling.delete_annotation, lambda _id: None  # killed before
    case.collect()
    case.labeling.delete_annotation = delete
    case.labeling.wipe()
    case.annotate()
    case.labeling.state["next_id"] = int(number)
    assert case.labeling.answer(case.ls_project(), item_id, "dog") == number
    assert case.collect().num_decided == 1
    case.collect()
    assert case.label_of(item_id) == (1, "decided", "dog")


def test_e2_the_classes_stand_in_one_file(tmp_path):
    folder = init_project(tmp_path, name="pets", template="image-classification")
    path = folder / "project.yaml"
    path.write_text(path.read_text().replace("[cat, dog]", "[cat, dog, owl]"))
    config = labeling_config(load_project(folder))
    assert config.choices == ("cat", "dog", "owl")
    assert config.xml.count("<Choice ") == 3
    (folder / "labeling.xml").unlink()
    assert labeling_config(load_project(folder)).xml == config.xml


@pytest.mark.parametrize("template", ["image-classification", "tabular", "text-classification"])
def test_e2_init_takes_the_classes(tmp_path, template):
    classes = ["a & b", 'so "called"', "no", "1", "猫 🐈"]
    project = load_project(init_project(tmp_path, name="things", template=template, classes=classes))
    assert project.config.labels.classes == classes
    config = labeling_config(project)
    again = parse_labeling(config.xml, modality=project.config.modality, classes=classes, file="x")
    assert again.choices == tuple(classes)
    assert again.xml == config.xml


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cat"], "labels.classes must be a list of at least 2"),
        (["cat", "cat"], "must name each class once"),
        (["cat", ""], "must be 1 to 100 visible characters"),
        (["cat", "d\0g"], "must be 1 to 100 visible characters"),
        (["cat", "d\udce9g"], "must be 1 to 100 visible characters"),
    ],
)
def test_e2_init_refuses_classes_that_cannot_be_and_writes_nothing(tmp_path, classes, message):
    with pytest.raises(ConfigError, match=message):
        init_project(tmp_path, name="things", template="tabular", classes=classes)
    assert list(tmp_path.iterdir()) == []


def test_e2_init_and_validate_from_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    assert cli.main(["init", "garments", "--classes", "shirt, boot,猫"]) == cli.DONE
    assert cli.main(["project", "validate", "garments"]) == cli.DONE
    assert "garments is valid: image, 3 classes." in capsys.readouterr().out
    assert cli.main(["init", "other", "--classes", "shirt"]) == cli.USAGE
    assert "labels.classes must be a list of at least 2 (got ['shirt'])" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ('<TextArea name="label" toName="image"/>', "Label config contains non-unique names"),
        ('<TextArea name="note" toName="picture"/>', 'toName="picture" not found in names'),
    ],
)
def test_c5_what_label_studio_would_refuse_is_refused_by_validate(tmp_path, monkeypatch, capsys, tag, message):
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path))
    path = init_project(tmp_path, name="garments", template="image-classification") / "labeling.xml"
    path.write_text(path.read_text().replace("</View>", f"{tag}</View>"))
    assert cli.main(["project", "validate", "garments"]) == cli.USAGE
    assert (
        f"labeling.xml must take our answers (got from Label Studio's own check: {message}" in capsys.readouterr().err
    )


# E1: classes that are not frozen by a slot of Airflow


def with_classes(classes, **labels):
    choices = "".join(f'<Choice value="{one}"/>' for one in classes)
    xml = f'<View><Image name="image" value="$image"/><Choices name="label" toName="image">{choices}</Choices></View>'
    return make_project(classes=classes, xml=xml, **labels)


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
        r"labels.classes of pets must stay as the 1 collected labels were given: cat, dog, owl "
        r"\(got: added boot, shoe; removed cat, owl\). A class list with collected labels cannot change yet"
    )
    with pytest.raises(GateClosed, match=expected) as caught:
        getattr(case, stage)()
    assert caught.value.code == "SCHEMA_DRIFT"
    assert '"boot"' not in case.labeling.project(case.ls_project()).label_config
    case.project = project
    case.collect()


# E9: one person


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
    assert sum(one.outstanding for one in case.labels.counts(NAME).values()) == 0


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
    from pipeline_tasks.wiring.labelers import missing_people_lines

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


# Hostile input among good

NUL, HALF, LONG = "a\0b", "a\ud800b", "x" * 5000
HOSTILE = {
    "another control": ([region(name="other")], "NO_CLASS", None),
    "a note alone": (NOTES[:1], "NO_CLASS", None),
    "no label": ([{"from_name": "label", "to_name": "image", "type": "choices", "value": {}}], "SCHEMA_MISMATCH", None),
    "no value": ([{"from_name": "label", "to_name": "image", "type": "choices"}], "SCHEMA_MISMATCH", None),
    "two labels": ([region("cat"), region("dog")], "SCHEMA_MISMATCH", None),
    "no region": (["cat", 3, None], "NO_CLASS", None),
    "another tag": ([region(to="picture")], "SCHEMA_MISMATCH", None),
    "outside the classes": ([region("wolf")], "UNKNOWN_CLASS", None),
    "NUL in the class": ([region("cat\0")], "UNKNOWN_CLASS", None),
    "half a character in the class": ([region("\udc80")], "UNKNOWN_CLASS", None),
    "a list as class": ([region(["cat"])], "UNKNOWN_CLASS", None),
    "a huge class": ([region("x" * 100_000)], "UNKNOWN_CLASS", None),
    "lines in a control's name": ([region(name="a\nb\u2028c")], "NO_CLASS", None),
    "huge note": ([region("cat"), region(["x" * 2_000_000], name="note", key="text")], "NOTE_LEFT_OUT", "cat"),
    "not a number": ([region("cat"), region(float("nan"), name="sure", key="rating")], "NOTE_LEFT_OUT", "cat"),
    "NUL in a note": ([region("cat"), region([NUL], name="note", key="text")], None, "cat"),
    "half a character in a note": ([region("cat"), region([HALF], name="note", key="text")], None, "cat"),
    "HTML and emoji in a note": ([region("cat"), region(["<b>🐈</b>"], name="note", key="text")], None, "cat"),
}


def is_printable(text):
    text.encode()
    return text.isprintable()


def test_hostile_results_are_named_and_the_good_ones_arrive(case):
    items = case.add_numbers(range(len(HOSTILE) + 2))
    case.annotate()
    case.labeling.answer(case.ls_project(), items[-1], "dog")
    for item_id, (result, _, _) in zip(items, HOSTILE.values(), strict=False):
        case.labeling.answer(case.ls_project(), item_id, "", result=result, by=f"<i>{NUL}{HALF}🐈@x")
    case.labeling.answer(case.ls_project(), items[-2], "owl")
    case.collect()
    assert [case.label_of(one) for one in items[-2:]] == [(1, "decided", "owl"), (1, "decided", "dog")]
    found = {digest: (code, reason) for code, digest, reason in texts_of(case)}
    for item_id, (what, (_, code, label)) in zip(items, HOSTILE.items(), strict=False):
        assert found.get(item_id, (None, ""))[0] == code, what
        assert case.label_of(item_id) == (label and (1, "decided", label)), what
    assert all(is_printable(reason) and len(reason) < 2000 for _, reason in found.values())
    again = case.collect()
    assert (again.num_annotations, again.num_refused, again.num_deleted) == (0, 0, 0)
    case.labeling.answer(case.ls_project(), items[0], "cat")
    assert case.collect().num_decided == 1


def test_hostile_tasks_are_named_and_the_good_ones_arrive(case):
    good, changed, removed, stranger_of, exam = case.add_numbers(range(5))
    (examined,) = case.add_numbers([9], split="exam")
    case.annotate()
    tasks = {item_id: ids[0] for item_id, ids in case.labeling.task_ids(case.ls_project()).items()}
    case.labeling.import_tasks(case.ls_project(), [LabelingTask(one, {"image": "x"}) for one in (NUL, HALF, LONG, "")])
    case.labeling.import_tasks(case.ls_project("exam"), [LabelingTask(exam, {"image": "x"})])
    for number, task in enumerate(case.labeling.tasks_of(case.ls_project())):
        if task["data"]["item_id"] in (NUL, HALF, LONG, ""):
            case.labeling.answer(case.ls_project(), task["data"]["item_id"], "cat", by=f"{number}@x")
    case.labeling.answer(case.ls_project("exam"), exam, "cat")
    for item_id, label in ((changed, "cat"), (removed, "dog"), (good, "owl")):
        case.labeling.answer(case.ls_project(), item_id, label)
    case.labeling.edit_data(tasks[changed], item_id=stranger_of)
    case.labeling.edit_data(tasks[removed], item_id=None)
    report = case.collect()
    assert (report.num_decided, report.num_refused) == (1, 7)
    assert case.label_of(good) == (1, "decided", "owl")
    assert case.label_of(stranger_of) is None
    assert case.label_of(exam) is None
    assert codes_of(case) == ["ITEM_CHANGED"] * 2 + ["ITEM_UNKNOWN"] * 5
    assert all(is_printable(one.reason) and is_printable(one.digest) for one in case.items.quarantined(NAME))
    assert case.collect().num_annotations == 0
    case.annotate()  # sets the changed tasks right
    there = case.labeling.task_ids(case.ls_project(), [good, changed, removed, stranger_of, exam])
    assert there == {item_id: [task_id] for item_id, task_id in tasks.items()}
    assert case.collect().num_decided == 2
    assert len(case.labeling.tasks_of(case.ls_project())) == 9  # nobody's imported task was removed
    case.labeling.answer(case.ls_project("exam"), examined, "cat", by="ann@x")
    case.labeling.answer(case.ls_project("exam"), examined, "cat", by="ben@x")
    assert case.collect().num_decided == 1


def test_a_changed_task_that_shows_something_else_is_left_and_its_item_is_asked_again(case):
    items = case.add_numbers(range(2))
    case.annotate()
    task_id = case.labeling.task_ids(case.ls_project())[items[0]][0]
    case.labeling.answer(case.ls_project(), items[0], "cat")
    case.labeling.edit_data(task_id, item_id=items[1], image="another")
    case.collect()
    assert codes_of(case) == ["ITEM_CHANGED"]
    case.annotate()
    assert case.labeling.task_data(case.ls_project(), task_id)["image"] == "another"
    assert len(case.labeling.task_ids(case.ls_project())[items[0]]) == 1
    assert case.label_of(items[1]) is None


def test_an_account_that_is_gone_and_an_endless_lead_time(case):
    (item_id,) = case.add_numbers([1])
    case.annotate()
    case.labeling.answer(case.ls_project(), item_id, "cat", by="nobody")
    read = case.labeling.annotations
    case.labeling.annotations = lambda *args, **more: (
        dataclasses.replace(one, lead_time_seconds=float("nan")) for one in read(*args, **more)
    )
    assert case.collect().num_decided == 1
    (row,) = case.labels.annotations(NAME, [item_id])[item_id]
    assert (row.annotator, row.lead_time_seconds) == ("nobody", None)


class Picky(FakeLabelStudio):
    """Refuses an import with a task that it does not like, whole, as Label Studio does; answers 500 to NUL."""

    def import_tasks(self, project_id, tasks):
        body = json.dumps([dict(one.data) for one in tasks], ensure_ascii=False, allow_nan=False)
        body.encode()
        assert "\\u0000" not in body
        if "REFUSED" in body:
            raise PermanentError(f"Label Studio must accept this (got 400: {NUL}{HALF}).", code="LS_REFUSED")
        return super().import_tasks(project_id, tasks)


def test_hostile_items_stop_only_themselves_on_the_way_into_label_studio(database):
    case = Case(
        database,
        Picky(),
        project=make_project(modality="tabular", xml=XML.replace("Image", "Table").replace("$image", "$row")),
    )
    contents = {
        "good": b'{"a": 1}', "nan": b'{"a": NaN}', "nul": b'{"a": "x\\u0000y"}', "half": b'{"\\ud800": "\\udc00"}',
        "html": b'{"a": "<script>1</script>"}', "refused": b'{"a": "REFUSED"}', "list": b"[1]", "bytes": b"\xff",
        "lost": b'{"a": "lost"}', "cut": b'{"a": "cut"}', "last": b'{"a": 2}',
    }  # fmt: skip
    ids = {}
    for number, (name, content) in enumerate(contents.items()):
        item = make_item(number, content=content, media_type="application/json")
        (ids[name],) = case.add(item)
        if name != "lost":
            case.store.objects[item.location.object_key] = content[: 5 if name == "cut" else None]
    report = case.annotate()
    assert report.num_pushed == 6
    found = {one.digest: one.code for one in case.items.quarantined(NAME)}
    expected = {"refused": "LS_REFUSED", "list": "ITEM_UNREADABLE", "bytes": "ITEM_UNREADABLE"}
    assert found == {ids[key]: code for key, code in {**expected, "lost": "DATA_LOST", "cut": "DATA_LOST"}.items()}
    assert all(is_printable(one.reason) for one in case.items.quarantined(NAME))
    assert case.annotate().num_pushed == 0
    case.store.put(make_item(8, content=contents["lost"]).location.object_key, contents["lost"])  # it is back
    assert case.annotate().num_pushed == 1
    assert set(case.labeling.task_ids(case.ls_project())) == {
        ids[name] for name in ("good", "nan", "nul", "half", "html", "last", "lost")
    }


@pytest.mark.parametrize(
    "bad", [{"label": "wolf", "score": 0.5}, {"label": "cat", "score": float("nan")}, {"label": "cat", "score": 7.0}]
)
def test_a_bad_suggestion_is_left_out_and_its_item_is_asked_for(case, bad):
    first, second_ = case.add_numbers(range(2))
    suggested = {first: bad, second_: {"label": "cat", "score": 0.5}}
    assert case.annotate(suggestions=lambda _items: suggested).num_pushed == 2
    shown = {one["data"]["item_id"]: len(one["predictions"]) for one in case.labeling.tasks_of(case.ls_project())}
    assert shown == {first: 0, second_: 1}
    assert texts_of(case) == []


def test_an_older_attempt_changes_no_class_list(case):
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
