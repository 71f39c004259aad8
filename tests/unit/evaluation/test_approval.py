"""The approval between a verdict and a release: every way to a no, and the one way to a yes."""

import datetime as dt
import json

import pytest

from pipeline_tasks.catalog import ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import VerdictRef, sha256_hex
from pipeline_tasks.errors import ConfigError, DataCorrupt, GateClosed
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.approval import approval_needed, read_verdict, record_approval, require_promotable
from tests.documents import verdict_document
from tests.unit.evaluation import support as s

NEVER = s.project()
ALWAYS = s.project(approval={"when": "always"})
FOUR_EYES = s.project(approval={"when": "always", "four_eyes": True})


@pytest.fixture
def verdicts(database):
    return VerdictRepository(database)


@pytest.fixture
def approvals(database):
    return ApprovalRepository(database)


@pytest.fixture
def given(database, verdicts, object_store):
    def give(answer="promote", champion="old", contender="new", classes=()):
        document = verdict_document(contender=contender, champion=champion, answer=answer, classes=classes)
        verdict_id = vd.verdict_id_of(document)
        key = f"verdicts/fashion/{verdict_id}"
        data = vd.document_bytes(document)
        object_store.put(f"{key}/verdict.json", data)
        ref = VerdictRef("fashion", verdict_id, answer, champion, contender, ("because",), key, "CODE")
        record = VerdictRecord(ref, ("exam2", "exam1"), "policy", sha256_hex(data), "run-1", s.NOW)
        fence = database.acquire(f"judge/{contender}", s.attempt(), now=s.NOW)
        use = verdicts.count_uses("fashion", "exam2") + 1
        return verdicts.record(record, exam_use=use, fence=fence).ref

    return give


@pytest.fixture
def require(database, verdicts, approvals, object_store):
    def call(verdict_id, *, project=NEVER, head="old"):
        return require_promotable(
            project,
            verdict_id,
            head_version=head,
            verdicts=verdicts,
            approvals=approvals,
            ledger=LedgerRepository(database),
            store=object_store,
        )

    return call


@pytest.fixture
def say(verdicts, approvals):
    def call(verdict_id, decision, *, project=ALWAYS, by="alice", requested_by="bob", now=s.NOW):
        return record_approval(
            project,
            verdict_id,
            decision=decision,
            by=by,
            reason="looked at it",
            requested_by=requested_by,
            verdicts=verdicts,
            approvals=approvals,
            now=now,
        )

    return call


def closed(call, *args, code, **kwargs):
    with pytest.raises(
        GateClosed, match=r"The champion keeps serving|has judged can ship|Judge a new contender"
    ) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    return str(caught.value)


def test_a_promote_verdict_without_approval_ships(given, require):
    ref = given()
    assert require(ref.verdict_id) == ref


@pytest.mark.parametrize("answer", ["keep", "inconclusive"])
def test_no_other_answer_ships(given, require, answer):
    message = closed(require, given(answer).verdict_id, code="NOT_PROMOTE")
    assert f"its answer must be promote (got {answer})" in message


def test_an_unknown_verdict_does_not_ship(require):
    message = closed(require, "../../etc", code="VERDICT_UNKNOWN")
    assert "verdict_id must name a verdict of fashion (got '../../etc')" in message


def test_another_projects_verdict_does_not_ship(given, require):
    other = s.project()
    other = other.model_copy(update={"config": other.config.model_copy(update={"name": "shoes"})})
    closed(require, given().verdict_id, project=other, code="VERDICT_UNKNOWN")


@pytest.mark.parametrize(("compared", "head"), [("old", "newer"), ("old", None), (None, "old")])
def test_a_champion_that_moved_makes_the_verdict_stale(given, require, compared, head):
    message = closed(require, given(champion=compared).verdict_id, head=head, code="STALE_BASELINE")
    assert f"the champion must still be {compared or 'nobody'}" in message


def test_a_verdict_from_before_a_migration_of_its_classes_does_not_ship(given, require):
    now = s.project(classes=("shirt", "boot"))
    verdict_id = given(classes=s.CLASSES).verdict_id
    message = closed(require, verdict_id, project=now, code="CLASSES_CHANGED")
    assert "the classes that it was judged on must be the project's (it has no shoe any more). Train again" in message
    with_another = s.project(classes=(*s.CLASSES, "boot"))
    assert require(verdict_id, project=with_another).answer == "promote"


def test_a_promotion_that_went_through_can_be_repeated(given, require):
    ref = given()
    assert require(ref.verdict_id, head="new") == ref


@pytest.mark.parametrize("change", [("promote", "keep"), ("new", "nex")])
def test_a_changed_verdict_is_refused(given, require, object_store, change):
    ref = given()
    key = f"{ref.object_key}/verdict.json"
    object_store.objects[key] = object_store.objects[key].replace(change[0].encode(), change[1].encode())
    with pytest.raises(DataCorrupt, match="It was changed after the verdict was given"):
        require(ref.verdict_id)


@pytest.mark.parametrize(
    ("forged", "told"),
    [
        ({"answer": "promote"}, "answer: the catalog says 'promote', the document 'keep'"),
        ({"contender_version": "evil"}, "contender: the catalog says 'evil', the document 'new'"),
        ({"champion_version": None}, "champion: the catalog says None, the document 'old'"),
    ],
)
def test_a_row_that_contradicts_its_document_does_not_ship(database, given, require, forged, told):
    ref = given("keep")
    with database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER verdicts_append_only_UPDATE")
        connection.execute(t.verdicts.update().values(**{"answer": "promote"} | forged))
    with pytest.raises(DataCorrupt, match="must say what the catalog says of verdict") as caught:
        require(ref.verdict_id)
    assert told in str(caught.value)


def test_another_projects_genuine_promote_does_not_ship(database, given, require, verdicts):
    """One INSERT with its entry in the ledger: the document, its hash and its id are all genuine."""
    ref = given()
    row = {"project": "shoes", "verdict_id": ref.verdict_id, "answer": "promote", "champion_version": None}
    row |= {"contender_version": "evil", "exam_ids": ["exam2"], "reasons": {"code": "GAIN_SHOWN", "texts": ["fine"]}}
    row |= {"policy_id": "p", "object_key": ref.object_key, "run_id": "r", "created_at": s.NOW}
    row |= {"digest": verdicts.find("fashion", ref.verdict_id).digest}
    with database.write() as connection:
        connection.execute(t.verdicts.insert(), row)
        ledger_repository.append_verdict(connection, row)
    shoes = NEVER.model_copy(update={"config": NEVER.config.model_copy(update={"name": "shoes"})})
    with pytest.raises(DataCorrupt, match="project: the catalog says 'shoes', the document 'fashion'; contender:"):
        require(ref.verdict_id, project=shoes, head=None)


def test_a_verdict_past_the_ledger_does_not_ship(database, given, require):
    ref = given()
    with database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER ledger_append_only_DELETE")
        connection.execute(t.ledger.delete())
    assert "an entry with its SHA-256 (got none)" in closed(require, ref.verdict_id, code="NOT_IN_LEDGER")


def test_a_verdict_whose_entry_names_another_document_does_not_ship(database, given, require):
    ref = given()
    with database.write() as connection:
        connection.exec_driver_sql("DROP TRIGGER ledger_append_only_UPDATE")
        connection.execute(t.ledger.update().values(evidence_digest="0" * 64))
    assert "an entry with its SHA-256 (got another)" in closed(require, ref.verdict_id, code="NOT_IN_LEDGER")


def test_a_document_under_another_id_is_refused(given, verdicts, object_store):
    ref = given()
    record = verdicts.find("fashion", ref.verdict_id)
    other = {**json.loads(object_store.get(f"{ref.object_key}/verdict.json")), "extra": 1}
    object_store.objects[f"{ref.object_key}/verdict.json"] = vd.document_bytes(other)
    forged = VerdictRecord(
        record.ref, record.exam_ids, record.policy_id, sha256_hex(vd.document_bytes(other)), "run-1", s.NOW
    )
    with pytest.raises(DataCorrupt, match="must be the verdict"):
        read_verdict(object_store, forged)


def test_a_lost_document_is_refused(given, require, object_store):
    ref = given()
    object_store.delete([f"{ref.object_key}/verdict.json"])
    with pytest.raises(DataCorrupt, match=r"must exist \(got nothing\)"):
        require(ref.verdict_id)


@pytest.mark.parametrize(
    ("when", "champion", "answer", "needed"),
    [
        ("never", None, "promote", False),
        ("never", "old", "promote", False),
        ("first", None, "promote", True),
        ("first", "old", "promote", False),
        ("always", None, "promote", True),
        ("always", "old", "promote", True),
        ("always", "old", "keep", False),
        ("always", "old", "inconclusive", False),
    ],
)
def test_when_a_person_is_asked(when, champion, answer, needed):
    ref = VerdictRef("fashion", "v", answer, champion, "new", (), "k")
    assert approval_needed(s.project(approval={"when": when}).config.approval, ref) is needed


def test_without_an_answer_nothing_ships(given, require):
    message = closed(require, given().verdict_id, project=ALWAYS, code="APPROVAL_MISSING")
    assert "a person must approve it (approval.when is always; got none)" in message


def test_a_yes_ships(given, require, say):
    ref = given()
    say(ref.verdict_id, "approve")
    assert require(ref.verdict_id, project=ALWAYS) == ref


@pytest.mark.parametrize(("decision", "code"), [("reject", "APPROVAL_REJECTED"), ("expired", "APPROVAL_EXPIRED")])
def test_a_no_or_silence_does_not_ship(given, require, say, decision, code):
    ref = given()
    say(ref.verdict_id, decision)
    closed(require, ref.verdict_id, project=ALWAYS, code=code)


def test_the_newest_answer_counts(given, require, say, approvals):
    ref = given()
    later = (s.NOW + dt.timedelta(minutes=minutes) for minutes in (1, 2))
    say(ref.verdict_id, "reject")
    closed(require, ref.verdict_id, project=ALWAYS, code="APPROVAL_REJECTED")
    say(ref.verdict_id, "approve", by="carol", now=next(later))
    assert require(ref.verdict_id, project=ALWAYS) == ref
    say(ref.verdict_id, "reject", now=next(later))
    closed(require, ref.verdict_id, project=ALWAYS, code="APPROVAL_REJECTED")
    assert [approval.decision for approval in approvals.history("fashion", ref.verdict_id)] == [
        "reject",
        "approve",
        "reject",
    ]


def test_the_same_answer_again_changes_nothing(given, say, approvals):
    ref = given()
    first = say(ref.verdict_id, "approve")
    assert say(ref.verdict_id, "approve") == first
    assert approvals.history("fashion", ref.verdict_id) == [first]


def test_the_same_no_of_another_day_is_another_answer(given, say, approvals):
    ref = given()
    say(ref.verdict_id, "reject")
    say(ref.verdict_id, "reject", now=s.NOW + dt.timedelta(days=1))
    assert len(approvals.history("fashion", ref.verdict_id)) == 2


def test_an_expired_request_can_be_asked_again(given, require, say, approvals):
    ref = given()
    say(ref.verdict_id, "expired", by="nobody")
    say(ref.verdict_id, "approve")
    assert require(ref.verdict_id, project=ALWAYS) == ref
    assert [record.sequence for record in approvals.history("fashion", ref.verdict_id)] == [1, 2]


@pytest.mark.parametrize("by", ["bob", " Bob "])
def test_who_started_the_run_cannot_approve_it(given, require, say, approvals, by):
    ref = given()
    closed(say, ref.verdict_id, "approve", project=FOUR_EYES, by=by, code="SELF_APPROVAL")
    assert approvals.history("fashion", ref.verdict_id) == []
    say(ref.verdict_id, "approve", project=FOUR_EYES)
    assert require(ref.verdict_id, project=FOUR_EYES) == ref


def test_who_started_the_run_may_say_no(given, say):
    assert say(given().verdict_id, "reject", project=FOUR_EYES, by="bob").decision == "reject"


def test_a_self_approval_from_before_four_eyes_does_not_ship(given, require, say):
    ref = given()
    say(ref.verdict_id, "approve", by="bob")
    assert require(ref.verdict_id, project=ALWAYS) == ref
    closed(require, ref.verdict_id, project=FOUR_EYES, code="SELF_APPROVAL")


def test_a_scheduled_run_can_be_approved_by_anybody(given, say, require):
    ref = given()
    say(ref.verdict_id, "approve", project=FOUR_EYES, requested_by=None)
    assert require(ref.verdict_id, project=FOUR_EYES) == ref


def test_only_a_promote_verdict_can_be_approved(given, say):
    closed(say, given("keep").verdict_id, "approve", code="NOT_PROMOTE")


def test_an_unknown_verdict_cannot_be_approved(say):
    closed(say, "nothing", "approve", code="VERDICT_UNKNOWN")


@pytest.mark.parametrize(("decision", "by"), [("maybe", "alice"), ("approve", " ")])
def test_a_malformed_answer_is_refused(given, say, decision, by):
    with pytest.raises(ConfigError, match="an approval must be one of approve, reject, expired"):
        say(given().verdict_id, decision, by=by)
