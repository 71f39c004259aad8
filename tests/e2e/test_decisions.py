"""Every way in which a contender's run can end, on the real stack: then who decided what, and whether it can be shown.

A first champion, approved in the browser. A contender that is better on the whole and fails one desk. A better one that
is rejected in the browser, rejected over REST, not approved by whoever started its run, and approved by somebody else.
One that may be luck. A rollback. Each test goes on where the one before stopped.
"""

import dataclasses
import datetime as dt
import json
import re
import time

import pytest

from tests.e2e import desks

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
TRAIN, INGEST = f"{desks.PROJECT}__train", f"{desks.PROJECT}__ingest"
SHIPPING = ("release", "ship")
RUN_SECONDS = 600


@dataclasses.dataclass
class Office:
    """The stack, its texts, its people, and what the runs so far came to, by the name of the run."""

    installation: object
    texts: desks.Desks
    ended: dict[str, str]

    def airflow(self, user: str = "admin"):
        from pipeline_tasks.adapters.airflow_rest import AirflowRest

        return AirflowRest(
            self.installation.stack["airflow_url"],
            username=user,
            password=self.installation.secret(f"airflow_{user}_password"),
        )

    def bring(self, name: str, rows) -> str:
        """Texts arrive; ingest takes them in, and wakes the training whose run id is returned."""
        known = {run["dag_run_id"] for run in self.airflow().runs(TRAIN)}
        desks.write_csv(self.installation.projects / desks.PROJECT / "incoming" / f"{name}.csv", rows)
        assert self.airflow().watch(INGEST, self.airflow().trigger(INGEST), timeout_seconds=300) == "success"
        return self.until(lambda: self._new_run(known), 180, f"the training that {name} wakes")

    def _new_run(self, known) -> str | None:
        fresh = [run["dag_run_id"] for run in self.airflow().runs(TRAIN) if run["dag_run_id"] not in known]
        planned = [run_id for run_id in fresh if self.state(run_id, "plan") == "success"]
        return planned[0] if planned else None

    def again(self) -> str:
        """The same labels, started by hand by admin."""
        return self.airflow().trigger(TRAIN, {"force": True})

    def clear(self, run_id: str, task: str) -> None:
        """Clear a task and all behind it, as the button in Airflow does."""
        self.airflow().clear(TRAIN, run_id, task)

    def state(self, run_id: str, task: str) -> str | None:
        return {row["task_id"]: row["state"] for row in self.airflow().tasks(TRAIN, run_id)}.get(task)

    def verdict(self, run_id: str) -> dict:
        """The verdict of a run, as soon as it is there."""
        return self.until(lambda: self.airflow().result(TRAIN, run_id, "judge"), RUN_SECONDS, "a verdict")

    def document(self, verdict_id: str) -> dict:
        """The stored verdict.json, which anybody can read who has the bucket."""
        from pipeline_tasks.orchestration.resources import build_resources

        key = f"verdicts/{desks.PROJECT}/{verdict_id}/verdict.json"
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.installation.environment.items():
                patch.setenv(name, value)
            return json.loads(build_resources().store.get(key))

    def asked(self, run_id: str) -> None:
        """Wait until a person is asked; an answer in the first moments can fail the task (measured)."""
        self.until(
            lambda: (
                run_id in {approval["task_instance"]["dag_run_id"] for approval in self.airflow().pending_approvals()}
            ),
            RUN_SECONDS,
            "a request for approval",
        )
        time.sleep(4)

    def end(self, run_id: str) -> dict:
        """Wait for the run's end; return what `finish` says."""
        assert self.airflow().watch(TRAIN, run_id, timeout_seconds=RUN_SECONDS) == "success"
        return self.airflow().result(TRAIN, run_id, "finish")

    def champion(self) -> str | None:
        history = self.installation.json("history", desks.PROJECT)
        return history[-1]["champion"] if history else None

    @staticmethod
    def until(condition, seconds, what):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            time.sleep(1)
        pytest.fail(f"within {seconds} s this must come: {what}")


@pytest.fixture(scope="module")
def office(make_installation):
    installation = make_installation("decisions", projects_of=())
    desks.write_project(installation.projects)
    installation.set_split_key(desks.SPLIT_KEY)
    installation.run("up")
    office = Office(installation, desks.Desks(), {})
    office.until(lambda: {TRAIN, INGEST} <= office.airflow().dag_ids(), 120, "the DAGs")
    return office


@pytest.fixture
def page(office):
    """Airflow in a browser, logged in as admin."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{office.installation.stack['airflow_url']}/auth/login")
        page.fill("input[name=username]", "admin")
        page.fill("input[name=password]", office.installation.secret("airflow_admin_password"))
        page.click("button[type=submit]")
        page.wait_for_url("**/")
        yield page
        browser.close()


def answer_in_browser(page, office, run_id, *, option, reason):
    """Read the request on the task's page, give a reason, click the answer."""
    url = office.installation.stack["airflow_url"]
    page.goto(f"{url}/dags/{TRAIN}/runs/{run_id}/tasks/approve/required_actions")
    page.get_by_text(f"Promote the contender of {desks.PROJECT}?").first.wait_for(timeout=60_000)
    page.get_by_text("the gain is shown").or_(page.get_by_text("it is the first model")).first.wait_for()
    page.get_by_role("textbox").first.fill(reason)
    page.get_by_role("button", name=option, exact=True).click()


def test_the_first_champion_is_approved_in_the_browser(office, page):
    rows = [*office.texts.exam(), *office.texts.texts("east", 100), *office.texts.texts("west", 100)]
    run_id = office.bring("first", rows)
    verdict = office.verdict(run_id)
    assert verdict["answer"] == "promote"
    office.asked(run_id)
    assert office.champion() is None
    answer_in_browser(page, office, run_id, option="Approve", reason="read the report")
    assert office.end(run_id)["outcome"] == "promoted"
    assert office.champion() == verdict["contender_version"]
    office.ended["first"] = verdict["verdict_id"]


def test_a_better_contender_is_kept_out_by_one_desk(office):
    rows = [*office.texts.texts("east", 800), *office.texts.texts("west", 120, careless=True)]
    before = office.champion()
    run_id = office.bring("careless", rows)
    outcome = office.end(run_id)
    verdict = office.verdict(run_id)
    assert verdict["answer"] == "keep"
    assert outcome["outcome"].startswith("rejected")
    assert office.champion() == before
    current = office.document(verdict["verdict_id"])["evidence"]["current"]
    assert current["contender"]["accuracy"]["estimate"] > current["champion"]["accuracy"]["estimate"]
    codes = [reason["code"] for reason in office.document(verdict["verdict_id"])["decision"]["reasons"]]
    assert codes[0] == "SLICE_FLOOR"
    assert "GAIN_SHOWN" in codes
    assert "slice desk = west" in verdict["reasons"][0]
    assert office.state(run_id, "approve") == "skipped"
    office.ended["slice"] = verdict["verdict_id"]


def test_a_person_rejects_in_the_browser(office, page):
    run_id = office.bring("west", office.texts.texts("west", 800))
    verdict = office.verdict(run_id)
    assert verdict["answer"] == "promote"
    before = office.champion()
    office.asked(run_id)
    answer_in_browser(page, office, run_id, option="Reject", reason="not on a Friday")
    assert office.end(run_id)["outcome"].startswith("rejected")
    assert {office.state(run_id, task) for task in SHIPPING} == {"skipped"}
    assert office.champion() == before
    office.ended["rejected in the browser"] = verdict["verdict_id"]


def test_a_person_rejects_over_rest(office):
    run_id = office.again()
    verdict = office.verdict(run_id)
    before = office.champion()
    office.asked(run_id)
    office.airflow("alice").answer(TRAIN, run_id, approve=False, reason="one more week")
    assert office.end(run_id)["outcome"].startswith("rejected")
    assert {office.state(run_id, task) for task in SHIPPING} == {"skipped"}
    assert office.champion() == before
    office.ended["rejected over REST"] = verdict["verdict_id"]


def test_whoever_started_the_run_cannot_approve_it_and_somebody_else_can(office):
    run_id = office.again()
    verdict = office.verdict(run_id)
    before = office.champion()
    office.asked(run_id)
    office.airflow("admin").answer(TRAIN, run_id, approve=True, reason="my own")
    office.until(lambda: office.state(run_id, "approve") == "failed", 120, "the refusal of the own approval")
    assert office.end(run_id)["reason_code"] == "SELF_APPROVAL"
    assert office.champion() == before
    office.ended["own approval"] = verdict["verdict_id"]

    office.clear(run_id, "approve")
    office.asked(run_id)
    office.airflow("alice").answer(TRAIN, run_id, approve=True, reason="west is right again")
    assert office.end(run_id)["outcome"] == "promoted"
    assert office.champion() == verdict["contender_version"] != before
    office.ended["promoted"] = verdict["verdict_id"]


def test_a_gain_that_may_be_luck_is_inconclusive(office):
    before = office.champion()
    run_id = office.bring("few", office.texts.texts("east", 150))
    outcome = office.end(run_id)
    verdict = office.verdict(run_id)
    assert verdict["answer"] == "inconclusive"
    assert "no gain is shown: " in " ".join(verdict["reasons"])  # its exam is open
    exact = " ".join(reason["text"] for reason in office.document(verdict["verdict_id"])["decision"]["reasons"])
    assert re.search(r"With 300 more exam items it would be shown with a chance of [\d.]+ %", exact)
    assert outcome["outcome"].startswith("rejected")
    assert office.champion() == before
    office.ended["inconclusive"] = verdict["verdict_id"]


def test_the_way_back(office):
    first = office.installation.json("history", desks.PROJECT)[0]["champion"]
    office.installation.run("rollback", desks.PROJECT, "--reason", "west complains")
    assert office.champion() == first


def test_the_ledger_tells_all_of_it(office):
    rows = office.installation.json("history", desks.PROJECT, "--ledger")
    verdicts = [row["subject"] for row in rows if row["kind"] == "verdict"]
    assert verdicts == list(dict.fromkeys(office.ended.values()))  # one question, asked by four runs, is one verdict
    assert len(verdicts) == 4
    answers = [
        (row["body"]["decision"], row["body"]["by"], row["body"]["reason"]) for row in rows if row["kind"] == "approval"
    ]
    assert answers == [
        ("approve", "admin", "read the report"),
        ("reject", "admin", "not on a Friday"),
        ("reject", "alice", "one more week"),
        ("approve", "alice", "west is right again"),
    ]
    moves = [row["body"]["action"] for row in rows if row["kind"] == "route"]
    assert moves == ["promote", "promote", "rollback"]


def test_what_served_then_and_why(office):
    history = office.installation.json("history", desks.PROJECT)
    moment = (dt.datetime.fromisoformat(history[1]["at"]) + dt.timedelta(seconds=1)).isoformat()
    then = office.installation.json("history", desks.PROJECT, "--at", moment)
    assert then["champion"] == history[1]["champion"]
    assert then["verdict"]["verdict_id"] == office.ended["promoted"]
    assert then["approval"]["by"] == "alice"


def test_everything_verifies_and_every_verdict_replays(office):
    head = office.installation.json("history", desks.PROJECT, "--ledger")[-1]
    anchor = f"{desks.PROJECT}:{head['sequence']}:{head['entry_hash']}"
    assert "Nothing lost, nothing twice" in office.installation.run("verify", "--anchor", anchor).stdout
    for verdict_id in set(office.ended.values()):
        assert office.installation.json("replay", verdict_id)["same"] is True


def test_the_reports_say_it_in_one_sentence(office, tmp_path):
    for name, answer, sentence in (
        ("slice", "Keep the champion", "Accuracy on slice desk = west must be at least 75.0 %"),
        ("inconclusive", "Inconclusive", "Accuracy on the 600 items in 580 groups of epoch 1"),
        ("promoted", "Promote the contender", "Accuracy on the 600 items in 580 groups of epoch 1"),
    ):
        path = tmp_path / f"{name}.html"
        office.installation.run("report", desks.PROJECT, office.ended[name], "--exact", "--output", str(path))
        text = path.read_text()
        assert f"<title>desks: {answer}</title>" in text
        said = f'<p class="word">{answer}</p>\n<p class="sentence">{sentence}'
        assert said in text.replace("\xa0", " "), name
