"""The promises of approval, as functions of its module: the original passes each, a mutant fails the one it breaks."""

from types import ModuleType, SimpleNamespace

from pipeline_tasks.catalog.verdicts import VerdictRecord
from pipeline_tasks.contracts import VerdictRef, sha256_hex
from pipeline_tasks.errors import DataCorrupt, GateClosed
from pipeline_tasks.evaluation import verdict as vd
from tests.documents import verdict_document
from tests.fakes import FakeObjectStore
from tests.unit.evaluation import support as s


def shipping(
    approval: ModuleType,
    *,
    decision=None,
    by="alice",
    answer="promote",
    contender="new",
    head="old",
    when="always",
    four_eyes=False,
    told=True,
) -> str:
    """Return "ships", or the code of what stands in the way."""
    document = verdict_document(answer=answer)
    verdict_id, data = vd.verdict_id_of(document), vd.document_bytes(document)
    key = f"verdicts/fashion/{verdict_id}"
    ref = VerdictRef("fashion", verdict_id, answer, "old", contender, (), key, "CODE")
    record = VerdictRecord(ref, ("exam2", "exam1"), "policy", sha256_hex(data), "run-1", s.NOW)
    store = FakeObjectStore()
    store.put(f"{key}/verdict.json", data)
    given = SimpleNamespace(decision=decision, by=by, requested_by="bob") if decision else None
    try:
        approval.require_promotable(
            s.project(approval={"when": when, "four_eyes": four_eyes}),
            verdict_id,
            head_version=head,
            verdicts=SimpleNamespace(find=lambda *_: record),
            approvals=SimpleNamespace(latest=lambda *_: given),
            ledger=SimpleNamespace(find=lambda *_: SimpleNamespace(evidence_digest=record.digest) if told else None),
            store=store,
        )
    except (GateClosed, DataCorrupt) as error:
        return error.code
    return "ships"


def approval_lets_a_yes_pass(approval):
    assert shipping(approval, decision="approve") == "ships"


def approval_stops_a_no(approval):
    assert shipping(approval, decision="reject") == "APPROVAL_REJECTED"


def approval_stops_silence(approval):
    assert shipping(approval) == "APPROVAL_MISSING"


def approval_stops_what_expired(approval):
    assert shipping(approval, decision="expired") == "APPROVAL_EXPIRED"


def approval_stops_another_answer(approval):
    assert shipping(approval, answer="keep", when="never") == "NOT_PROMOTE"


def approval_stops_a_stale_baseline(approval):
    assert shipping(approval, decision="approve", head="newer") == "STALE_BASELINE"


def approval_stops_a_row_that_contradicts_its_document(approval):
    assert shipping(approval, decision="approve", contender="evil", head="old") == "DATA_CORRUPT"


def approval_stops_what_the_ledger_does_not_know(approval):
    assert shipping(approval, decision="approve", told=False) == "NOT_IN_LEDGER"


def approval_needs_four_eyes(approval):
    assert shipping(approval, decision="approve", by="Bob", four_eyes=True) == "SELF_APPROVAL"
