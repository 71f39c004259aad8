"""Evidence that people read, and changes by the owner of the database or the bucket: found, or listed."""

import re
import shutil
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline_tasks.audit.signing_keys import known_keys, save_public_key, signatures_text
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.append_only import create_statements
from pipeline_tasks.catalog.database import Database, create_engine
from pipeline_tasks.catalog.ledger import seals
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.signatures import new_key, parse_key, parse_public_keys, signature_faults
from pipeline_tasks.cli import views as cli_views
from pipeline_tasks.contracts import sha256_hex
from pipeline_tasks.errors import ConfigError, DataCorrupt
from pipeline_tasks.invariants.check import check
from pipeline_tasks.monitoring.page import page_key
from pipeline_tasks.orchestration import overview
from pipeline_tasks.orchestration.ledger_seals import seal
from pipeline_tasks.validation.check_reports import report_key
from tests.ledger_case import NAME, Case, faults_of, minutes
from tests.reported.evidence_case import NOW, Evidence, columns, edit_of, insertion_into, removal_of

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
    monkeypatch.setattr(overview, "_shared_parts", lambda: parts)
    monkeypatch.setattr(cli_views, "build_resources", lambda: parts)
    return case


@pytest.mark.parametrize("key", PAGES.values(), ids=PAGES.keys())
def test_a_page_is_shown_as_it_was_written_or_not_at_all(judged, key):
    judged.store.objects[key] = PAGE
    assert overview.read_report(key, exact=True) == PAGE
    judged.store.objects[key] = FORGED
    with pytest.raises(DataCorrupt, match=r"It was changed after|must not be believed"):
        overview.read_report(key, exact=True)


def test_a_forged_report_is_named_by_verify_and_not_saved(judged, tmp_path):
    faults = faults_of(judged.database, judged.store)
    assert faults() == []
    judged.store.objects[REPORT] = FORGED
    (fault,) = faults(deep=False)
    assert f"{REPORT} with the SHA-256 {sha256_hex(PAGE)} (got {sha256_hex(FORGED)})" in fault
    with pytest.raises(DataCorrupt, match="must not be believed"):
        cli_views.save_report(NAME, verdict=None, output=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_no_recorded_verdict_is_not_shown(judged):
    judged.store.objects[key := f"verdicts/{NAME}/verdict-v9/report.html"] = FORGED
    with pytest.raises(KeyError):
        overview.read_report(key, exact=True)


@pytest.mark.parametrize(
    "key",
    [
        f"verdicts/{NAME}/verdict-v1/report2.html",
        f"verdicts/{NAME}/verdict-v1/pages/report.html",
        f"reports/{NAME}/report.html",
        f"reports/{NAME}/monitor/quality-{'a' * 16}.html",
    ],
)
def test_a_page_beside_the_recorded_ones_is_not_shown(judged, key):
    """An attacker's review: the bucket's owner puts a page where no verdict, check or look wrote one."""
    judged.store.objects[key] = FORGED
    with pytest.raises(KeyError):
        overview.read_report(key, exact=True)


def test_a_report_of_an_older_release_is_shown_as_it_lies_there(judged):
    judged.judge("v2", answer="keep", champion="v1")
    judged.store.objects[key := f"verdicts/{NAME}/verdict-v2/report.html"] = PAGE
    assert overview.read_report(key, exact=True) == PAGE
    assert faults_of(judged.database, judged.store)() == []


TABLES = [table.name for table in t.metadata.sorted_tables]
LISTED = Path(__file__).parents[2] / "docs" / "evidence.md"


@pytest.fixture(scope="module")
def evidence(tmp_path_factory, catalog_template):
    """A sealed world; one for all edits, each of which is rolled back."""
    return Evidence(tmp_path_factory.mktemp("evidence"), catalog_template)


def listed() -> dict[str, tuple[set[str], set[str]]]:
    """Return what docs/evidence.md says is not covered: columns and kinds of edits of rows, by table."""
    tables = {}
    for name, some, rows in re.findall(r"^\| (\w+) \| ([^|]*)\| ([^|]*)\|[^|]*\|$", LISTED.read_text(), re.MULTILINE):
        if name in TABLES:
            names = set(re.findall(r"\w+", some))
            all_of = {column for table, column in columns() if table == name}
            tables[name] = (all_of if names == {"all"} else names, set(re.findall(r"\w+", rows)))
    return tables


def test_h8_a_sealed_world_is_sound(evidence):
    assert evidence.found() == []


@pytest.mark.parametrize("table", TABLES)
def test_h8_every_edit_by_the_owner_is_found_or_listed(evidence, table):
    missed = {column for name, column in columns() if name == table and not evidence.found(edit_of(name, column))}
    kinds = {"added": insertion_into, "removed": removal_of}
    rows = {kind for kind, edit in kinds.items() if not evidence.found(edit(table))}
    assert (missed, rows) == listed().get(table, (set(), set())), "docs/evidence.md lists what is not covered"


@pytest.mark.parametrize(
    ("table", "trigger"), [("label_decisions", "UPDATE"), ("ledger", "DELETE")], ids=["H8-update", "H8-delete"]
)
def test_h8_a_dropped_trigger_is_named(evidence, table, trigger):
    def drop(connection):
        for name in (table_of.name for table_of in t.APPEND_ONLY if table_of.name != table):
            for statement in create_statements(name, dialect="sqlite"):
                connection.exec_driver_sql(statement)
        kept = [sql for sql in create_statements(table, dialect="sqlite") if f"BEFORE {trigger}" not in sql]
        for statement in kept:
            connection.exec_driver_sql(statement)

    assert evidence.found(drop, drop=True) == [
        f"I11 *: 1 tables without the triggers that make them append-only: {table}"
    ]


def test_h8_a_trigger_that_does_nothing_is_named(evidence):
    def disarm(connection):
        connection.exec_driver_sql("DROP TRIGGER routes_append_only_UPDATE")
        connection.exec_driver_sql(
            "CREATE TRIGGER routes_append_only_UPDATE BEFORE UPDATE ON routes BEGIN SELECT 1; END"
        )

    assert "routes" in evidence.found(disarm, after_triggers=True)[0]


def test_h8_an_inserted_admin_key_is_named(evidence):
    row = {"key_id": "evil", "project": "*", "name": "x", "sha256": "e" * 64, "scopes": ["admin"]}
    (fault,) = evidence.found(lambda connection: connection.execute(t.api_keys.insert(), row | {"created_at": NOW}))
    assert fault.startswith("I10 *: key evil must have an entry in the ledger (got none)")


def test_h8_every_object_of_the_bucket_that_is_changed_or_removed_is_found_or_listed(evidence):
    kinds, missed = set(), defaultdict(set)
    for key, data in evidence.objects.items():
        kinds.add(key.split("/")[0])
        for kind, other in (("changed", data + b"x"), ("removed", None)):
            evidence.with_objects({key: other})
            if not evidence.found():
                missed[key.split("/")[0]].add(kind)
    evidence.with_objects({})
    everything = {"bentos", "exams", "ledger", "models", "packs", "predictions", "reports", "seals", "snapshots"}
    assert kinds == everything | {"verdicts"}
    assert missed == {"ledger": {"removed"}}, "docs/evidence.md lists what is not covered"


@pytest.fixture
def signed(tmp_path, catalog_template, object_store):
    """A ledger whose first two entries are from before the key."""
    shutil.copy(catalog_template, tmp_path / "catalog.db")
    url, signer = f"sqlite:///{tmp_path / 'catalog.db'}", parse_key(new_key(minutes(3)))
    before = Case(Database(create_engine(url)), object_store)
    before.answer(before.judge("v1"))
    case = Case(Database(create_engine(url, signer=signer)), object_store)
    case.move("v1", at=3)
    case.judge("v2", answer="keep", champion="v1", at=4)
    return case, signer


def append_unsigned(case):
    """Add a whole verdict, row, entry and hash, as the database's owner can without the key."""
    Case(Database(create_engine(str(case.database.engine.url))), case.store).judge("v9", champion="v1", at=9)


def strip_signatures(case):
    case.tamper(t.ledger, t.ledger.update().values(signature=None))


def sign_with_another_key(case):
    other = parse_key(new_key(minutes(3)))
    entry = LedgerRepository(case.database).head(NAME)
    case.tamper(t.ledger, t.ledger.update().where(t.ledger.c.sequence == 4).values(signature=other(entry)))


def move_a_signature(case):
    entry = LedgerRepository(case.database).entries(NAME)[2]
    case.tamper(t.ledger, t.ledger.update().where(t.ledger.c.sequence == 4).values(signature=entry.signature))


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (append_unsigned, ["entry 5 (verdict verdict-v9) must be signed (got no signature)"]),
        (
            strip_signatures,
            ["entry 3 (route fashion-comm) must be signed", "entry 4 (verdict verdict-v2) must be signed"],
        ),
        (sign_with_another_key, ["entry 4 (verdict verdict-v2) must be signed by"]),
        (move_a_signature, ["entry 4 (verdict verdict-v2) must have a signature that fits"]),
    ],
)
def test_h8_only_the_stack_writes_what_counts(signed, forge, told):
    case, signer = signed
    keys = parse_public_keys(signer.public.as_text())

    def faults():
        return list(signature_faults(LedgerRepository(case.database).entries(NAME), keys))

    assert faults() == []
    forge(case)
    named = faults()
    assert len(named) == len(told)
    assert all(text in fault for fault, text in zip(named, told, strict=True))


def test_h8_verify_takes_the_public_key_of_another_machine(signed, tmp_path):
    case, signer = signed
    here = SimpleNamespace(home=tmp_path, signing_key=None)
    entries = LedgerRepository(case.database).entries(NAME)
    assert signatures_text(entries, known_keys(here, None)).startswith("Signatures were not checked")
    there = SimpleNamespace(home=tmp_path, signing_key=signer_text(signer))
    save_public_key(there, tmp_path / "key.pem")
    keys = known_keys(here, tmp_path / "key.pem")
    assert [key.key_id for key in keys] == [signer.public.key_id]
    text = "2 of 4 entries of the ledgers are signed; 2 are from before the stack had a key."
    assert signatures_text(entries, keys) == text
    (tmp_path / "trusted_keys.pem").write_text((tmp_path / "key.pem").read_text())
    assert known_keys(here, None) == keys
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigError, match=r"--public-key must be a file with a line"):
        known_keys(here, tmp_path / "key.pem")


def signer_text(signer):
    return f"{int(signer.since.timestamp())}k{signer.key.private_bytes_raw().hex()}"


def test_h8_a_seal_marks_what_no_seal_has(signed):
    case, _signer = signed
    parts = SimpleNamespace(database=case.database, store=case.store)
    counts = []
    for version in ("", "v3"):
        if version:
            case.judge(version, answer="keep", champion="v1", at=5)
        for _ in range(2):  # the second finds nothing new
            seal(parts, NAME)
        entries = LedgerRepository(case.database).entries(NAME)
        counts.append(
            [{name: counted["num_rows"] for name, counted in entry.body["tables"].items()} for entry in seals(entries)]
        )
    first = {"approvals": 1, "routes": 1, "verdicts": 2}
    assert counts == [[first], [first, {"verdicts": 1}]]
    case.store.objects.pop(seals(entries)[0].body["object_key"])
    assert "must have seals/" in str(check(case.database, case.store, now=minutes(60)))
    seal(parts, NAME)  # marks again what the lost seal had marked
    assert len(seals(LedgerRepository(case.database).entries(NAME))) == 3
