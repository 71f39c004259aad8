from pipeline_tasks.validation.check_reports import CheckContext, write_docs
from pipeline_tasks.validation.task import check_items
from tests.unit.validation.builders import NOW, png


def context(scene, folder) -> CheckContext:
    return CheckContext("pets", scene.store, scene.datasets, folder, "run-1", NOW)


def test_every_link_of_the_index_leads_to_a_page(scene):
    for index in range(3):
        scene.add_item(png(index))
    scene.add_item(b"no image", key="bad")
    report = check_items(scene.project, "b1", **scene.arguments)
    docs = scene.folder / "data-docs"
    page = docs / "pets" / "items" / report.report_key.rsplit("/", 1)[-1]
    assert page.read_bytes() == scene.store.get(report.report_key)
    index = (docs / "pets" / "index.html").read_text()
    assert f'href="items/{page.name}"' in index
    assert "Passed, rows put aside" in index
    assert "4 rows: READABLE, 1 of 4: False" in index
    assert 'href="pets/index.html"' in (docs / "index.html").read_text()
    assert not list(docs.rglob("*.tmp"))


def test_another_machine_gets_the_pages_from_the_object_store(scene):
    scene.add_item(png(0))
    check_items(scene.project, "b1", **scene.arguments)
    elsewhere = scene.folder / "elsewhere"
    index = write_docs(context(scene, elsewhere))
    assert index == elsewhere / "pets" / "index.html"
    assert len(list((elsewhere / "pets" / "items").glob("*.html"))) == 1


def test_a_second_look_at_a_batch_keeps_the_first_record(scene):
    scene.add_item(png(0))
    first = check_items(scene.project, "b1", **scene.arguments)
    check_items(scene.project, "b1", **scene.arguments | {"run_id": "run-2"})
    (record,) = scene.datasets.checks("pets")
    assert (record.run_id, record.report_key) == ("run-1", first.report_key)
    assert scene.datasets.check_of("pets", stage="items", subject="b1") == record
    assert scene.datasets.check_of("pets", stage="items", subject="other") is None
    assert scene.datasets.check_counts() == {"pets": 1}
