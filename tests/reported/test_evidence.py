"""What people read, and what the owner of the database or the bucket changes: found, or listed (reports H7, H8)."""

from types import SimpleNamespace

import pytest

from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.monitoring.page import page_key
from pipeline_tasks.validation.reports import report_key
from pipeline_tasks.wiring import pages, views
from tests.ledger_case import NAME, Case, faults_of

PAGE, FORGED = b"<p>keep: it lost 3 points</p>", b"<p>promote: it gained 3 points</p>"
RESULT = SimpleNamespace(stage="items", subject="b1", suite="image")
REPORT = f"verdicts/{NAME}/verdict-v1/report.html"
PAGES = {
    "H7-verdict": REPORT,
    "H7-check": report_key(NAME, RESULT, PAGE),
    "H7-check-of-an-older-release": f"reports/{NAME}/checks/items/{'a' * 16}-{sha256_hex(PAGE)[:12]}.html",
    "H7-monitor": page_key(NAME, f"quality-{'a' * 16}", PAGE),
}


@pytest.fixture
def judged(database, object_store, monkeypatch):
    """A project with one verdict and its report, and the parts that the pages and commands read it from."""
    case = Case(database, object_store)
    case.judge("v1", report=PAGE)
    parts = SimpleNamespace(database=database, store=object_store)
    monkeypatch.setattr(pages, "_shared_parts", lambda: parts)
    monkeypatch.setattr(views, "build_parts", lambda: parts)
    return case


@pytest.mark.parametrize("key", PAGES.values(), ids=PAGES.keys())
def test_a_page_is_shown_as_it_was_written_or_not_at_all(judged, key):
    judged.store.objects[key] = PAGE
    assert pages.read_report(key) == PAGE
    judged.store.objects[key] = FORGED
    with pytest.raises(DataCorrupt, match=r"It was changed after|must not be believed"):
        pages.read_report(key)


def test_a_forged_report_is_named_by_verify_and_not_saved(judged, tmp_path):
    faults = faults_of(judged.database, judged.store)
    assert faults() == []
    judged.store.objects[REPORT] = FORGED
    (found,) = faults(deep=False)
    assert f"{REPORT} with the SHA-256 {sha256_hex(PAGE)} (got {sha256_hex(FORGED)})" in found
    with pytest.raises(DataCorrupt, match="must not be believed"):
        views.save_report(NAME, verdict=None, output=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_no_recorded_verdict_is_not_shown(judged):
    judged.store.objects[key := f"verdicts/{NAME}/verdict-v9/report.html"] = FORGED
    with pytest.raises(KeyError):
        pages.read_report(key)


def test_a_report_of_an_older_release_is_shown_as_it_lies_there(judged):
    judged.judge("v2", answer="keep", champion="v1")
    judged.store.objects[key := f"verdicts/{NAME}/verdict-v2/report.html"] = PAGE
    assert pages.read_report(key) == PAGE
    assert faults_of(judged.database, judged.store)() == []
