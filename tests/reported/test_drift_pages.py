"""An alarm that somebody sees, and the page of each window."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from pipeline_tasks.orchestration import overview
from pipeline_tasks.orchestration.links import links_of
from pipeline_tasks.orchestration.overview_page import render_overview
from tests.unit.monitoring.builders import Production, record
from tests.unit.monitoring.test_task import with_audits
from tests.unit.validation.builders import png

# An alarm that somebody sees, and the page that was said to be there


@pytest.fixture
def drifted(database, object_store, tmp_path):
    """Two blocks of answers that are far from the exam's, and what the monitor made of them."""
    production = Production(database, object_store, tmp_path)
    production.crown("m1", accuracy=0.9, answers=[[0.95, 0.05]] * 300)
    for run_id, start in (("run-1", 0), ("run-2", 200)):
        production.log(*[record(number, confidence=0.35, payload=png(0)) for number in range(start, start + 200)])
        report = production.run(run_id)
    return production, report


def test_a_drift_alarm_is_the_windows_one_state(drifted):
    """`state: OK` (here: INSUFFICIENT_DATA) stood beside an alarm."""
    production, report = drifted
    assert report.alarms == (
        "Answers of m1 have moved from its exam: confidence PSI 12.07, label distance 0.00 beyond chance.",
    )
    assert report.state == "ALARM"
    (window,) = production.monitoring.windows("pets", "quality", limit=1)
    assert window.statistics["state"] == "ALARM"
    assert window.statistics["versions"]["m1"]["state"] == "INSUFFICIENT_DATA"
    assert production.monitoring.has_open_alarm("pets") is False  # drift asks people, it does not wake training


def test_each_window_has_a_page_with_its_alarms_and_figures(drifted, object_store):
    """The DAG's doc and the plugin spoke of a page that nothing wrote."""
    production, report = drifted
    assert re.fullmatch(rf"reports/pets/monitor/{report.window_id}-[0-9a-f]{{64}}\.html", report.report_key)
    page = object_store.get(report.report_key).decode().replace("\N{NO-BREAK SPACE}", " ")
    for said in (
        "Alarm",
        "Answers of m1 have moved from its exam",
        "m1: nothing audited yet, exam 0.900 (at least 0.887)",
        "DRIFT: 200 predictions beside the exam",
        '<tr><td>30 to 40 %</td><td class="number">0.0 %</td><td class="number">100.0 %</td></tr>',
        '<tr><td>90 to 100 %</td><td class="number">100.0 %</td><td class="number">0.0 %</td></tr>',
    ):
        assert said in page
    assert "<script" not in page
    again = production.run("run-2", number=2)
    assert (again.report_key, object_store.get(again.report_key).decode().count("<h1>")) == (report.report_key, 1)


def test_a_window_without_figures_has_a_page_too(database, object_store, tmp_path):
    report = Production(database, object_store, tmp_path).run("run-1")
    page = object_store.get(report.report_key).decode()
    assert "Too little data: neither an alarm nor an all-clear" in page
    assert "Not measured yet: 0 predictions so far." in page


def test_live_quality_stands_on_the_page_window_by_window(database, object_store, tmp_path):
    production = Production(database, object_store, tmp_path, audit_share=1.0)
    production.crown("m1", accuracy=0.9)
    with_audits(production, right=8, wrong=12)
    report = production.run("run-2")
    page = object_store.get(report.report_key).decode().replace("\N{NO-BREAK SPACE}", " ")
    assert report.state == "ALARM"
    assert '<td class="number">10</td><td>80.0 % <span class="small">49.0 % to 94.3 %</span></td>' in page
    assert '<td class="number">10</td><td>0.0 % <span class="small">0.0 % to 27.8 %</span></td>' in page


def test_the_overview_shows_the_alarms_of_the_champion_of_now(drifted):
    production, report = drifted
    settings = SimpleNamespace(airflow_url="http://airflow", label_studio_url="http://labels")
    parts = SimpleNamespace(database=production.database, store=production.outside.store, settings=settings)
    line = overview._line(parts, production.project)
    assert line.alarms[:-1] == report.alarms
    said = "An alarm stands since 2026-03-01 12:00 UTC, and the exam predates it; of the 10 exam items from after it"
    assert line.alarms[-1].startswith(f"{said}, 0 are")
    page = render_overview([line])
    assert f'<p class="alarm"><b>Alarm.</b> {report.alarms[0]}</p>' in page
    assert f"/dethrone/reports/{report.report_key}" in page
    production.crown("m2", generation=2)
    assert overview._line(parts, production.project).alarms == ()


def test_the_monitors_button_leads_to_its_page_and_not_to_the_data_checks():
    settings = SimpleNamespace(airflow_url="http://airflow")
    assert links_of(settings, report="reports/pets/monitor/w.html") == {
        "Report": "http://airflow/dethrone/reports/reports/pets/monitor/w.html"
    }
    assert "Data Docs" in links_of(settings, report="reports/pets/checks/items/1.html")
