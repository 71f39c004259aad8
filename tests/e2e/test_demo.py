"""`make demo` as a newcomer runs it: the whole story on the real stack, again, and what it leaves behind."""

import argparse
import re
import shlex

import pytest

from pipeline_tasks.cli.main import build_parser
from pipeline_tasks.contracts import sha256_of_file
from tests.e2e.conftest import SPLIT_KEY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def told(make_installation):
    installation = make_installation("demo")
    installation.set_split_key(SPLIT_KEY)
    done = installation.run("demo", timeout=1700)
    return installation, done


def test_the_story_ends_well(told):
    _installation, done = told
    assert "prediction over HTTP equals the champion's offline output" in done.stdout
    assert re.search(r"requests to the gateway\s+│ \d+, 0 failed", done.stdout)
    assert re.search(r"a contender that forgot was held back\s+│ (keep|inconclusive)", done.stdout)
    assert re.search(r"all gated\)\s+│ hold", done.stdout)
    assert "NO" not in {cell.strip() for line in done.stdout.splitlines() for cell in line.split("│")}


def test_the_first_champion_is_near_the_reference_and_the_shift_hurts_it(told):
    _installation, done = told
    first = re.search(r"it is right on (\d+\.\d) % of", done.stdout)
    assert first is not None
    assert 86.0 <= float(first[1]) <= 90.0  # reference at 6,000 clean images: 88 %
    shifted = re.search(r"\(rotated\), 0 failed.*right: (0\.\d+) by", done.stdout)
    again = re.search(r"\(rotated, again.*right: (0\.\d+) by", done.stdout)
    assert shifted is not None
    assert again is not None
    assert 0.45 <= float(shifted[1]) <= 0.65  # reference: 0.56
    assert float(again[1]) >= float(shifted[1]) + 0.1


def test_the_chain_of_champions(told):
    installation, _done = told
    history = installation.json("history", "fashion")
    assert [route["action"] for route in history[:4]] == ["promote", "promote", "rollback", "rollback"]
    champions = [route["champion"] for route in history[:4]]
    assert champions == [champions[0], champions[1], champions[0], champions[1]]
    assert champions[0] != champions[1]


def test_nothing_is_lost_and_nothing_is_twice(told):
    installation, _done = told
    assert "Nothing lost, nothing twice" in installation.run("verify").stdout


def test_the_stack_is_healthy_and_well_kept(told):
    installation, _done = told
    assert installation.run("status").returncode == 0
    assert installation.run("doctor").returncode == 0
    for file in (installation.home / "secrets").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_a_second_demo_goes_on_where_the_first_was(told):
    installation, _done = told
    before = installation.json("history", "fashion")
    done = installation.run("demo", timeout=600)
    after = installation.json("history", "fashion")
    assert [route["generation"] for route in after[: len(before)]] == [route["generation"] for route in before]
    assert "ingest" not in done.stdout.split("Round 2")[0].split("Round 1")[1]
    assert {route["action"] for route in after[len(before) :]} <= {"rollback"}


def test_each_item_is_in_label_studio_once(told):
    installation, _done = told
    from pipeline_tasks.adapters.label_studio import LabelStudio
    from pipeline_tasks.catalog.database import Database, create_engine
    from pipeline_tasks.catalog.labels import LabelRepository

    labeling = LabelStudio(installation.stack["label_studio_url"], installation.secret("label_studio_token"))
    registered = LabelRepository(Database(create_engine(f"sqlite:///{installation.home / 'catalog.db'}"))).registration
    project_ids = registered("fashion")[2].values()
    tasks_of_items = [ids for project_id in project_ids for ids in labeling.task_ids(project_id).values()]
    assert len(tasks_of_items) > 300
    assert all(len(ids) == 1 for ids in tasks_of_items)


def test_no_secret_is_in_a_log_or_on_a_command_line(told):
    installation, _done = told
    import psutil

    secrets = {path.name: path.read_text().strip() for path in (installation.home / "secrets").iterdir()}
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    logs = [path.read_text(errors="replace") for path in installation.home.rglob("*.log")]
    leaked = {name for name, value in secrets.items() if len(value) >= 8 for text in (*lines, *logs) if value in text}
    assert leaked == set()


def test_every_page_that_the_demo_points_to_shows_something(told, tmp_path):
    installation, _done = told
    from playwright.sync_api import sync_playwright

    verdict = installation.json("history", "fashion")[-1]["verdict_id"]
    airflow, studio = installation.stack["airflow_url"], installation.stack["label_studio_url"]
    pages = {
        f"{airflow}/dags": "fashion__train",
        f"{airflow}/dethrone/": "Champion",
        f"{airflow}/dethrone/reports/verdicts/fashion/{verdict}/report.html": "promote",
        f"{airflow}/dethrone/data-docs/index.html": "fashion",
        f"{studio}/projects/": "fashion exam",
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{airflow}/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", installation.secret("airflow_admin_password"))
        page.click("button[type=submit]")
        page.wait_for_url("**/")
        page.goto(f"{studio}/user/login/")
        page.fill("input[name=email]", "admin@dethrone.local")
        page.fill("input[name=password]", installation.secret("label_studio_password"))
        page.click("button[type=submit]")
        for address, text in pages.items():
            answer = page.goto(address)
            assert answer is not None
            assert answer.status == 200, address
            page.get_by_text(text).first.wait_for(timeout=30_000)
        browser.close()


def test_reports_need_a_login(told):
    installation, _done = told
    import httpx

    airflow = installation.stack["airflow_url"]
    for path in ("/dethrone/", "/dethrone/data-docs/index.html", "/dethrone/reports/verdicts/fashion/x/report.html"):
        assert httpx.get(f"{airflow}{path}", trust_env=False).status_code in {401, 403}
    forged = httpx.post(f"{airflow}/dethrone/hooks/label-studio/fashion", json={}, trust_env=False)
    assert forged.status_code == 401


def test_every_command_of_the_readme_runs(told, tmp_path):
    installation, _done = told
    photo = next(installation.projects.joinpath("fashion", "incoming").rglob("*.png"))
    last = installation.json("history", "fashion")[-1]
    composed = installation.projects / "triage"
    composed.mkdir(exist_ok=True)
    (composed / "project.yaml").write_text(
        "name: triage\ngraph:\n  nodes: {only: {project: fashion}}\n  output: [only]\n"
    )
    lines = [
        "up", "status", "logs gateway", "doctor", "init garments", "project validate garments", "ingest fashion",
        "annotate fashion", "collect fashion", "labels fashion", "monitor fashion", "train fashion",
        "rollback fashion --reason test", f"predict fashion {shlex.quote(str(photo))}",
        "graph triage check", "graph triage apply --reason test", "graph triage show",
        "latency fashion --requests 20", "keys issue --project fashion", "keys list",
        "history fashion", f"report fashion --output {tmp_path / 'report.html'}", "quarantine fashion", "verify",
        f"replay {last['verdict_id']}", f"lineage {last['champion']}", f"retrain {last['champion']}",
        "blast-radius fashion --annotator ada@demo.dethrone.local",
        f"experiment fashion start --version {last['champion']}", "experiment fashion report",
        "experiment fashion stop", "serving-base --dry-run", f"secrets {tmp_path / 'secrets'}", "upgrade",
        f"item retire fashion {sha256_of_file(photo)} --reason test",
        "serve fashion",
    ]  # fmt: skip
    (tried,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    # `demo` made this installation, the next test saves and restores it, and the tracker's contract tests sync to W&B.
    assert {line.split()[0] for line in lines} | {"demo", "backup", "down", "restore", "wandb"} == set(tried.choices)
    for line in lines:
        assert installation.run(*shlex.split(line)).returncode == 0, line
    assert "<h1>fashion</h1>" in (tmp_path / "report.html").read_text()


def test_a_backup_of_the_running_stack_comes_back_on_an_empty_machine(told, make_installation, tmp_path):
    installation, _done = told
    backups = tmp_path / "backups"
    installation.run("backup", str(backups), "--check")
    installation.run("down")
    item = next((installation.projects / "fashion" / "incoming").rglob("*.png"))
    empty = make_installation("restored", projects_of=())
    assert empty.json("restore", str(backups))["violations"] == []
    assert empty.json("restore", str(backups))["violations"] == []  # given again, as after a kill
    empty.run("up")
    assert "Nothing lost, nothing twice" in empty.run("verify").stdout
    history = installation.json("history", "fashion")
    assert empty.json("history", "fashion") == history
    assert empty.json("predict", "fashion", str(item))["model_version"] == history[-1]["champion"]
