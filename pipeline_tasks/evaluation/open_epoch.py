"""Verdicts as they are told: whole once their epoch is closed, until then what the ladder gives."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.datasets import DatasetRepository
from pipeline_tasks.catalog.verdicts import VerdictRecord, VerdictRepository
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.evaluation import ladder
from pipeline_tasks.evaluation.ladder import Rung
from pipeline_tasks.evaluation.report.open_epoch import told_page, told_summary


@dataclasses.dataclass(frozen=True, slots=True)
class ConcealedVerdict:
    """A verdict whose exact figures are held back, and the ladder at its place among those on its epoch."""

    document: Mapping[str, Any]
    rung: Rung | None

    @property
    def said(self) -> dict[str, Any]:
        """The verdict as it is told."""
        return ladder.told(self.document, rung=self.rung)

    @property
    def page(self) -> str:
        """The page for whoever may not read the exam."""
        return told_page(self.document, rung=self.rung)

    @property
    def summary(self) -> str:
        """The body of the request for approval."""
        return told_summary(self.document, rung=self.rung)


def held_back(database: Database, store: ObjectStore, record: VerdictRecord) -> ConcealedVerdict | None:
    """Return a verdict as far as it is told; None where all of it is: its epoch is closed, or its policy says so."""
    return held_verdicts(database, store, record.ref.project).get(record.ref.verdict_id)


def held_verdicts(database: Database, store: ObjectStore, project: str) -> dict[str, ConcealedVerdict]:
    """Return the verdicts on a project's open epoch that are held back, by id; the ladder is one for each champion."""
    newest = next(iter(DatasetRepository(database).exams(project)), None)
    history = VerdictRepository(database).history(project) if newest is not None else []
    rungs: dict[str | None, Rung] = {}
    held = {}
    on_newest = [judged for judged in history if newest and judged.exam_ids[0] == newest.exam_id]
    read = [(record, document) for record in on_newest if (document := _document(store, record)) is not None]
    for record, document in sorted(read, key=_use):
        champion, verdicts = record.ref.champion_version, ladder.difference_of(document)
        if verdicts is not None:
            rungs[champion] = ladder.climb(rungs.get(champion), verdicts[0], num_items=verdicts[1])
        if not ladder.is_told_whole(document):
            held[record.ref.verdict_id] = ConcealedVerdict(document, rungs[champion] if verdicts is not None else None)
    return held


def told_reasons(database: Database, store: ObjectStore, record: VerdictRecord) -> tuple[str, ...]:
    """Return a verdict's reasons as they are told now."""
    held = held_back(database, store, record)
    return record.ref.reasons if held is None else tuple(reason["text"] for reason in held.said["decision"]["reasons"])


def _use(judged: tuple[VerdictRecord, Mapping[str, Any]]) -> tuple[dt.datetime, int]:
    """Return when a verdict was given, and which use of its epoch it was: two may be of one moment."""
    record, document = judged
    return record.created_at, document["question"]["exam_use"]


def _document(store: ObjectStore, record: VerdictRecord) -> Mapping[str, Any] | None:
    """Return a verdict's document, or None where it cannot be read: its page is then refused by its digest."""
    try:
        document: Mapping[str, Any] = json.loads(store.get(f"{record.ref.object_key}/verdict.json"))
    except (KeyError, ValueError):
        return None
    return document
