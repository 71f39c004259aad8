"""Labels that a source corrects, and two labels for one thing."""

import pytest

from pipeline_tasks.annotation.task import _accept_imported
from pipeline_tasks.catalog.class_migrations import ClassMigrations
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.schema_versions import SchemaVersion
from pipeline_tasks.contracts import Attempt
from tests.reported.sources_case import add_case
from tests.unit.ingest.conftest import NOW, png

HEAD = "id,amount,country,label\n"


# Labels


def decided(world):
    """Return the newest decision of each item by its key, after labels were accepted."""
    database = world.items.database
    labels = LabelRepository(database)
    name = world.folder.name
    labels.register(name, classes=world.project.config.labels.classes, schema_version=1, ls_project_ids={}, now=NOW)
    _accept_imported(world.project, labels=labels, now=NOW, fence=database.acquire("a", Attempt("r", "a"), now=NOW))
    items = {item.item_id: item.key for item in world.items.iterate(name)}
    return {
        items[item_id]: (decision.label, decision.version)
        for item_id, decision in labels.decisions(name, items).items()
    }


def test_a_label_corrected_in_a_csv_file_is_a_new_version(texts):
    """Row 1 was labeled negative and is positive."""
    add_case(texts, "f08_before.csv", as_name="films.csv")
    texts.run()
    assert decided(texts) == {"1": ("negative", 1), "2": ("negative", 1), "3": ("positive", 1)}
    add_case(texts, "f08_after.csv", as_name="films.csv")
    report = texts.run(batch="second")
    assert (report.num_labels_corrected, report.num_known, report.num_quarantined) == (1, 3, 0)
    assert decided(texts) == {"1": ("positive", 2), "2": ("negative", 1), "3": ("positive", 1)}
    assert texts.run(batch="third").num_labels_corrected == 0


def test_a_label_corrected_twice_and_back(texts):
    """The newest label of a key counts each time."""
    for number, label in enumerate(("positive", "negative", "positive"), start=1):
        texts.write("a.csv", f"id,text,label\n1,film,{label}\n" + "\n" * number)
        texts.run(batch=f"b{number}")
        assert decided(texts) == {"1": (label, number)}


def test_two_labels_of_one_row_in_one_reading_are_a_conflict_each_time(texts):
    """Nobody can know the right one of the two; the label that was there stays, whatever the order."""
    texts.write("a.csv", "id,text,label\n1,film,positive\n1,film,negative\n")
    texts.run()
    texts.write("a.csv", "id,text,label\n1,film,negative\n1,film,positive\n2,other,\n")
    report = texts.run(batch="second")
    assert (report.num_labels_corrected, report.num_quarantined) == (0, 0), "refused before, not again"
    assert decided(texts) == {"1": ("positive", 1)}
    assert texts.refused() == {"1": "LABEL_CONFLICT"}


def test_the_advice_of_a_label_conflict_works_for_rows(texts):
    """With the other row removed, this one counts, also under another key."""
    texts.write("a.csv", "id,text,label\n1,film,positive\n2,film,negative\n")
    texts.run()
    assert texts.refused() == {"2": "LABEL_CONFLICT"}
    texts.write("a.csv", "id,text,label\n2,film,negative\n")
    assert texts.run(batch="second").num_labels_corrected == 1
    assert decided(texts) == {"2": ("negative", 1)}


def test_a_row_that_may_be_elsewhere_is_still_a_conflict(texts):
    """The other row stands in a file that is not read again."""
    texts.write("a.csv", "id,text,label\n1,film,positive\n")
    texts.run()
    texts.write("b.csv", "id,text,label\n2,film,negative\n")
    assert texts.run(batch="second").num_labels_corrected == 0
    assert texts.refused() == {"2": "LABEL_CONFLICT"}


def move(world, old, new):
    (world.incoming / new).parent.mkdir(parents=True, exist_ok=True)
    (world.incoming / old).rename(world.incoming / new)


def test_a_file_moved_to_another_class_folder_has_the_new_label(images):
    """The same bytes, the old key gone; and moved back, and on."""
    images.write("labeled/cat/1.png", png(1))
    images.run()
    assert decided(images) == {"labeled/cat/1.png": ("cat", 1)}
    for number, (old, new) in enumerate([("cat", "dog"), ("dog", "cat"), ("cat", "dog")], start=2):
        move(images, f"labeled/{old}/1.png", f"labeled/{new}/1.png")
        assert images.run(batch=f"b{number}").num_labels_corrected == 1
        assert decided(images) == {f"labeled/{new}/1.png": (new, number)}
    assert images.refused() == {}


def test_two_files_that_changed_places_change_labels(images):
    """Both keys are there and hold other bytes."""
    images.write("labeled/cat/1.png", png(1))
    images.write("labeled/dog/2.png", png(2))
    images.run()
    images.write("labeled/cat/1.png", png(2) + b"")
    images.write("labeled/dog/2.png", png(1) + b"")
    assert images.run(batch="second").num_labels_corrected == 2
    assert {item.item_id: item.source_label for item in images.items.iterate("some_image")} == {
        images.all()["labeled/dog/2.png"].item_id: "dog",
        images.all()["labeled/cat/1.png"].item_id: "cat",
    }


def test_a_copy_in_another_class_folder_is_a_conflict_until_one_is_removed(images):
    """Both keys are there; the advice of the conflict works."""
    images.write("labeled/cat/1.png", png(1))
    images.run()
    images.write("labeled/dog/1.png", png(1))
    assert images.run(batch="second").num_quarantined == 1
    assert images.refused() == {"labeled/dog/1.png": "LABEL_CONFLICT"}
    (images.incoming / "labeled/cat/1.png").unlink()
    report = images.run(batch="third")
    assert (report.num_labels_corrected, report.num_quarantined) == (1, 0)
    assert decided(images) == {"labeled/dog/1.png": ("dog", 1)}


@pytest.mark.parametrize("kind", ["files", "tables"])
def test_labels_are_accepted_after_they_were_ignored(images, texts, kind):
    """Rows that were taken without their label are read again."""
    world = images if kind == "files" else texts
    if kind == "files":
        world.write("labeled/cat/1.png", png(1))
    else:
        world.write("a.csv", "id,text,label\n1,film,positive\n")
    world.edit("  classes:", "  imported: ignore\n  classes:")
    world.run()
    world.run(batch="second")
    assert decided(world) == {}
    world.edit("imported: ignore", "imported: accept")
    report = world.run(batch="third")
    assert (report.num_known, report.num_labeled_at_source) == (1, 1)
    assert list(decided(world).values()) == [("cat" if kind == "files" else "positive", 1)]


def test_a_label_of_people_stays_whatever_the_source_says(texts):
    """The source corrects its label after people decided."""
    from tests.unit.catalog.test_labels import decision

    texts.write("a.csv", "id,text,label\n1,film,positive\n")
    texts.run()
    decided(texts)
    (item,) = texts.all().values()
    human = decision(item.item_id, version=2, label="positive")
    LabelRepository(texts.items.database).commit("some_text", decisions=[human], now=NOW)
    texts.write("a.csv", "id,text,label\n1,film,negative\n")
    assert texts.run(batch="second").num_labels_corrected == 1
    assert decided(texts) == {"1": ("positive", 2)}


def test_a_label_pattern_that_changed_is_a_correction(images):
    """A sibling of the corrected label: the key is the same, the project reads another label from it."""
    images.write("labeled/cat/dog-1.png", png(1))
    images.run()
    images.edit(r"^labeled/(?P<label>[^/]+)/", r"^labeled/[^/]+/(?P<label>[^/]+)-")
    assert images.run(batch="second").num_labels_corrected == 1
    assert decided(images) == {"labeled/cat/dog-1.png": ("dog", 1)}


def test_a_source_that_goes_on_with_a_former_name_is_understood(texts):
    """A class is renamed in project.yaml; the source tells the old name of new rows, and of those it had."""
    texts.write("a.csv", "id,text,label\n1,film,positive\n2,play,negative\n")
    texts.run()
    assert decided(texts) == {"1": ("positive", 1), "2": ("negative", 1)}
    database, name = texts.items.database, texts.folder.name
    renamed = SchemaVersion(2, ("negative", "good"), NOW, {"positive": "good"})
    fence = database.acquire("m", Attempt("r", "m"), now=NOW)
    assert ClassMigrations(database).apply(name, renamed, [], fences=[fence])
    texts.edit("positive", "good")
    texts.write("b.csv", "id,text,label\n3,book,positive\n4,song,good\n5,opera,bad\n")
    report = texts.run(batch="second")
    assert (report.num_quarantined, texts.refused()) == (1, {"5": "UNKNOWN_CLASS"})
    labels = LabelRepository(database)
    labels.accept_imported(name, classes=["negative", "good"], schema_version=2, now=NOW)
    items = {item.key: item.item_id for item in texts.items.iterate(name)}
    newest = labels.decisions(name, items.values())
    assert [newest[items[key]].label for key in "1234"] == ["good", "negative", "good", "good"]
