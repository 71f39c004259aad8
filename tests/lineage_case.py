"""A project with a past: two people, two snapshots, three models, a promotion, another, and a prediction log."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa

from bento_services.gateway.prediction_log.records import LogRecord, to_parts
from pipeline_tasks.catalog import tables as t
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.contracts import Attempt, ExamRef, sha256_hex
from pipeline_tasks.validation import manifest

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def at(hour: float) -> dt.datetime:
    return START + dt.timedelta(hours=hour)


def item_id(number: int) -> str:
    return sha256_hex(b"item %d" % number)


class Past:
    """Items 0 to 5 are trained on (5 has an imported label), 6 is of the exam, 7 an audited prediction's input.

    Snapshot 1 holds items 0 to 3, snapshot 2 items 0 to 5 with another label for item 0. Model m1 served, m2 serves,
    m3 was kept out.
    """

    def __init__(self, database, store, *, project: str = "pets") -> None:
        self.database, self.store, self.project = database, store, project
        self.datasets = DatasetRepository(database)
        for number in range(8):
            self._item(number)
        for number, who in enumerate(["ada", "ada", "ben", "ada", "ben"]):
            self._annotate(number, "cat", [who], version=1, hour=1)
        self.snapshot_1 = self._snapshot([0, 1, 2, 3], hour=2)
        self._decide(5, "dog", method="imported", version=1, hour=2.5)
        self._annotate(0, "dog", ["ada", "ben"], version=2, hour=2.5)
        self._annotate(6, "cat", ["ada", "ben"], version=1, hour=2.5, queue="exam")
        self.snapshot_2 = self._snapshot([0, 1, 2, 3, 4, 5], hour=3)
        self.exam_id = self._exam([6], hour=3)
        self._ship("m1", self.snapshot_1, champion=None, answer="promote", generation=1, hour=4)
        self._ship("m2", self.snapshot_2, champion="m1", answer="promote", generation=2, hour=5)
        self._ship("m3", self.snapshot_2, champion="m2", answer="keep", generation=None, hour=6)
        self._log()

    def insert(self, table, **row) -> None:
        with self.database.write() as connection:
            connection.execute(table.insert(), {"project": self.project, **row})

    def _item(self, number: int) -> None:
        production = number == 7
        self.insert(
            t.items,
            item_id=item_id(number),
            source="production" if production else "folder",
            key="aa" * 15 + "01" if production else f"photos/{number}.png",
            group_key=f"g{number}",
            media_type="image/png",
            object_key="packs/x",
            offset=0,
            size_bytes=6,
            split="exam" if number == 6 else "train",
            origin="production" if production else "source",
            source_label=None,
            batch_id="batch-2" if number > 3 else "batch-1",
            arrived_at=at(0.5 if number > 3 else 0),
        )

    def _annotate(self, number, label, people, *, version, hour, queue="label") -> None:
        ids = [f"a{number}-{version}-{name}" for name in people]
        for annotation_id, name in zip(ids, people, strict=True):
            for revision in ("1", "2"):
                self.insert(
                    t.annotations,
                    annotation_id=annotation_id,
                    revision=revision,
                    item_id=item_id(number),
                    queue=queue,
                    annotator=name,
                    label=label if revision == "2" else "first thought",
                    result=[],
                    cancelled=False,
                    deleted=False,
                    lead_time_seconds=1.0,
                    created_at=at(hour),
                    collected_at=at(hour),
                )
        method = "single" if len(people) == 1 else "consensus"
        self._decide(number, label, method=method, version=version, hour=hour, people=people, ids=ids)

    def _decide(self, number, label, *, method, version, hour, people=(), ids=()) -> None:
        self.insert(
            t.label_decisions,
            item_id=item_id(number),
            version=version,
            status="decided",
            label=label,
            method=method,
            annotation_ids=list(ids),
            annotators=list(people),
            agreement=1.0,
            schema_version=1,
            decided_at=at(hour),
        )

    def _table(self, numbers, *, split="train"):
        decided = self.datasets.decided(self.project, split)
        wanted = [
            row
            for row, row_id in enumerate(decided["item_id"].to_pylist())
            if row_id in {item_id(number) for number in numbers}
        ]
        return manifest.build_manifest(decided.take(pa.array(wanted, pa.int64())))

    def _snapshot(self, numbers, *, hour) -> str:
        table = self._table(numbers)
        snapshot_id = manifest.manifest_id(table)
        key = f"snapshots/{self.project}/{snapshot_id}/manifest.parquet"
        self.store.put(key, manifest.to_parquet(table))
        self.datasets.add_snapshot(
            project=self.project,
            snapshot_id=snapshot_id,
            object_key=key,
            class_counts={"cat": len(numbers)},
            schema_version=1,
            run_id="run",
            now=at(hour),
            fence=self.database.acquire(f"snapshot/{self.project}", Attempt("run", "snapshot"), now=at(hour)),
        )
        return snapshot_id

    def _exam(self, numbers, *, hour) -> str:
        table = self._table(numbers, split="exam")
        exam_id = manifest.exam_id(table)
        key = f"exams/{self.project}/{exam_id}.parquet"
        self.store.put(key, manifest.to_parquet(table))
        self.datasets.open_exam(
            ExamRef(self.project, 1, exam_id, key, len(numbers)),
            labels=[(item_id(number), "cat") for number in numbers],
            run_id="run",
            now=at(hour),
            fence=self.database.acquire(f"exam/{self.project}", Attempt("run", "exam"), now=at(hour)),
        )
        return exam_id

    def verdict_id(self, version: str) -> str:
        return sha256_hex(f"verdict {version} {self.project}".encode())

    def version_of(self, name: str) -> str:
        return sha256_hex(f"{name} {self.project}".encode())[:16]

    def _ship(self, name, snapshot_id, *, champion, answer, generation, hour) -> None:
        version = self.version_of(name)
        self.insert(
            t.model_versions,
            version=version,
            training_key=version,
            recipe="image_cnn",
            params={"width": 4},
            snapshot_id=snapshot_id,
            object_key=f"models/{self.project}/{version}",
            digest="d" * 64,
            metrics={"validation": {"accuracy": 0.875}},
            seed=3,
            lock_hash="lock",
            code_revision="c0ffee",
            tracker={},
            run_id=f"run-{name}",
            created_at=at(hour),
        )
        verdict = self.verdict_id(name)
        self.insert(
            t.verdicts,
            verdict_id=verdict,
            answer=answer,
            champion_version=self.version_of(champion) if champion else None,
            contender_version=version,
            exam_ids=[self.exam_id],
            reasons=["because"],
            policy_id="p",
            object_key="k",
            digest="d",
            run_id=f"run-{name}",
            created_at=at(hour + 0.1),
        )
        if generation is None:
            return
        self.insert(
            t.approvals,
            verdict_id=verdict,
            sequence=1,
            decision="approve",
            by="grace",
            requested_by=None,
            reason="looks right",
            at=at(hour + 0.2),
        )
        release, deployment = f"release-{name}", f"{self.project}-{name}"
        self.insert(
            t.releases,
            release_id=release,
            model_version=version,
            verdict_id=verdict,
            bento_tag=f"dethrone_{self.project}:{name}",
            bento_digest="d",
            object_key="k",
            infra_check={},
            run_id="run",
            created_at=at(hour + 0.3),
        )
        self.insert(
            t.release_images,
            release_id=release,
            image=f"registry:5000/{self.project}@sha256:{name}",
            image_id="sha256:i",
            base_digest="sha256:b",
            layer_bytes=7,
            sbom_key=f"bentos/{self.project}/{release}.sbom.cdx.json",
            created_at=at(hour + 0.35),
        )
        address = f"http://127.0.0.1:400{generation}"
        self.insert(
            t.deployments,
            deployment_id=deployment,
            release_id=release,
            model_version=version,
            target="process",
            address=address,
            created_at=at(hour + 0.4),
        )
        entry = {"deployment_id": deployment, "model_version": version, "address": address, "weight": 100}
        self.insert(
            t.routes,
            generation=generation,
            commit_id=f"{self.project}-c{generation}",
            parent_commit_id=None,
            attempt="a",
            action="promote",
            champion_version=version,
            verdict_id=verdict,
            body={"entries": [entry], "shadows": [], "serving": {}},
            actor="gate",
            reason="it won",
            created_at=at(hour + 0.5),
        )

    def record(self, prediction_id: str | None, name: str, *, hour: float, **changes) -> LogRecord:
        payload = b"%s" % (prediction_id or "none").encode()
        fields = {
            "kind": "prediction",
            "prediction_id": prediction_id,
            "request_id": f"r-{prediction_id}",
            "project": self.project,
            "at_ms": int(at(hour).timestamp() * 1000),
            "status": 200,
            "client": "key",
            "latency_ms": 1.0,
            "model_version": self.version_of(name),
            "deployment_id": f"{self.project}-{name}",
            "label": "cat",
            "confidence": 0.75,
            "media_type": "image/png",
            "payload": payload,
            "payload_sha256": sha256_hex(payload),
        }
        return LogRecord(**fields | changes)

    def log(self, *records: LogRecord) -> None:
        for key, data in to_parts(records).items():
            self.store.put(key, data)

    def prediction_id(self, number: int) -> str:
        return "aa" * 15 + f"{number:02x}"

    def _log(self) -> None:
        by_m1 = [self.record(self.prediction_id(number), "m1", hour=4.6) for number in (1, 2, 3)]
        by_m2 = [self.record(self.prediction_id(number), "m2", hour=5.6) for number in (4, 5)]
        failed = self.record(None, "m2", hour=5.7, status=503, error_code="AWAY", label=None, confidence=None)
        told = self.record(
            self.prediction_id(1), "m1", hour=7, kind="feedback", status=202, model_version=None, outcome_label="dog"
        )
        self.log(*by_m1)
        self.log(by_m1[2], *by_m2, failed, told)  # a part that was cut otherwise holds one prediction again
        self.insert(
            t.audits,
            prediction_id=self.prediction_id(1),
            item_id=item_id(7),
            model_version=self.version_of("m1"),
            predicted_label="cat",
            confidence=0.75,
            kind="audit",
            predicted_at=at(4.6),
            picked_at=at(4.8),
        )
        self.insert(
            t.outcomes,
            outcome_id="o1",
            prediction_id=self.prediction_id(1),
            business_key=None,
            label="dog",
            source="key",
            at=at(7),
        )
