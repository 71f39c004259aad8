"""The catalog's tables. Times are UTC; unique keys make writes idempotent.

`APPEND_ONLY` tables refuse UPDATE and DELETE by database triggers (see migrations).
"""

import datetime as dt
from typing import Any

import sqlalchemy as sa

from pipeline_tasks import errors
from pipeline_tasks.catalog.append_only import POSTGRESQL_FUNCTION, create_statements

metadata = sa.MetaData()


class UtcDateTime(sa.types.TypeDecorator[dt.datetime]):
    """A timestamp with time zone on every database; SQLite keeps it as a naive UTC value."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a catalog time must carry a time zone (got {value!r}).")
        utc = value.astimezone(dt.UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: dt.datetime | None, _dialect: sa.Dialect) -> dt.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


class PrintableText(sa.types.TypeDecorator[str]):
    """Text from outside, as both databases take it: no NUL, no half characters, one line, of a limited length."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def process_bind_param(self, value: str | None, _dialect: sa.Dialect) -> str | None:
        return None if value is None else errors.printable(value, limit=self.limit)


def _text(name: str, **kwargs: Any) -> sa.Column[str]:
    kwargs.setdefault("nullable", False)
    return sa.Column(name, sa.Text, **kwargs)


def _key(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=True)


def _integer(name: str, **kwargs: Any) -> sa.Column[int]:
    kwargs.setdefault("nullable", False)
    return sa.Column(name, sa.BigInteger, **kwargs)


def _json(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[dt.datetime]:
    return sa.Column(name, UtcDateTime, nullable=nullable)


def _item_id(context: Any) -> str:
    """Return the id of the item that is inserted: its content's too, but for a table's rows, which say theirs."""
    return str(context.get_current_parameters()["item_id"])


projects = sa.Table(
    "projects",
    metadata,
    _key("project"),
    _text("split_key"),
    _json("labels"),
    _integer("schema_version"),
    _json("ls_project_ids"),
    _time("created_at"),
)

schema_versions = sa.Table(
    "schema_versions",
    metadata,
    _key("project"),
    sa.Column("version", sa.BigInteger, primary_key=True),
    _json("classes"),
    _json("mapping"),  # class of the version before that is none any more -> class now, null: removed
    _integer("undoes", nullable=True),
    _text("changed_by"),
    _time("created_at"),
)

items = sa.Table(
    "items",
    metadata,
    _key("project"),
    _key("item_id"),
    _text("source"),
    _text("key"),
    _text("group_key"),
    _text("media_type"),
    _text("object_key"),
    _integer("offset"),
    _integer("size_bytes"),
    _text("split"),
    _text("origin"),
    _text("source_label", nullable=True),
    _text("batch_id"),
    _time("arrived_at"),
    _text("content_id", default=_item_id),  # SHA-256 of the bytes
    sa.Index("ix_items_batch", "project", "batch_id"),
    sa.Index("ix_items_content", "project", "content_id"),
    sa.Index("ix_items_group", "project", "group_key"),
)

seen_objects = sa.Table(
    "seen_objects",
    metadata,
    _key("project"),
    _key("source"),
    _key("key"),
    _text("fingerprint"),
)

item_retirements = sa.Table(
    "item_retirements",
    metadata,
    _key("project"),
    _key("item_id"),
    _text("reason"),
    _text("by"),
    _time("at"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    _key("project"),
    _key("stage"),
    _key("source"),
    sa.Column("key", PrintableText(300), primary_key=True),
    _key("digest"),
    _key("code"),
    sa.Column("reason", PrintableText(errors.MAX_MESSAGE), nullable=False),
    _text("object_key", nullable=True),
    _time("at"),
)

cursors = sa.Table(
    "cursors",
    metadata,
    _key("project"),
    _key("name"),
    _json("value"),
    _integer("generation"),
    _time("updated_at"),
)

labeling_tasks = sa.Table(
    "labeling_tasks",
    metadata,
    _key("project"),
    _key("item_id"),
    _text("queue"),  # label | exam
    _text("state"),  # pending | pushing | pushed | done
    _text("reason"),  # new | uncertain | audit | manual
    sa.Column("priority", sa.Float, nullable=False),
    _integer("ls_project_id", nullable=True),
    _integer("ls_task_id", nullable=True),
    _json("prediction", nullable=True),
    _time("requested_at"),
    _time("pushed_at", nullable=True),
    sa.Index("ix_labeling_tasks_state", "project", "state"),
)

annotations = sa.Table(
    "annotations",
    metadata,
    _key("project"),
    _key("annotation_id"),
    _key("revision"),
    _text("item_id"),
    _text("queue"),
    _text("annotator"),
    _text("label", nullable=True),
    _json("result"),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("lead_time_seconds", sa.Float),
    _time("created_at"),
    _time("collected_at"),
    sa.Index("ix_annotations_item", "project", "item_id"),
)

label_decisions = sa.Table(
    "label_decisions",
    metadata,
    _key("project"),
    _key("item_id"),
    sa.Column("version", sa.BigInteger, primary_key=True),
    _text("status"),  # decided | disputed | withdrawn
    _text("label", nullable=True),
    _text("method"),  # imported | single | consensus | outcome
    _json("annotation_ids"),
    _json("annotators"),
    sa.Column("agreement", sa.Float),
    _integer("schema_version"),
    _time("decided_at"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    _key("project"),
    _key("snapshot_id"),
    _integer("generation"),
    _text("parent_id", nullable=True),
    _text("object_key"),
    _integer("num_rows"),
    _json("class_counts"),
    _integer("schema_version"),
    _text("run_id"),
    _time("created_at"),
    sa.UniqueConstraint("project", "generation", name="uq_snapshots_generation"),
)

exams = sa.Table(
    "exams",
    metadata,
    _key("project"),
    sa.Column("epoch", sa.BigInteger, primary_key=True),
    _text("exam_id"),
    _text("object_key"),
    _integer("num_items"),
    _text("run_id"),
    _time("opened_at"),
)

exam_items = sa.Table(
    "exam_items",
    metadata,
    _key("project"),
    _key("item_id"),
    _integer("epoch"),
    _text("label"),
)

checks = sa.Table(
    "checks",
    metadata,
    _key("project"),
    _key("stage"),  # items | labels | dataset
    _key("subject"),  # batch id, snapshot id, ...
    _key("suite"),
    sa.Column("success", sa.Boolean, nullable=False),
    _json("statistics"),
    _json("failures"),
    _text("report_key", nullable=True),
    _text("run_id"),
    _time("created_at"),
)

model_versions = sa.Table(
    "model_versions",
    metadata,
    _key("project"),
    _key("version"),
    _text("training_key"),
    _text("recipe"),
    _json("params"),
    _text("snapshot_id"),
    _text("object_key"),
    _text("digest"),
    _json("metrics"),
    _integer("seed"),
    _text("lock_hash"),
    _text("code_revision"),
    _json("tracker"),
    _text("run_id"),
    _time("created_at"),
    sa.UniqueConstraint("project", "training_key", name="uq_model_versions_training_key"),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    _key("project"),
    _key("verdict_id"),
    _text("answer"),
    _text("champion_version", nullable=True),
    _text("contender_version"),
    _json("exam_ids"),
    _json("reasons"),
    _text("policy_id"),
    _text("object_key"),
    _text("digest"),  # SHA-256 of verdict.json
    _text("run_id"),
    _time("created_at"),
    _text("report_digest", nullable=True),  # SHA-256 of report.html; none in verdicts of older releases
    sa.Index("ix_verdicts_contender", "project", "contender_version"),
)

approvals = sa.Table(
    "approvals",
    metadata,
    _key("project"),
    _key("verdict_id"),
    sa.Column("sequence", sa.BigInteger, primary_key=True),  # an expired request may be asked again
    _text("decision"),  # approve | reject | expired
    _text("by"),
    _text("requested_by", nullable=True),  # who triggered the run: four eyes
    _text("reason"),
    _time("at"),
)

releases = sa.Table(
    "releases",
    metadata,
    _key("project"),
    _key("release_id"),
    _text("model_version"),
    _text("verdict_id"),
    _text("bento_tag"),
    _text("bento_digest"),
    _text("object_key"),
    _json("infra_check"),
    _text("run_id"),
    _time("created_at"),
)

release_images = sa.Table(
    "release_images",
    metadata,
    _key("project"),
    _key("release_id"),
    _key("image"),  # repository@sha256:...: what a container runs
    _text("image_id"),
    _text("base_digest"),
    sa.Column("layer_bytes", sa.BigInteger, nullable=False),
    _text("sbom_key"),
    _time("created_at"),
)

deployments = sa.Table(
    "deployments",
    metadata,
    _key("project"),
    _key("deployment_id"),
    _text("release_id"),
    _text("model_version"),
    _text("target"),
    _text("address"),
    _time("created_at"),
)

routes = sa.Table(
    "routes",
    metadata,
    _key("project"),
    sa.Column("generation", sa.BigInteger, primary_key=True),
    _text("commit_id", unique=True),
    _text("parent_commit_id", nullable=True),
    _text("attempt"),
    _text("action"),  # contracts.RouteAction
    _text("champion_version"),
    _text("verdict_id"),
    _json("body"),  # {"entries": [...], "shadows": [...], "serving": {threshold, top_k, ..., graph}}
    _text("actor"),
    _text("reason"),
    _time("created_at"),
)

ledger = sa.Table(
    "ledger",
    metadata,
    _key("project"),
    sa.Column("sequence", sa.BigInteger, primary_key=True),  # counts up from 1 without a gap
    _text("kind"),  # ledger.Kind
    _text("subject"),  # verdict id | verdict id/sequence | release id | commit id | key id[/revoked] | a seal's digest
    _json("body"),  # the facts of the row that it speaks of
    _text("evidence_digest", nullable=True),  # SHA-256 of the verdict.json behind it
    _text("previous_hash", nullable=True),
    _text("entry_hash"),
    _time("at"),
    _text("signature", nullable=True),  # key id:base64; none in entries of older releases
    sa.UniqueConstraint("project", "kind", "subject", name="uq_ledger_subject"),
)

runs = sa.Table(
    "runs",
    metadata,
    _key("project"),
    _key("run_id"),
    _text("kind"),
    _text("state"),  # open | closed
    _text("outcome", nullable=True),
    _text("reason_code", nullable=True),
    _text("reason", nullable=True),
    _json("info"),
    _time("opened_at"),
    _time("deadline_at"),
    _time("closed_at", nullable=True),
)

leases = sa.Table(
    "leases",
    metadata,
    _key("name"),
    _integer("token"),
    _text("holder"),
    _time("acquired_at"),
)

prediction_parts = sa.Table(
    "prediction_parts",
    metadata,
    _key("project"),
    _key("object_key"),
    _integer("num_predictions"),
    _integer("num_feedback"),
    _time("imported_at"),
)

audits = sa.Table(
    "audits",
    metadata,
    _key("project"),
    _key("prediction_id"),
    _text("item_id"),
    _text("model_version"),
    _text("predicted_label"),
    sa.Column("confidence", sa.Float, nullable=False),
    _text("kind"),  # audit | uncertain
    _time("predicted_at"),
    _time("picked_at"),
    sa.Column("inclusion", sa.Float),  # the chance with which an audit was picked
    sa.Index("ix_audits_item", "project", "item_id"),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    _key("project"),
    _key("outcome_id"),
    _text("prediction_id", nullable=True),
    _text("business_key", nullable=True),
    _text("label"),
    _text("source"),
    _time("at"),
)

monitor_windows = sa.Table(
    "monitor_windows",
    metadata,
    _key("project"),
    _key("window_id"),
    _json("statistics"),
    _json("alarms"),
    _text("run_id"),
    _time("created_at"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _key("key_id"),
    _text("project"),  # a project's name, or * for all
    _text("name"),
    _text("sha256", unique=True),
    _json("scopes"),
    _time("created_at"),
    _time("revoked_at", nullable=True),
)

APPEND_ONLY = (
    schema_versions,
    item_retirements,
    annotations,
    label_decisions,
    snapshots,
    exams,
    exam_items,
    checks,
    model_versions,
    verdicts,
    approvals,
    releases,
    release_images,
    deployments,
    routes,
    ledger,
    prediction_parts,
    audits,
    outcomes,
)


def _protect(_metadata: sa.MetaData, connection: sa.Connection, **_: Any) -> None:
    """Let tables that `metadata.create_all` makes, in tests, refuse what those of the migrations refuse."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(POSTGRESQL_FUNCTION)
    for table in APPEND_ONLY:
        for statement in create_statements(table.name, dialect=connection.dialect.name):
            connection.exec_driver_sql(statement)


sa.event.listen(metadata, "after_create", _protect)
