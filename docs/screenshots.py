"""Takes the README's screenshots from a running stack after `make demo`.

.venv/bin/python docs/screenshots.py        (needs Chromium at /usr/bin/chromium)
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from pipeline_tasks.audit.history import route_rows
from pipeline_tasks.core.settings import home_from, process_environment
from pipeline_tasks.orchestration.resources import build_resources

IMAGES = Path(__file__).parent / "images"
PROJECT = "fashion"
WAIT_MS = 4000


def main() -> None:
    """Log in to both web interfaces and save each page."""
    home = home_from(process_environment())
    stack = json.loads((home / "stack.json").read_text())
    airflow, studio = stack["airflow_url"], stack["label_studio_url"]
    promoted = [row for row in route_rows(build_resources(), PROJECT) if row["action"] == "promote"]
    verdict = promoted[-1]["verdict_id"]
    pages = {
        "airflow-train": f"{airflow}/dags/{PROJECT}__train",
        "overview": f"{airflow}/plugin/dethrone",
        "report": f"{airflow}/dethrone/reports/verdicts/{PROJECT}/{verdict}/report.html",
        "label-studio": f"{studio}/projects/{_labeling_project(home)}/data",
    }
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        _log_in(page, f"{airflow}/auth/login", "username", "admin", _secret(home, "airflow_admin_password"))
        _log_in(page, f"{studio}/user/login/", "email", "admin@dethrone.local", _secret(home, "label_studio_password"))
        for name, address in pages.items():
            page.goto(address)
            page.wait_for_timeout(WAIT_MS)
            page.screenshot(path=str(IMAGES / f"{name}.png"))
        browser.close()


def _labeling_project(home: Path) -> int:
    """Return the demo's Label Studio project for training items."""
    with sqlite3.connect(home / "catalog.db") as catalog:
        (ids,) = catalog.execute("SELECT ls_project_ids FROM projects WHERE project = ?", (PROJECT,)).fetchone()
    return int(json.loads(ids)["label"])


def _log_in(page: Page, address: str, field: str, name: str, password: str) -> None:
    page.goto(address)
    page.fill(f"input[name={field}]", name)
    page.fill("input[name=password]", password)
    page.click("button[type=submit]")
    page.wait_for_timeout(WAIT_MS)


def _secret(home: Path, name: str) -> str:
    return (home / "secrets" / name).read_text().strip()


if __name__ == "__main__":
    main()
