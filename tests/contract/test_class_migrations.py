"""Migrations of classes on SQLite and PostgreSQL: new versions, nothing overwritten, and back."""

import pytest
import sqlalchemy as sa

from pipeline_tasks.annotation.class_plan import ClassOptions
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.class_migrations import ClassMigrations, ClassUse
from pipeline_tasks.catalog.labels import DecisionRow
from pipeline_tasks.catalog.monitoring import AuditRow, MonitoringRepository
from pipeline_tasks.catalog.newest_annotations import answers_of
from pipeline_tasks.catalog.schema_versions import SchemaRepository
from pipeline_tasks.errors import ConfigError, GateClosed, StaleAttempt
from tests.fakes_labeling import FakeLabelStudio
from tests.labeling_case import CLASSES, NAME, NOW, Case, codes_of, make_item, with_classes

MERGED = ["pet", "owl"]
MERGE = ClassOptions(merges=("cat,dog=pet",))


@pytest.fixture
def case(database):
    """Six labeled items, two of each class, two labels of the source among them, and a disputed exam item."""
    case = Case(database, FakeLabelStudio())
    case.train = case.add_numbers(range(4)) + case.add_numbers([4, 5], label="owl")
    (case.exam,) = case.add_numbers([6], split="exam")
    case.annotate()
    for item_id, label in zip(case.train[:4], ["cat", "cat", "dog", "dog"], strict=True):
        case.labeling.answer(case.ls_project(), item_id, label)
    for label, person in (("cat", "ann@x"), ("dog", "ben@x")):
        case.labeling.answer(case.ls_project("exam"), case.exam, label, by=person)
    case.collect()
    return case


def labels_of(case):
    decisions = case.labels.decisions(NAME, [*case.train, case.exam])
    return [decisions[item_id].label for item_id in case.train]


def test_a_merge_gives_each_label_a_new_version_and_settles_disputes(case):
    before = case.labels.annotations(NAME, [*case.train, case.exam])
    migration = case.migrate(MERGED, MERGE)
    assert labels_of(case) == ["pet"] * 4 + ["owl"] * 2
    assert case.labels.registration(NAME)[:2] == (MERGED, 2)
    assert [row.label for row in case.labels.history(NAME, case.train[0])] == ["cat", "pet"]
    assert case.label_of(case.exam) == (2, "decided", "pet")
    assert case.labels.annotations(NAME, [*case.train, case.exam]) == before
    assert '"pet"' in case.labeling.project(case.ls_project("exam")).label_config
    assert len(migration.decisions) == 5
    assert case.labels.counts(NAME)["exam"].done == 1


def test_what_is_answered_under_a_former_name_is_read_as_what_it_stands_for(case):
    (late,) = case.add_numbers([7])
    case.annotate()
    case.migrate(MERGED, MERGE)
    case.labeling.answer(case.ls_project(), late, "dog")  # the page was open since before
    edited = case.labels.annotations(NAME, case.train[:1])[case.train[0]][0].annotation_id.partition("@")[0]
    case.labeling.edit(edited, "dog")
    case.add(make_item(8, label="cat"))
    case.collect()
    case.annotate()
    assert case.label_of(late)[1:] == ("decided", "pet")
    assert case.label_of(case.train[0])[2] == "pet"
    assert case.labels.decisions(NAME, [make_item(8).item_id])[make_item(8).item_id].label == "pet"
    assert codes_of(case) == []
    assert case.collect().num_decided == 0


def test_a_suggestion_of_a_model_that_knows_the_former_names_is_shown_under_that_of_now(case):
    case.migrate(MERGED, MERGE)
    (new,) = case.add_numbers([9])
    case.annotate(suggestions=lambda items: {item.item_id: {"label": "dog", "score": 0.9} for item in items})
    (task,) = [task for task in case.labeling.tasks_of(case.ls_project()) if task["data"]["item_id"] == new]
    assert task["predictions"][0]["result"][0]["value"] == {"choices": ["pet"]}


def test_an_undo_gives_each_label_back(case):
    case.migrate(MERGED, MERGE)
    case.migrate(CLASSES, ClassOptions(), undo=True)
    assert labels_of(case) == ["cat", "cat", "dog", "dog", "owl", "owl"]
    assert case.label_of(case.exam) == (3, "disputed", None)
    assert case.labels.registration(NAME)[:2] == (CLASSES, 3)
    assert [version.undoes for version in SchemaRepository(case.database).history(NAME)] == [None, None, 2]
    assert case.collect().num_decided == 0
    assert '"cat"' in case.labeling.project(case.ls_project()).label_config


def test_undos_one_after_the_other_give_each_label_back(case):
    case.migrate(MERGED, MERGE)
    case.migrate(["animal", "owl"], ClassOptions(renames=("pet=animal",)))
    assert labels_of(case)[:4] == ["animal"] * 4
    case.labeling.answer(case.ls_project(), case.train[1], "owl", by="ben@x")
    case.collect()  # two who differ: the item is no longer as the migration left it
    case.migrate(MERGED, ClassOptions(), undo=True)
    assert labels_of(case) == ["pet", None, "pet", "pet", "owl", "owl"]
    case.migrate(CLASSES, ClassOptions(), undo=True)
    assert labels_of(case) == ["cat", None, "dog", "dog", "owl", "owl"]
    assert len(case.labels.history(NAME, case.train[0])) == 5
    with pytest.raises(ConfigError, match="--undo needs a schema version after the first that is not undone"):
        case.migrate(MERGED, ClassOptions(), undo=True)


def test_an_undo_asks_what_becomes_of_the_labels_that_were_given_since(case):
    (late,) = case.add_numbers([7])
    case.annotate()
    case.migrate(MERGED, MERGE)
    case.labeling.answer(case.ls_project(), late, "pet")
    case.collect()
    with pytest.raises(
        ConfigError, match=r"got nothing of pet: .* 1 items would be orphaned: .*Give --move-to"
    ) as caught:
        case.migrate(CLASSES, ClassOptions(), undo=True)
    assert caught.value.code == "CLASSES_ORPHANED"
    assert case.labels.registration(NAME)[:2] == (MERGED, 2)
    case.migrate(CLASSES, ClassOptions(move_to="cat"), undo=True)
    assert labels_of(case)[:4] == ["cat", "cat", "dog", "dog"]
    assert case.label_of(late) == (2, "decided", "cat")
    assert case.collect().num_decided == 0


def edit_answer(case, item_id, label):
    """Answer anew, as the person who has answered."""
    (row,) = case.labels.annotations(NAME, [item_id])[item_id]
    case.labeling.edit(row.annotation_id.partition("@")[0], label)


@pytest.mark.parametrize(
    ("options", "label"), [(ClassOptions(move_to="dog"), "dog"), (ClassOptions(drop=True), None)], ids=["move", "drop"]
)
def test_an_undo_asks_what_becomes_of_a_label_that_its_person_has_given_anew(case, options, label):
    case.migrate(MERGED, MERGE)
    edit_answer(case, case.train[0], "pet")
    assert case.collect().num_decided == 0  # it is "pet" already
    with pytest.raises(ConfigError, match=r"got nothing of pet: 1 annotations and 1 items would be orphaned"):
        case.migrate(CLASSES, ClassOptions(), undo=True)
    case.migrate(CLASSES, options, undo=True)
    assert labels_of(case) == [label, "cat", "dog", "dog", "owl", "owl"]
    edit_answer(case, case.train[0], "pet")  # the page was open since before: read as what was said of its name
    case.collect()
    assert labels_of(case) == [label, "cat", "dog", "dog", "owl", "owl"]


def test_an_undo_takes_up_what_is_not_collected_yet(case):
    (late,) = case.add_numbers([7])
    case.annotate()
    case.migrate(MERGED, MERGE)
    case.labeling.answer(case.ls_project(), late, "pet")
    with pytest.raises(ConfigError, match=r"got nothing of pet: 1 annotations and 1 items would be orphaned"):
        case.migrate(CLASSES, ClassOptions(), undo=True)
    edit_answer(case, case.train[2], "pet")
    case.migrate(CLASSES, ClassOptions(move_to="cat"), undo=True)
    assert labels_of(case)[:4] == ["cat", "cat", "cat", "dog"]
    assert case.label_of(late)[1:] == ("decided", "cat")
    assert (case.collect().num_decided, codes_of(case)) == (0, [])


def test_an_undo_needs_no_project_in_label_studio_that_somebody_has_deleted(case):
    case.migrate(MERGED, MERGE)
    case.labeling.drop_project(case.ls_project())
    case.migrate(CLASSES, ClassOptions(), undo=True)
    assert labels_of(case)[:4] == ["cat", "cat", "dog", "dog"]


def test_an_undo_decides_by_what_people_have_answered_since(case):
    case.migrate(MERGED, MERGE)
    edit_answer(case, case.train[0], "dog")  # the page was open since before
    case.collect()
    case.migrate(CLASSES, ClassOptions(), undo=True)
    assert labels_of(case)[:4] == ["dog", "cat", "dog", "dog"]
    assert case.collect().num_decided == 0


def test_an_undo_gives_the_names_of_before_their_meaning_of_then(case):
    case.migrate(["feline", "dog", "owl"], ClassOptions(renames=("cat=feline",)))
    case.migrate(MERGED, ClassOptions(merges=("feline,dog=pet",)))
    case.migrate(["feline", "dog", "owl"], ClassOptions(), undo=True)
    edit_answer(case, case.train[0], "cat")
    edit_answer(case, case.train[2], "dog")
    case.collect()
    assert labels_of(case)[:4] == ["feline", "feline", "dog", "dog"]


def test_a_class_that_is_removed_takes_its_labels_along_or_moves_them(case):
    with pytest.raises(ConfigError, match=r"got nothing of dog: 3 annotations and 3 items would be orphaned"):
        case.migrate(["cat", "owl"], ClassOptions())
    case.migrate(["cat", "owl"], ClassOptions(removed=("dog",), drop=True))
    assert labels_of(case) == ["cat", "cat", None, None, "owl", "owl"]
    assert case.label_of(case.train[2]) == (2, "withdrawn", None)
    assert case.labels.annotations(NAME, case.train[2:3])[case.train[2]][0].label == "dog"
    case.annotate()
    case.collect()
    assert labels_of(case) == ["cat", "cat", None, None, "owl", "owl"]
    case.migrate(CLASSES, ClassOptions(), undo=True)
    assert labels_of(case) == ["cat", "cat", "dog", "dog", "owl", "owl"]
    case.migrate(["cat", "owl"], ClassOptions(removed=("dog",), move_to="owl"))
    assert labels_of(case) == ["cat", "cat", "owl", "owl", "owl", "owl"]


WITHOUT_DOG, DROP_DOG = ["cat", "owl"], ClassOptions(removed=("dog",), drop=True)


def test_a_drop_leaves_decisions_of_other_classes_as_they_are(database):
    case = Case(database, FakeLabelStudio(), project=with_classes(CLASSES, annotators=3))
    cat, dog, both = case.add_numbers(range(3))
    case.annotate()
    for item_id, votes in ((cat, ["cat", "cat", "dog"]), (dog, ["cat", "dog", "dog"]), (both, ["cat", "dog", "owl"])):
        for label, person in zip(votes, case.labeling.people, strict=True):
            case.labeling.answer(case.ls_project(), item_id, label, by=person)
    case.collect()
    migration = case.migrate(WITHOUT_DOG, DROP_DOG, annotators=3)
    assert [row.item_id for row in migration.decisions] == [dog]
    case.labeling.people.append("dan@x")
    for item_id in (cat, dog):
        case.labeling.answer(case.ls_project(), item_id, None, by="dan@x")  # a skip: collect decides anew
    case.collect()
    assert [case.label_of(item_id) for item_id in (cat, dog)] == [(1, "decided", "cat"), (2, "withdrawn", None)]
    assert case.labeling.shown_to(case.ls_project(), "dan@x") == [both]
    case.labeling.answer(case.ls_project(), both, "owl", by="dan@x")
    case.collect()
    assert case.label_of(both)[1:] == ("decided", "owl")
    case.migrate(CLASSES, ClassOptions(), undo=True, annotators=3)
    case.collect()
    assert [case.label_of(item_id) for item_id in (cat, dog)] == [(1, "decided", "cat"), (3, "decided", "dog")]


def test_a_dispute_with_a_class_that_was_dropped_asks_one_more_person(case):
    case.collect()
    (third,) = case.labeling.shown_to(case.ls_project("exam"), "cleo@x")
    assert third == case.exam
    case.labeling.answer(case.ls_project("exam"), case.exam, "owl", by="cleo@x")
    case.collect()
    assert case.labels.counts(NAME)["exam"].done == 1  # three labels of three people: nobody is asked any more
    case.migrate(WITHOUT_DOG, DROP_DOG)
    assert case.label_of(case.exam)[1:] == ("disputed", None)
    assert case.collect().num_asked == 1
    assert case.labeling.shown_to(case.ls_project("exam"), "dan@x") == [case.exam]
    case.labeling.answer(case.ls_project("exam"), case.exam, "cat", by="dan@x")
    case.collect()
    assert case.label_of(case.exam)[1:] == ("decided", "cat")


def test_a_dispute_of_two_is_decided_by_the_next_person_where_one_class_was_dropped(case):
    case.migrate(WITHOUT_DOG, DROP_DOG, further_people=0)
    assert case.collect().num_asked == 1
    case.labeling.answer(case.ls_project("exam"), case.exam, "cat", by="cleo@x")
    case.collect()
    assert case.label_of(case.exam)[1:] == ("decided", "cat")


def test_a_dispute_of_dropped_classes_alone_is_over(case):
    case.migrate(["owl", "bat"], ClassOptions(removed=("cat", "dog"), drop=True))
    assert case.label_of(case.exam)[1:] == ("withdrawn", None)
    assert case.collect().num_asked == 0


def test_a_source_that_corrects_a_label_after_its_class_was_dropped_is_heard(case):
    without_owl = ["cat", "dog"]
    case.migrate(without_owl, ClassOptions(removed=("owl",), drop=True))
    with case.database.engine.begin() as connection:
        mine = t.items.c.item_id == case.train[4]
        connection.execute(t.items.update().where(mine).values(source_label="cat"))
    for num_corrected in (1, 0):
        assert case.annotate().num_imported_labels == num_corrected
        assert labels_of(case)[4:] == ["cat", None]
    case.project = with_classes(CLASSES)  # the class comes back: what was dropped stays so
    assert case.annotate().num_imported_labels == 0
    assert labels_of(case)[4:] == ["cat", None]


def test_a_late_answer_of_a_class_that_was_dropped_counts_as_refused(case):
    (late,) = case.add_numbers([7])
    case.annotate()
    case.migrate(["cat", "owl"], ClassOptions(removed=("dog",), drop=True))
    case.labeling.answer(case.ls_project(), late, "dog")
    report = case.collect()
    assert (report.num_annotations, report.num_refused, codes_of(case)) == (1, 1, ["UNKNOWN_CLASS"])
    assert case.label_of(late) is None


def test_uses_are_counted_under_the_names_of_now(case):
    uses = ClassMigrations(case.database).uses(NAME)
    assert uses["cat"] == ClassUse(decided=2, annotations=3)
    assert uses["owl"] == ClassUse(decided=2, source_labels=2)
    case.migrate(MERGED, MERGE)
    assert ClassMigrations(case.database).uses(NAME)["pet"] == ClassUse(decided=5, annotations=6)


def test_the_same_command_again_changes_nothing(case):
    for _ in range(2):
        case.migrate(MERGED, MERGE)
    assert case.labels.registration(NAME)[1] == 2
    for _ in range(2):
        case.migrate(CLASSES, ClassOptions(), undo=True)
    assert case.labels.registration(NAME)[1] == 3
    assert [row.label for row in case.labels.history(NAME, case.train[0])] == ["cat", "pet", "cat"]


def test_a_migration_and_an_older_collect_do_not_meet(case):
    case.database.acquire(f"{NAME}/collect", case.attempt("collect"), now=NOW)
    prepared = case.prepare(MERGED, MERGE)
    fences = [case.database.acquire(f"{NAME}/{stage}", case.attempt("m"), now=NOW) for stage in ("annotate", "collect")]
    case.database.acquire(f"{NAME}/collect", case.attempt("collect"), now=NOW)
    with pytest.raises(StaleAttempt):
        ClassMigrations(case.database).apply(NAME, prepared.version, prepared.decisions, fences=fences)
    assert case.labels.registration(NAME)[:2] == (CLASSES, 1)
    assert len(SchemaRepository(case.database).history(NAME)) == 1


def test_until_it_is_migrated_annotate_and_collect_stop(case):
    case.project = with_classes(MERGED)
    for stage in (case.annotate, case.collect):
        with pytest.raises(GateClosed, match="`dethrone project migrate pets` prints what may become of them"):
            stage()


def test_what_somebody_has_changed_in_label_studio_is_kept_by_a_migration_or_put_back(case):
    edited = case.labeling.project(case.ls_project()).label_config.replace('"owl"', '"eagle"')
    case.labeling.set_config(case.ls_project(), edited)
    case.migrate(CLASSES, ClassOptions())  # nothing changes in project.yaml: its list is put back
    assert '"owl"' in case.labeling.project(case.ls_project()).label_config
    case.labeling.set_config(case.ls_project(), edited)
    case.migrate(["cat", "dog", "eagle"], ClassOptions(renames=("owl=eagle",)))
    assert labels_of(case)[4:] == ["eagle", "eagle"]
    assert case.annotate().num_pushed == 0


def test_the_versions_cannot_be_changed(case):
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), case.database.engine.begin() as connection:
        connection.execute(t.schema_versions.update().values(changed_by="me"))


def test_an_audit_of_a_model_that_knows_the_former_names_is_right_where_they_stand_for_the_label(case):
    monitoring = MonitoringRepository(case.database)
    fence = case.database.acquire("monitor", case.attempt("monitor"), now=NOW)
    said = zip(case.train[:3], ["cat", "dog", "owl"], strict=True)
    picks = [AuditRow(f"p-{label}", item_id, "m1", label, 0.9, "audit", NOW) for item_id, label in said]
    monitoring.record_picks(NAME, picks, now=NOW, fence=fence)
    before = {audit.prediction_id: audit.is_right for audit in monitoring.audited(NAME)}
    assert before == {"p-cat": True, "p-dog": False, "p-owl": False}
    case.migrate(MERGED, MERGE)
    after = {audit.prediction_id: audit.is_right for audit in monitoring.audited(NAME)}
    assert after == {"p-cat": True, "p-dog": True, "p-owl": False}


def test_labelers_are_compared_under_the_names_of_now(case):
    case.migrate(["cat", "owl"], ClassOptions(removed=("dog",), move_to="owl"))
    assert {label for _, _, label in answers_of(case.database, NAME)} == {"cat", "owl"}
    case.migrate(CLASSES, ClassOptions(), undo=True)
    case.migrate(["cat", "owl"], ClassOptions(removed=("dog",), drop=True))
    assert {label for _, _, label in answers_of(case.database, NAME)} == {"cat"}


def test_decisions_of_others_are_left_alone(case):
    row = DecisionRow(case.train[0], 1, "decided", "cat", "single", ("1",), ("ann@x",), 1.0, 1, NOW)
    case.labels.commit("others", decisions=[row], now=NOW)
    case.migrate(MERGED, MERGE)
    assert [entry.label for entry in case.labels.history("others", case.train[0])] == ["cat"]
