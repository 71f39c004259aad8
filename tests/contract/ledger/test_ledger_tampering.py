"""Whoever rewrites the ledger or what it stands on is seen: by the chain, the rows, an anchor or the store's notes."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from pipeline_tasks.catalog import ledger, ledger_repository
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.contracts import canonical_json, sha256_hex
from pipeline_tasks.orchestration.ledger_anchors import note_head
from tests.ledger_case import NAME, NOW, entry_of


def set_entry(sequence, **values):
    return t.ledger, [t.ledger.update().where(entry_of(sequence)).values(**values)]


def remove(*sequences):
    return t.ledger, [t.ledger.delete().where(t.ledger.c.sequence.in_(sequences))]


def swap(first, other):
    def move(a, b):
        return t.ledger.update().where(entry_of(a)).values(sequence=b)

    return t.ledger, [move(first, 100), move(other, first), move(100, other)]


def insert():
    """Push the entries from 4 on up by one and put one of the intruder's between."""
    upwards = [t.ledger.update().where(entry_of(number)).values(sequence=number + 1) for number in range(7, 3, -1)]
    forged = {"project": NAME, "kind": "approval", "subject": "verdict-v3/1", "body": {"by": "me"}, "at": NOW}
    hashes = {"sequence": 4, "evidence_digest": None, "previous_hash": "x", "entry_hash": "y"}
    return t.ledger, [*upwards, t.ledger.insert().values(**forged, **hashes)]


def change(table, where, **values):
    conditions = [table.c[name] == value for name, value in where.items()]
    return table, [table.update().where(*conditions).values(**values)]


def drop(table, where):
    return table, [table.delete().where(*[table.c[name] == value for name, value in where.items()])]


V1, GENERATION_3 = {"verdict_id": "verdict-v1"}, {"generation": 3}
TAMPERED = [
    (set_entry(2, body={"by": "me"}), "entry 2 (approval verdict-v1/1) must hash to"),
    (set_entry(7, at=NOW), "entry 7 (route fashion-comm) must hash to"),
    (set_entry(7, entry_hash="0" * 64), "entry 7 (route fashion-comm) must hash to 000000000000"),
    (set_entry(4, previous_hash="0" * 64), "entry 4 (verdict verdict-v2) must follow entry 3 (route fashion-comm)"),
    (remove(3), "entry 4 (verdict verdict-v2) must be entry 3: what stood between was removed"),
    (remove(3), "generation 1 (commit fashion-comm) made v1 champion otherwise than by promote or rollback"),
    (remove(1), "entry 2 (approval verdict-v1/1) must be entry 1"),
    (remove(7), "generation 3 (commit fashion-comm) made v1 champion otherwise than by promote or rollback"),
    (remove(5, 6, 7), "verdict verdict-v3 must have an entry in the ledger (got none)"),
    (remove(1, 2, 3, 4, 5, 6, 7), "approval verdict-v1/1 must have an entry in the ledger (got none)"),
    (swap(4, 5), "entry 4 (verdict verdict-v3) must follow entry 3 (route fashion-comm)"),
    (insert(), "entry 4 (approval verdict-v3/1) must follow entry 3"),
    (insert(), "entry 4 (approval verdict-v3/1) must have its row in the catalog (got none)"),
    (insert(), "entry 5 (verdict verdict-v2) must hash to"),
    (change(t.verdicts, {"verdict_id": "verdict-v2"}, answer="promote"), "entry 4 (verdict verdict-v2) says answer"),
    (change(t.verdicts, V1, digest="0" * 64), "entry 1 (verdict verdict-v1) says evidence"),
    (change(t.verdicts, V1, digest="0" * 64), "entry 3 (route fashion-comm) says evidence"),
    (
        change(t.verdicts, V1, created_at=NOW),
        "entry 1 (verdict verdict-v1) says time '2026-01-01T12:01:00.000000+00:00'",
    ),
    (change(t.approvals, V1, by="me"), "entry 2 (approval verdict-v1/1) says by 'ann', its row says 'me'"),
    (change(t.approvals, V1, decision="reject"), "entry 2 (approval verdict-v1/1) says decision 'approve'"),
    (change(t.routes, GENERATION_3, champion_version="v3"), "entry 7 (route fashion-comm) says champion_version 'v1'"),
    (change(t.routes, GENERATION_3, body={"entries": []}), "entry 7 (route fashion-comm) says body_digest"),
    (change(t.routes, GENERATION_3, reason="none"), "entry 7 (route fashion-comm) says reason 'complaints'"),
    (drop(t.verdicts, {"verdict_id": "verdict-v2"}), "entry 4 (verdict verdict-v2) must have its row in the catalog"),
    (drop(t.approvals, V1), "entry 2 (approval verdict-v1/1) must have its row in the catalog (got none)"),
    (drop(t.routes, GENERATION_3), "entry 7 (route fashion-comm) must have its row in the catalog (got none)"),
]


@pytest.mark.parametrize(("tampering", "message"), TAMPERED, ids=[message[:70] for _, message in TAMPERED])
def test_tampering_is_named(case, faults, tampering, message):
    case.tell()
    table, statements = tampering
    case.tamper(table, *statements)
    assert any(message in fault for fault in faults()), faults()


def test_an_entry_that_was_changed_and_hashed_anew_is_named(case, faults, entries):
    case.tell()
    forged = dataclasses.replace(entries()[1], body=dict(entries()[1].body) | {"by": "me"})
    forged = dataclasses.replace(forged, entry_hash=ledger.hash_of(forged))
    values = {"body": forged.body, "entry_hash": forged.entry_hash}
    case.tamper(t.ledger, t.ledger.update().where(entry_of(2)).values(**values))
    assert [fault.split(" with")[0] for fault in faults()] == [
        "entry 3 (route fashion-comm) must follow entry 2 (approval verdict-v1/1)",
        "entry 2 (approval verdict-v1/1) says by 'me', its row says 'ann': one of the two was changed",
    ]


def test_a_champion_that_was_moved_past_the_ledger_is_named(case, faults, database):
    """Triggers refuse no INSERT: whoever has the password can add a generation that the gateway follows."""
    case.tell()
    with database.write() as connection:
        newest = dict(connection.execute(sa.select(t.routes).where(t.routes.c.generation == 3)).mappings().one())
        moved = {"generation": 4, "commit_id": "c4", "parent_commit_id": newest["commit_id"], "champion_version": "v9"}
        connection.execute(t.routes.insert(), newest | moved)
    (fault,) = faults()
    assert fault.startswith("generation 4 (commit c4) made v9 champion otherwise than by promote or rollback, without")


@pytest.mark.parametrize("name", ["verdict.json", "evidence.parquet"])
@pytest.mark.parametrize("change", ["other bytes", "gone"])
def test_evidence_that_is_not_what_it_was_is_named(case, faults, object_store, name, change):
    case.tell()
    key = f"verdicts/fashion/verdict-v2/{name}"
    if change == "gone":
        del object_store.objects[key]
    else:
        object_store.objects[key] += b" "
    (fault,) = faults()
    assert fault.startswith(f"verdict verdict-v2 must have {key} with the SHA-256 ")
    assert ("KeyError" in fault) == (change == "gone")
    assert len(faults(deep=False)) == (name == "verdict.json")


def test_a_verdict_that_names_no_evidence_is_named(case, faults, object_store):
    case.judge("v1")
    with case.database.read() as connection:
        (draft,) = ledger_repository.read_drafts(connection, NAME)
    document = json.loads(object_store.objects["verdicts/fashion/verdict-v1/verdict.json"])
    del document["evidence"]
    digest = sha256_hex(canonical_json(document))
    forged = ledger.link(dataclasses.replace(draft, evidence_digest=digest), None)
    values = {"evidence_digest": digest, "entry_hash": forged.entry_hash}
    case.tamper(t.ledger, t.ledger.update().values(**values))
    case.tamper(t.verdicts, t.verdicts.update().values(digest=digest))
    object_store.objects["verdicts/fashion/verdict-v1/verdict.json"] = canonical_json(document)
    (fault,) = faults()
    assert "evidence.parquet with the SHA-256 None" in fault


def test_a_row_that_points_at_another_projects_genuine_promote_is_named(case, faults, database):
    """One INSERT with its entry: nothing has a wrong hash, and the chain is whole."""
    case.tell()
    with database.write() as connection:
        genuine = connection.execute(sa.select(t.verdicts).where(t.verdicts.c.verdict_id == "verdict-v3"))
        forged = dict(genuine.mappings().one()) | {"project": "shoes", "contender_version": "evil", "exam_ids": ["e9"]}
        connection.execute(t.verdicts.insert(), forged)
        ledger_repository.append_verdict(connection, forged)
    said = "verdict verdict-v3 contradicts its document; "
    assert faults(deep=False) == [
        f"{said}project: the catalog says 'shoes', the document 'fashion'",
        f"{said}contender: the catalog says 'evil', the document 'v3'",
        f"{said}exams: the catalog says ['e9'], the document ['exam1']",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "verdict.json must be JSON (got something else)"),
        (b"[]", "verdict.json must hold a question and a decision (got TypeError: list indices must be integers"),
        (b"{}", "verdict.json must hold a question and a decision (got KeyError: 'question')"),
    ],
)
def test_evidence_that_is_no_verdict_is_named(case, faults, object_store, data, message):
    case.judge("v1")
    with case.database.read() as connection:
        (draft,) = ledger_repository.read_drafts(connection, NAME)
    forged = ledger.link(dataclasses.replace(draft, evidence_digest=sha256_hex(data)), None)
    values = {"evidence_digest": sha256_hex(data), "entry_hash": forged.entry_hash}
    case.tamper(t.ledger, t.ledger.update().values(**values))
    case.tamper(t.verdicts, t.verdicts.update().values(digest=sha256_hex(data)))
    object_store.objects["verdicts/fashion/verdict-v1/verdict.json"] = data
    (fault,) = faults(deep=False)
    assert fault.startswith(f"verdict verdict-v1 contradicts its document; {message}")


def test_a_history_that_was_rewritten_as_a_whole_is_seen_by_its_anchor_only(case, faults, entries):
    case.tell()
    head, middle = entries()[-1], entries()[3]
    anchors = {NAME: [(head.sequence, head.entry_hash), (middle.sequence, middle.entry_hash)]}
    assert faults(anchors=anchors) == []

    case.tamper(t.approvals, t.approvals.update().values(by="me"))
    with case.database.read() as connection:
        chain = ledger.chain(ledger_repository.read_drafts(connection, NAME))
    case.tamper(t.ledger, t.ledger.delete(), *[t.ledger.insert().values(**dataclasses.asdict(row)) for row in chain])

    assert faults() == []
    assert [fault.split(" (got")[0] for fault in faults(anchors=anchors)] == [
        f"entry 7 must have the hash {head.entry_hash} that was noted down",
        f"entry 4 must have the hash {middle.entry_hash} that was noted down",
    ]


def test_a_history_that_is_gone_with_its_rows_is_seen_by_its_anchor(faults):
    (fault,) = faults(anchors={"gone": [(2, "a" * 64)]})
    assert fault.endswith("that was noted down (got no such entry): the ledger was rewritten or cut")


@pytest.fixture
def note(database, object_store):
    return lambda: note_head(SimpleNamespace(database=database, brisk_store=object_store), NAME)


def test_nothing_is_noted_of_an_empty_ledger_and_the_same_head_is_noted_once(case, note, object_store, entries):
    note()
    assert not [key for key in object_store.objects if key.startswith("ledger/")]
    case.judge("v1")
    note()
    note()
    ((key, data),) = [item for item in object_store.objects.items() if item[0].startswith("ledger/")]
    assert key == f"ledger/fashion/000000000001-{entries()[0].entry_hash}"
    assert json.loads(data) == ledger.entry_json(entries()[0])


def test_a_cut_end_whose_row_is_gone_too_is_seen_by_what_the_object_store_noted(case, note, faults, entries):
    """A no that is deleted with its entry leaves a whole chain and rows that agree with it."""
    case.answer(case.judge("v1", at=1), "reject", at=2)
    note()
    assert faults() == []
    cut = entries()[1]
    case.tamper(t.approvals, t.approvals.delete())
    case.tamper(t.ledger, t.ledger.delete().where(entry_of(2)))
    (fault,) = faults(deep=False)
    assert fault == (
        "1 of what the object store has noted down must be in the ledger (got none of it; first entry 2, "
        f"000000000002-{cut.entry_hash}): the ledger was rewritten or cut"
    )
    case.answer("verdict-v1", "approve", at=3)  # a yes in its place, noted down as well, does not hide it
    note()
    assert faults() == [fault]


def test_a_history_that_was_rewritten_as_a_whole_is_seen_by_what_the_object_store_noted(case, note, faults):
    case.tell()
    note()
    case.tamper(t.approvals, t.approvals.update().values(by="me"))
    with case.database.read() as connection:
        chain = ledger.chain(ledger_repository.read_drafts(connection, NAME))
    case.tamper(t.ledger, t.ledger.delete(), *[t.ledger.insert().values(**dataclasses.asdict(row)) for row in chain])
    (fault,) = faults()
    assert fault.startswith("1 of what the object store has noted down must be in the ledger")


def test_a_project_that_is_gone_from_the_catalog_is_seen_by_what_the_object_store_noted(faults, object_store):
    object_store.put(f"ledger/gone/000000000002-{'a' * 64}", b"{}")
    object_store.put(f"ledger/gone/000000000001-{'b' * 64}", b"{}")
    object_store.put("ledger/gone/notes.txt", b"not ours")
    (fault,) = faults()
    assert fault.startswith("2 of what the object store has noted down must be")
    assert f"first entry 1, 000000000001-{'b' * 64})" in fault


def test_what_is_noted_while_verify_runs_is_no_cut_end(case, note, faults, object_store, monkeypatch):
    """The object store is listed first: what it has noted by then, the catalog has had before."""
    case.judge("v1")
    listed = object_store.list

    def judge_and_list(prefix):
        if prefix == "ledger/":
            case.judge("v2")
            note()
        return listed(prefix)

    monkeypatch.setattr(object_store, "list", judge_and_list)
    assert faults() == []
