"""Experiments with their resources: from the route and the log to the report."""

import dataclasses
import datetime as dt
import json
import types

import pytest

from bento_services.gateway.prediction_log.records import to_parts
from pipeline_tasks.cli import main
from pipeline_tasks.contracts import Attempt, RouteEntry
from pipeline_tasks.deployment import experiment
from pipeline_tasks.errors import ConfigError, GateClosed, ServiceUnavailable
from pipeline_tasks.orchestration import deploy, experiments, resources
from tests.ledger_case import Case, minutes
from tests.service.servers import write_model
from tests.unit.evaluation import support as s
from tests.unit.monitoring.builders import feedback, record

FACTS = {"experiment_id": "e1", "a": "v1", "b": "v2", "share": 50, "metric": "correct", "confidence": 0.95}


@pytest.fixture
def parts(database, object_store):
    """A project whose second generation is an experiment; v2 has a promote verdict."""
    case = Case(database, object_store, project="pets")
    case.judge("v1", at=1)
    case.judge("v2", champion="v1", at=2)
    head = case.move("v1", at=3)
    entries = (RouteEntry("d1", "v1", "http://1", 50), RouteEntry("d2", "v2", "http://2", 50))
    facts = {"generation": 2, "commit_id": "c2", "parent_commit_id": head.commit_id, "entries": entries}
    facts = {"route": dataclasses.replace(head, **facts), "action": "experiment_start", "attempt": "x/experiment/1"}
    case.serving.commit_route(
        **facts, verdict_id="verdict-v1", actor="ann", reason="r", serving={"experiment": FACTS}, at=minutes(4)
    )
    return types.SimpleNamespace(
        database=database, store=object_store, brisk_store=object_store, project=lambda _: s.project(), case=case
    )


def log(parts):
    began = int(minutes(5).timestamp() * 1000)
    drawn = [
        record(n, at_ms=began + n, answer_label="cat", generation=2, assigned=f"d{1 + n % 2}", user_key=f"u{n}")
        for n in range(40)
    ]
    told = [feedback(n, "cat" if n % 2 else "dog", at_ms=began + 1000 + n) for n in range(40)]
    for key, data in to_parts([*drawn, *told]).items():
        parts.store.put(key, data)


def test_the_report_of_a_running_experiment(parts):
    log(parts)
    report = experiments.report(parts, "pets")
    assert (report["experiment_id"], report["answer"], report["state"], report["ended_at"]) == (
        "e1",
        "b",
        "running",
        None,
    )
    assert [arm["num_outcomes"] for arm in report["arms"].values()] == [20, 20]
    assert report["log"]["num_parts"] == 1
    assert experiments.report(parts, "pets", experiment_id="e") == report


def test_the_report_of_one_that_was_ended(parts):
    parts.case.move("v1", action="rollback", verdict_id="verdict-v1", at=9)
    report = experiments.report(parts, "pets")
    assert (report["state"], report["ended_at"]) == ("ended by rollback of ops", minutes(9))
    with pytest.raises(ConfigError, match="--id must be the beginning of an experiment's id"):
        experiments.report(parts, "pets", experiment_id="zz")


def test_what_an_experiment_had_found_goes_into_the_reason_of_its_end(parts):
    log(parts)
    assert experiments._answer_now(parts, "pets").startswith("answer b (a 0 of 20, b 20 of 20; log ")
    since = minutes(4).astimezone(dt.UTC).date().isoformat()
    parts.store.put(f"predictions/pets/{since}/x.parquet", b"garbage")
    answer = experiments._answer_now(parts, "pets")
    assert answer.startswith("answer b (a 0 of 20, b 20 of 20; log ")
    assert answer.endswith("; without 1 damaged parts)")


def test_an_experiment_ends_also_while_its_log_is_away(parts, monkeypatch):
    def away(*_):
        raise ServiceUnavailable("the store must answer.")

    monkeypatch.setattr(parts.store, "list", away)
    assert experiments._answer_now(parts, "pets") == "its log was not read (SERVICE_UNAVAILABLE)"


def test_a_version_without_a_release_is_refused(parts):
    with pytest.raises(GateClosed, match=r"v2 must have a release of pets to serve \(got none\)"):
        experiments._release_of(parts, "pets", "v2")


def test_a_version_that_a_person_has_refused_since_its_release_is_no_arm(parts, monkeypatch):
    ref = types.SimpleNamespace(project="pets", release_id="r2", model_version="v2", verdict_id="verdict-v2")
    monkeypatch.setattr(experiments, "release_of_version", lambda *_: ref)
    monkeypatch.setattr(experiments, "restore_bento", lambda *_: None)
    monkeypatch.setattr("pipeline_tasks.evaluation.approval.verdict_id_of", lambda _: "verdict-v2")
    always = s.project(approval={"when": "always"})
    config = always.config.model_copy(update={"name": "pets"})
    parts.project = lambda _: always.model_copy(update={"config": config})
    parts.case.answer("verdict-v2", at=3)
    assert experiments._release_of(parts, "pets", "v2") is ref
    parts.case.answer("verdict-v2", "reject", at=5)
    with pytest.raises(GateClosed) as error:
        experiments._release_of(parts, "pets", "v2")
    assert error.value.code == "APPROVAL_REJECTED"


def test_an_arm_has_the_classes_that_it_learned_whatever_the_project_has_by_now(parts, monkeypatch, tmp_path):
    write_model(tmp_path / "v2", version="v2", classes=("cat", "lynx"))
    parts.store.put("models/pets/v2/model.json", (tmp_path / "v2" / "model.json").read_bytes())
    model = types.SimpleNamespace(object_key="models/pets/v2")
    monkeypatch.setattr(deploy, "model_of", lambda *_: model)
    assert experiments.learned_classes(parts, "pets", "v2") == ("cat", "lynx")


@pytest.fixture
def shell(parts, monkeypatch, tmp_path, capsys):
    """Run `dethrone experiment pets ...` and return its exit code, output, errors; starts and stops are noted."""
    asked = []
    (tmp_path / "projects" / "pets").mkdir(parents=True)
    monkeypatch.setenv("DETHRONE_PROJECTS", str(tmp_path / "projects"))
    monkeypatch.setattr(resources, "build_resources", lambda: parts)
    for name in ("start", "stop"):
        monkeypatch.setattr(experiments, name, lambda *_, name=name, **facts: asked.append((name, facts)) or {"ok": 1})

    def run(*arguments):
        code = main.main(["experiment", "pets", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    run.asked = asked
    return run


def test_the_report_on_a_shell(parts, shell):
    log(parts)
    code, output, _ = shell("report")
    assert (code, output.splitlines()[0]) == (0, "experiment e1 of pets on correct, confidence 95%, running")
    assert output.splitlines()[-1] == "answer: b"
    assert json.loads(shell("report", "--json")[1])["arms"]["b"]["num_successes"] == 20
    code, _, errors = shell("report", "--id", "zz")
    assert (code, "--id must be the beginning of an experiment's id (got zz). Known: e1." in errors) == (2, True)


def test_starting_and_stopping_on_a_shell(shell):
    code, _, errors = shell("start")
    assert (code, "--version must be a former champion of pets or a model with a promote verdict" in errors) == (
        2,
        True,
    )
    assert (
        shell("start", "--version", "v2", "--share", "20", "--metric", "outcome:cat", "--matures-after", "7d")[0] == 0
    )
    assert shell("stop", "--reason", "enough")[0] == 0
    (start, begun), (stop, ended) = shell.asked
    assert (start, stop, ended["reason"]) == ("start", "stop", "enough")
    facts = {name: begun[name] for name in ("version", "share", "metric", "confidence", "matures_after")}
    assert facts == {
        "version": "v2",
        "share": 20,
        "metric": "outcome:cat",
        "confidence": 0.95,
        "matures_after": "7d",
    }
    assert begun["attempt"].task == "experiment"
    assert begun["actor"]


def test_a_start_and_a_stop_are_noted_down(parts, monkeypatch):
    for name in ("target", "gateway"):
        setattr(parts, name, None)
    parts.fence = lambda *_: None
    record_of = parts.case.serving.head_record
    monkeypatch.setattr(experiment, "start", lambda *_, **__: record_of("pets"))
    reasons = []
    monkeypatch.setattr(experiment, "stop", lambda *_, reason, **__: reasons.append(reason) or record_of("pets"))
    attempt = Attempt("x", "experiment")
    facts = {"version": "v2", "share": 50, "metric": "correct", "confidence": 0.95, "actor": "ann"}
    facts["matures_after"] = "24h"
    said = experiments.start(parts, "pets", attempt=attempt, **facts)
    assert (said["generation"], said["shares"]) == (2, {"v1": 50, "v2": 50})
    assert len([key for key in parts.store.objects if key.startswith("ledger/")]) == 1
    experiments.stop(parts, "pets", attempt=attempt, actor="ann", reason="enough")
    (reason,) = reasons
    assert reason.startswith("answer undecided (a 0 of 0, b 0 of 0; log ")
    assert reason.endswith("; enough")


def test_a_window_that_is_none_starts_nothing(parts):
    facts = {"version": "v2", "share": 50, "metric": "correct", "confidence": 0.95, "actor": "ann"}
    with pytest.raises(ConfigError, match="--matures-after must be a whole number and s, m, h or d"):
        experiments.start(parts, "pets", attempt=Attempt("x", "experiment"), matures_after="soon", **facts)


def test_an_experiment_on_pairs_counts_what_has_matured_by_now(parts, monkeypatch):
    facts = FACTS | {"experiment_id": "e2", "rule": "pairs/1", "matures_after_seconds": 60.0}
    head = parts.case.serving.head_route("pets")
    route = dataclasses.replace(head, generation=3, commit_id="c3", parent_commit_id=head.commit_id)
    said = {"verdict_id": "verdict-v1", "actor": "ann", "reason": "r", "attempt": "y/experiment/1"}
    parts.case.serving.commit_route(
        route, action="experiment_start", serving={"experiment": facts}, at=minutes(4), **said
    )
    began = int(minutes(5).timestamp() * 1000)
    shared = {"answer_label": "cat", "generation": 3}
    drawn = [record(n, at_ms=began + 1000 * n, assigned=f"d{1 + n % 2}", user_key=f"u{n}", **shared) for n in range(40)]
    told = [feedback(n, "cat" if n % 2 else "dog", at_ms=began + 1000 * n + 500) for n in range(40)]
    for key, data in to_parts([*drawn, *told]).items():
        parts.store.put(key, data)

    def outcomes(now):
        monkeypatch.setattr(experiments, "utc_now", lambda: now)
        report = experiments.report(parts, "pets")
        return report["answer"], [arm["num_outcomes"] for arm in report["arms"].values()]

    assert outcomes(minutes(5)) == ("undecided", [0, 0])
    assert outcomes(minutes(6) + dt.timedelta(seconds=3)) == ("undecided", [2, 2])
    assert outcomes(minutes(7)) == ("b", [20, 20])
