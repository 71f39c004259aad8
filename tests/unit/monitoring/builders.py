"""A project in production: a prediction log as the gateway writes it, a champion with its verdict, labels."""

import datetime as dt
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from bento_services.gateway.prediction_log.records import LogRecord, to_parts
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.items import ItemRepository
from pipeline_tasks.catalog.labels import LabelRepository
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.contracts import Attempt, sha256_hex
from pipeline_tasks.monitoring.log_import import MonitoringResources
from pipeline_tasks.monitoring.task import run
from tests.unit.validation.builders import loaded_project, png

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SPLIT_KEY = "split key of the test"


def record(number: int, **changes) -> LogRecord:
    """Return an answered prediction; its content differs by number."""
    payload = changes.pop("payload", None) or png(number)
    fields = {
        "kind": "prediction",
        "prediction_id": f"p{number:05}",
        "request_id": f"r{number:05}",
        "project": "pets",
        "at_ms": int(NOW.timestamp() * 1000) + number,
        "status": 200,
        "client": "key-1",
        "latency_ms": 3.0,
        "model_version": "m1",
        "deployment_id": "d1",
        "label": "cat",
        "confidence": 0.9,
        "scores": "{}",
        "needs_review": False,
        "media_type": "image/png",
        "payload": payload,
        "payload_sha256": sha256_hex(payload),
    }
    return LogRecord(**fields | changes)


def feedback(number: int, label: str, **changes) -> LogRecord:
    fields = {
        "kind": "feedback",
        "prediction_id": f"p{number:05}",
        "request_id": f"f{number:05}",
        "project": "pets",
        "at_ms": int(NOW.timestamp() * 1000) + number,
        "status": 202,
        "client": "key-1",
        "latency_ms": 1.0,
        "outcome_label": label,
    }
    return LogRecord(**fields | changes)


class Production:
    """The monitor's world, being filled by a test."""

    def __init__(self, database, store, folder, **monitor) -> None:
        self.database, self.store = database, store
        policy = {"audit_share": 0.0, "max_uncertain": 0, "min_audited": 10, "window_audits": 20}
        self.project = loaded_project(folder / "pets", monitor=policy | monitor, split={"exam_share": 0.3})
        self.outside = MonitoringResources(
            database=database,
            store=store,
            items=ItemRepository(database),
            labels=LabelRepository(database),
            datasets=DatasetRepository(database),
            monitoring=MonitoringRepository(database),
            split_key=SPLIT_KEY,
        )

    @property
    def monitoring(self) -> MonitoringRepository:
        return self.outside.monitoring

    def log(self, *records: LogRecord) -> None:
        for key, data in to_parts(records).items():
            self.store.put(key, data)

    def run(self, run_id="run-1", number=1, at=NOW):
        return run(
            self.project, outside=self.outside, attempt=Attempt(run_id, "monitor", number), run_id=run_id, now=at
        )

    def decide(self, item_id: str, label: str) -> None:
        row = {"project": "pets", "item_id": item_id, "version": 1, "status": "decided", "label": label}
        row |= {"method": "single", "annotation_ids": [], "annotators": ["ann"], "agreement": 1.0}
        self.insert(t.label_decisions, row | {"schema_version": 1, "decided_at": NOW})

    def crown(self, version="m1", *, generation=1, accuracy=0.9, exam_items=1000, answers=None) -> None:
        """Let a version serve by a verdict; `answers` are its (cat, dog) probabilities on the exam."""
        key = f"verdicts/pets/v-{version}"
        document = {
            "question": {
                "contender": {"version": version, "classes": ["cat", "dog"]},
                "champion": None,
                "exams": [{"exam_id": "e1"}],
            },
            "evidence": {"current": {"num_items": exam_items, "contender": {"accuracy": {"estimate": accuracy}}}},
        }
        self.store.put(f"{key}/verdict.json", json.dumps(document).encode())
        if answers is not None:
            table = pa.table({"exam_id": ["e1"] * len(answers), "contender_probabilities": answers})
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            self.store.put(f"{key}/evidence.parquet", buffer.getvalue())
        verdict = {"project": "pets", "verdict_id": f"v-{version}", "answer": "promote", "champion_version": None}
        verdict |= {
            "contender_version": version,
            "exam_ids": ["e1"],
            "reasons": {"code": "GAIN_SHOWN", "texts": []},
            "policy_id": "p",
            "object_key": key,
        }
        columns = {column.name for column in t.verdicts.c}
        verdict |= dict.fromkeys(columns - set(verdict) - {"created_at", "champion_version"}, "x")
        self.insert(t.verdicts, verdict | {"run_id": "r", "created_at": NOW})
        route = {"project": "pets", "generation": generation, "commit_id": f"c{generation}", "parent_commit_id": None}
        route |= {"attempt": "a", "action": "promote", "champion_version": version, "verdict_id": f"v-{version}"}
        body = {"entries": [], "shadows": [], "serving": {}}
        self.insert(t.routes, route | {"body": body, "actor": "test", "reason": "", "created_at": NOW})

    def insert(self, table, row) -> None:
        with self.database.write() as connection:
            connection.execute(table.insert(), row)

    def rows(self, table) -> list[dict]:
        with self.database.read() as connection:
            return [dict(row) for row in connection.execute(table.select()).mappings()]
