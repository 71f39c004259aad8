"""Every button and link leads to a page: tried against the apps that have to answer."""

import datetime as dt
import re
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import quote, urljoin, urlsplit

import pytest
from starlette.routing import Match

from data_checks.report import IndexEntry, render_check, render_index, render_root
from data_checks.result import CheckResult
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.orchestration import airflow_operators, overview
from pipeline_tasks.orchestration import overview as orchestration_overview
from pipeline_tasks.orchestration.links import links_of

AIRFLOW, GATEWAY, LABELS = "http://airflow", "http://gateway", "http://labels"
PREFIX = "/dethrone"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
CHECK_KEY = "reports/pets/checks/items/ab-cd.html"
VERDICT_KEY = "verdicts/pets/v1/report.html"
CHECK = CheckResult(
    stage="items",
    subject="b1",
    suite="image",
    success=True,
    severity="ok",
    code="",
    statistics={"num_rows": 1},
    rules=(),
)


@pytest.fixture
def site(monkeypatch, tmp_path):
    """Airflow's plugin, logged in, with one check's page and one verdict's report in the store."""
    import asyncio

    import httpx
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    from pipeline_tasks.orchestration import airflow_plugin

    settings = SimpleNamespace(
        airflow_url=AIRFLOW, gateway_url=GATEWAY, label_studio_url=LABELS, docs_dir=tmp_path / "data-docs"
    )
    objects = {
        CHECK_KEY: render_check("pets", CHECK, created_at=NOW, run_id="r").encode(),
        VERDICT_KEY: b"<p>a report</p>",
    }
    asked = []

    def read_report(key, *, exact):
        asked.append(exact)
        return objects[key]

    monkeypatch.setattr(overview, "read_report", read_report)
    monkeypatch.setattr(airflow_plugin, "get_auth_manager", SimpleAuthManager)
    monkeypatch.setattr("pipeline_tasks.core.settings.load_settings", lambda: settings)
    monkeypatch.setattr(overview, "overview_html", lambda: "<p>overview</p>")
    monkeypatch.setattr(overview, "labels_html", lambda project, *, people: f"<p>{project}, {people}</p>")
    monkeypatch.setattr(airflow_plugin, "_known_projects", lambda: {"fashion"})
    monkeypatch.setitem(
        airflow_plugin.app.dependency_overrides, get_user, lambda: SimpleAuthManagerUser(username="alice", role="user")
    )

    def get(address):
        async def send():
            transport = httpx.ASGITransport(app=airflow_plugin.app, root_path=PREFIX, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport) as client:
                response = await client.get(address)
                return (
                    await client.get(urljoin(address, response.headers["location"]))
                    if response.is_redirect
                    else response
                )

        return asyncio.run(send())

    return SimpleNamespace(get=get, settings=settings, docs=settings.docs_dir, app=airflow_plugin.app, asked=asked)


@pytest.mark.parametrize(("role", "people"), [("viewer", False), ("user", True)])
def test_the_labeling_of_a_known_project_has_a_page(site, monkeypatch, role, people):
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    monkeypatch.setitem(
        site.app.dependency_overrides, get_user, lambda: SimpleAuthManagerUser(username="ann", role=role)
    )
    assert site.get(f"{AIRFLOW}{PREFIX}/labels/fashion").text == f"<p>fashion, {people}</p>"
    assert site.get(f"{AIRFLOW}{PREFIX}/labels/dogs").status_code == 404


@pytest.mark.parametrize(("role", "exact"), [("viewer", False), ("user", True), ("op", True), ("admin", True)])
def test_an_open_exams_figures_are_for_whoever_may_approve(site, monkeypatch, role, exact):
    """By Airflow's own rule of who may answer a required action; other pages are for everybody."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    monkeypatch.setitem(
        site.app.dependency_overrides, get_user, lambda: SimpleAuthManagerUser(username="ann", role=role)
    )
    assert site.get(f"{AIRFLOW}{PREFIX}/reports/{VERDICT_KEY}").status_code == 200
    assert site.get(f"{AIRFLOW}{PREFIX}/reports/{CHECK_KEY}").status_code == 200
    assert site.asked == [exact, True]


def write_docs(site):
    entry = IndexEntry("items/ab-cd.html", "b1", "items", "ok", "1 row", NOW)
    for name, text in {
        "index.html": render_root({"pets": 1}),
        "pets/index.html": render_index("pets", [entry]),
        "pets/items/ab-cd.html": render_check("pets", CHECK, created_at=NOW, run_id="r"),
    }.items():
        (site.docs / name).parent.mkdir(parents=True, exist_ok=True)
        (site.docs / name).write_text(text)


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes)["href"])


def status(site, address):
    """Return what a link's own app answers; Label Studio and W&B are others' and known by their address."""
    parts = urlsplit(address)
    if address.startswith(GATEWAY):
        from bento_services.gateway.api.app import build_app

        scope = {"type": "http", "path": parts.path, "method": "GET"}
        *named, _catch_all = build_app(None).routes
        return 200 if any(route.matches(scope)[0] is Match.FULL for route in named) else 404
    if address.startswith(LABELS):
        return 200 if re.fullmatch(r"/projects/\d+/data", parts.path) else 404
    if parts.path == "/dags":
        return 200
    assert parts.path.startswith(PREFIX), address
    return site.get(address).status_code


def test_e13_every_button_of_a_task_leads_to_a_page(site):
    write_docs(site)
    links = links_of(site.settings, report=CHECK_KEY, label_studio=3, tracker={"url": f"{GATEWAY}/docs"}, service=True)
    assert set(links) == set(airflow_operators.LINKS)
    assert {name: status(site, address) for name, address in links.items()} == dict.fromkeys(links, 200)
    assert status(site, links_of(site.settings, report=VERDICT_KEY)["Report"]) == 200


def test_e13_every_link_of_the_navigation_leads_to_a_page_before_the_first_check_too(site):
    from pipeline_tasks.orchestration.airflow_plugin import DethronePlugin

    for view in DethronePlugin.external_views:
        assert status(site, AIRFLOW + view["href"]) == 200, view
    assert "No check has run yet" in site.get(f"{AIRFLOW}{PREFIX}/data-docs/index.html").text


@pytest.mark.parametrize("start", [f"reports/{CHECK_KEY}", "data-docs/index.html"])
def test_e13_every_link_on_the_pages_of_checks_leads_to_a_page(site, start):
    """The breadcrumb of a check's report led to a 404."""
    write_docs(site)
    waiting, seen = [f"{AIRFLOW}{PREFIX}/{start}"], set()
    while waiting:
        address = waiting.pop()
        answer = site.get(address)
        assert answer.status_code == 200, address
        seen.add(address)
        links = [urljoin(str(answer.url), link) for link in Links(answer.text).found]
        waiting += [link for link in links if link not in seen]
    assert len(seen) >= 3


def test_e13_every_link_of_the_overview_leads_to_a_page(site, database, object_store, monkeypatch):
    from tests.ledger_case import Case

    case = Case(database, object_store)
    case.tell()
    key = f"verdicts/{case.project}/verdict-v1/report.html"
    monkeypatch.setattr(overview, "read_report", lambda _key, **_: b"<p>a report</p>")
    parts = SimpleNamespace(settings=site.settings, database=database)
    links = dict(orchestration_overview._links(parts, case.project))
    assert key.split("/")[1] in links["Newest verdict"]
    for address in links.values():
        assert status(site, urljoin(AIRFLOW, address)) == 200, address


@pytest.mark.parametrize(
    "path",
    [
        f"reports/verdicts/{quote(chr(0))}.html",
        f"reports/verdicts/{quote('é')}.html",
        "reports/verdicts/%ff.html",
        f"reports/verdicts/{'a' * 5000}.html",
        "reports/verdicts/../secrets.html",
        "reports/verdicts/%2e%2e/secrets.html",
        "reports/other/x.html",
        f"data-docs/{quote(chr(0))}.html",
        f"data-docs/{'a' * 5000}.html",
        "data-docs/%2e%2e/catalog.db",
        "data-docs/%ff.html",
        "labels/%00",
        "labels/%2e%2e",
    ],
)
def test_h10_an_odd_name_is_no_such_page(site, path):
    assert site.get(f"{AIRFLOW}{PREFIX}/{path}").status_code == 404


@pytest.mark.parametrize("path", ["%2e%2e/other.html", "pets/%2e%2e/%2e%2e/other.html", "notes.txt"])
def test_no_file_beside_the_pages_is_shown(site, path):
    write_docs(site)
    for file in (site.docs.parent / "other.html", site.docs / "notes.txt"):
        file.write_text("nobody's page")
    assert site.get(f"{AIRFLOW}{PREFIX}/data-docs/{path}").status_code == 404


@pytest.mark.parametrize("path", [f"reports/{VERDICT_KEY}", "data-docs/pets/index.html"])
def test_no_page_may_run_a_script_or_stand_in_another_site(site, path):
    write_docs(site)
    headers = site.get(f"{AIRFLOW}{PREFIX}/{path}").headers
    assert headers["content-security-policy"] == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    )
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_h7_a_page_that_was_changed_is_refused_in_words(site, monkeypatch):
    def refuse(key, **_):
        raise DataCorrupt(f"{key} must hash to ab (got cd). This page must not be believed.")

    monkeypatch.setattr(overview, "read_report", refuse)
    answer = site.get(f"{AIRFLOW}{PREFIX}/reports/{VERDICT_KEY}")
    assert (answer.status_code, "must not be believed" in answer.text) == (409, True)
    name = f"pets/items/{'a' * 16}-{sha256_hex(b'<p>as written</p>')}.html"
    (site.docs / name).parent.mkdir(parents=True)
    (site.docs / name).write_bytes(b"<p>as written</p>")
    assert site.get(f"{AIRFLOW}{PREFIX}/data-docs/{name}").text == "<p>as written</p>"
    (site.docs / name).write_bytes(b"<p>forged</p>")
    answer = site.get(f"{AIRFLOW}{PREFIX}/data-docs/{name}")
    assert (answer.status_code, "the next check writes it again" in answer.text) == (409, True)
