"""Judge a contender against the champion: score both on the frozen exams, decide, keep the evidence."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.exam_window import ExamLabels, window
from pipeline_tasks.catalog.schema_versions import counts_now
from pipeline_tasks.catalog.verdicts import VerdictRecord, VerdictRepository
from pipeline_tasks.contracts import Attempt, ExamRef, Fence, Leak, ModelRef, VerdictRef, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt, GateClosed, InputError, LostRace
from pipeline_tasks.evaluation import approval, scoring
from pipeline_tasks.evaluation import verdict as vd
from pipeline_tasks.evaluation.error_budget import newest_level
from pipeline_tasks.evaluation.evidence import ExamAnswers, LeftOut
from pipeline_tasks.evaluation.former_classes import exams_of_now, model_of_now, names_used
from pipeline_tasks.evaluation.leaving_out import undecodable, without_retired
from pipeline_tasks.evaluation.report import page as report
from pipeline_tasks.evaluation.report.leaks import FindItems
from pipeline_tasks.evaluation.scoring import Exam, Measured, ReadItems, ScoringModel
from pipeline_tasks.evaluation.slices import values_of
from pipeline_tasks.project.gate_schema import Gate
from pipeline_tasks.project.schema import LoadedProject
from pipeline_tasks.validation.after_alarm import EXAM_AWAITED

logger = logging.getLogger(__name__)

MAX_DECISIONS = 5
FindGroups = Callable[[ExamRef], Mapping[str, str]]
FindLeaks = Callable[[str, Sequence[ExamRef]], Sequence[Leak]]
FindLabels = Callable[[Sequence[ExamRef]], ExamLabels]


@dataclasses.dataclass(frozen=True, slots=True)
class GateContext:
    """The surroundings of a judgement: where models, items and facts of them come from, and where a verdict goes.

    `load` reads a stored model version, `read` items' bytes in order. `find_leaks` returns the items of exams that a
    snapshot trains on, exactly or nearly, `find_items` items by id (for the leaks that the report shows, and slices by
    key_pattern), `find_groups` the group of each item of an exam by item id: near duplicates are of one group,
    `find_labels` facts of the exams' labels, which the verdict tells. Items that are `retired` (item id -> who, when
    and why) are left out for both models, and the verdict says so. `former` says what class names from before a
    migration stand for (None: removed): exams and the champion's answers are read through it, the contender has to know
    the names of now.
    """

    load: Callable[[ModelRef], ScoringModel]
    read: ReadItems
    find_leaks: FindLeaks
    find_items: FindItems
    find_groups: FindGroups
    store: ObjectStore
    database: Database
    attempt: Attempt
    now: dt.datetime
    find_labels: FindLabels = lambda _exams: ExamLabels()
    retired: Mapping[str, str] = dataclasses.field(default_factory=dict)
    former: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    timer: Callable[[], float] = time.perf_counter

    @property
    def verdicts(self) -> VerdictRepository:
        return VerdictRepository(self.database)


@dataclasses.dataclass(frozen=True, slots=True)
class _Scored:
    """All that scoring gave, before the rule has spoken."""

    exams: tuple[Exam, ...]
    answers: tuple[ExamAnswers, ...]
    contender: vd.Party
    champion: vd.Party | None
    measured: Mapping[str, Measured]
    leaks: tuple[Leak, ...]
    champion_leaks: tuple[Leak, ...]
    left_out: tuple[LeftOut, ...]
    labels: ExamLabels
    former: Mapping[str, str | None] | None


def judge(
    project: LoadedProject,
    contender: ModelRef,
    exams: Sequence[ExamRef],
    *,
    champion: ModelRef | None,
    context: GateContext,
    opened: Sequence[dt.datetime] = (),
    alarm: str | None = None,
    awaited: str | None = None,
) -> VerdictRef:
    """Return the verdict on a contender; the same question is asked once and its answer adopted afterwards.

    `exams` are epochs of the project, of which the newest are judged together (gate.exam.window_items); `opened` is
    when each epoch up to the newest was opened, which gives its part of the yearly budget of false promotions (where
    none are given: one epoch, opened now). Items that cannot be decoded are left out for both models, and the verdict
    says so. `alarm` says that one stands and how far the exam is after it, for the verdict's note; `awaited` is why a
    new question waits.

    Raises:
        InputError: EXAM_MISSING, there is no exam yet.
        PermanentError: CHAMPION_UNREADABLE or CONTENDER_UNREADABLE.
        DataCorrupt: an exam or an item of it is not the one that was frozen.
        GateClosed: UNDECODABLE, one of the models cannot decode what the other can; EXAM_AWAITED.
        StaleAttempt: a newer attempt judges the same contender.
    """
    chosen = _newest(exams, policy=project.config.gate)
    level = round(newest_level(project.config.gate, opened or [context.now]), vd.DIGITS)
    policy_id = vd.policy_id(project.config.gate, project.config.labels.classes, former=context.former)
    # The lease comes first: else an attempt that looks before an earlier one records would use the exam twice.
    fence = context.database.acquire(f"judge/{project.name}/{contender.version}", context.attempt, now=context.now)
    known = context.verdicts.find_same_question(
        project.name,
        contender_version=contender.version,
        champion_version=champion.version if champion is not None else None,
        exam_ids=[ref.exam_id for ref in chosen],
        policy_id=policy_id,
    )
    if known is not None:
        logger.info("verdict %s stands: %s", known.ref.verdict_id[:12], known.ref.answer)
        return known.ref
    if awaited is not None:
        raise GateClosed(awaited, code=EXAM_AWAITED)
    scored = _score(chosen, contender, champion, project=project, context=context)
    for _ in range(MAX_DECISIONS):
        use = context.verdicts.count_uses(project.name, chosen[0].exam_id) + 1
        question = _question(project, scored, exam_use=use, level=level, alarm=alarm)
        record = _publish(project, scored, question, policy_id=policy_id, context=context, fence=fence)
        if record is not None:
            return record.ref
    raise LostRace(f"exam {chosen[0].epoch} must be free for one verdict at a time (got {MAX_DECISIONS} others).")


def _newest(exams: Sequence[ExamRef], *, policy: Gate) -> list[ExamRef]:
    if not exams:
        raise InputError(
            "exams must hold at least one frozen exam (got none). Label exam items (Label Studio project "
            "`<name> exam`) until gate.exam.min_items are decided.",
            code="EXAM_MISSING",
        )
    return window(exams, items=policy.exam.window_items)


def _score(
    refs: Sequence[ExamRef],
    contender: ModelRef,
    champion: ModelRef | None,
    *,
    project: LoadedProject,
    context: GateContext,
) -> _Scored:
    policy, store, load = project.config.gate, context.store, context.load
    frozen = [scoring.read_exam(store, ref) for ref in refs]
    models = {"contender": scoring.load_model(contender, role="contender", load=load)}
    if champion is not None:
        models["champion"] = scoring.load_model(champion, role="champion", load=load)
    used = names_used(context.former, frozen, models.get("champion"))
    frozen, removed = exams_of_now(frozen, context.former)
    if champion is not None:
        models["champion"] = model_of_now(models["champion"], context.former)
    judged = [_answer(exam, models, project=project, context=context) for exam in frozen]
    exams = tuple(exam for exam, _, _ in judged)
    numbers = scoring.group_numbers(exams, [context.find_groups(ref) for ref in refs])
    answers = tuple(
        dataclasses.replace(exam, groups=groups) for (_, exam, _), groups in zip(judged, numbers, strict=True)
    )
    left_out = (*removed, *(item for _, _, items in judged for item in items))
    payloads = scoring.read_checked(exams[0].items[: scoring.NUM_TIMED], read=context.read)
    measured = scoring.measure_latency(
        models, payloads, is_enough=lambda timed: _within_limits(policy, timed["contender"]), timer=context.timer
    )
    parties = {
        role: vd.party(
            ref,
            classes=models[role].classes,
            size_bytes=scoring.model_size_bytes(store, ref),
            runtime=models[role].runtime,
        )
        for role, ref in (("contender", contender), ("champion", champion))
        if ref is not None
    }
    return _Scored(
        exams=exams,
        answers=answers,
        contender=parties["contender"],
        champion=parties.get("champion"),
        measured=measured,
        leaks=_leaks_of(contender, refs, find_leaks=context.find_leaks, left_out=left_out),
        champion_leaks=_leaks_of(champion, refs, find_leaks=context.find_leaks, left_out=left_out),
        left_out=left_out,
        labels=context.find_labels(refs),
        former=used,
    )


def _within_limits(policy: Gate, timed: Measured) -> bool:
    limits = policy.limits
    pairs = ((timed.latency_p50_ms, limits.latency_p50_ms), (timed.latency_p99_ms, limits.latency_p99_ms))
    return all(limit is None or measured <= limit for measured, limit in pairs)


def _leaks_of(
    ref: ModelRef | None, refs: Sequence[ExamRef], *, find_leaks: FindLeaks, left_out: Sequence[LeftOut]
) -> tuple[Leak, ...]:
    if ref is None:
        return ()
    ignored = {item.item_id for item in left_out}
    return tuple(leak for leak in find_leaks(ref.snapshot_id, refs) if leak.item_id not in ignored)


def _answer(
    exam: Exam, models: Mapping[str, ScoringModel], *, project: LoadedProject, context: GateContext
) -> tuple[Exam, ExamAnswers, list[LeftOut]]:
    """Return the exam without what is left out of it, every model's answers on the rest, and what is left out."""
    slices, deny = project.config.gate.slices, project.config.deny_list
    exam, left_out = without_retired(exam, context.retired)
    answered = scoring.answer_items(exam.items, read=context.read, models=list(models.values()))
    answered = dataclasses.replace(answered, problems=deny.clean_texts(answered.problems))
    kept = [row for row in range(len(exam.items)) if row not in answered.problems]
    left_out += undecodable(exam, answered, roles=list(models))
    exam = dataclasses.replace(exam, items=tuple(exam.items[row] for row in kept))
    by_key = any(chosen.by == "key_pattern" for chosen in slices)
    item_ids = [item.item_id for item in exam.items]
    keys = {item.item_id: item.key for item in context.find_items(item_ids)} if by_key else {}
    kept_answers = {role: answer_nc[kept] for role, answer_nc in zip(models, answered.answers, strict=True)}
    answers = ExamAnswers(
        exam_id=exam.ref.exam_id,
        epoch=exam.ref.epoch,
        item_ids=tuple(item.item_id for item in exam.items),
        labels=tuple(item.label for item in exam.items),
        contender_nc=kept_answers["contender"],
        champion_nc=kept_answers.get("champion"),
        slices=deny.clean_texts(values_of(exam.items, slices, keys=keys)),
    )
    return exam, answers, left_out


def _question(
    project: LoadedProject, scored: _Scored, *, exam_use: int, level: float, alarm: str | None
) -> vd.VerdictInputs:
    return vd.VerdictInputs(
        project=project.name,
        policy=vd.spelled_out(project.config.gate),
        project_classes=tuple(project.config.labels.classes),
        contender=scored.contender,
        champion=scored.champion,
        exams=tuple(vd.exam_name(exam) for exam in scored.exams),
        exam_use=exam_use,
        leaks=scored.leaks,
        champion_leaks=scored.champion_leaks,
        left_out=scored.left_out,
        epoch_level=level,
        labels=scored.labels,
        alarm=alarm,
        former=scored.former,
    )


def _publish(
    project: LoadedProject,
    scored: _Scored,
    question: vd.VerdictInputs,
    *,
    policy_id: str,
    context: GateContext,
    fence: Fence,
) -> VerdictRecord | None:
    """Write evidence, document, report, then the catalog's row; None when the exam was used by another meanwhile."""
    store, verdicts = context.store, context.verdicts
    evidence = vd.evidence_table(scored.exams, scored.answers, question=question)
    document = vd.build_document(
        question, scored.answers, measured=scored.measured, evidence_digest=sha256_hex(evidence)
    )
    prefix = f"verdicts/{project.name}/{vd.verdict_id_of(document)}"
    context.database.check(fence)
    crash_point("judge.put.before")
    store.put(f"{prefix}/evidence.parquet", evidence, content_type="application/vnd.apache.parquet")
    crash_point("judge.evidence.after")
    document = _adopt(store, f"{prefix}/verdict.json", document)
    crash_point("judge.document.after")
    page = report.render(
        document,
        evidence,
        counts=_counts(project.name, scored, context),
        read=_as_shown(context.read, project),
        find_items=context.find_items,
    )
    store.put(f"{prefix}/{approval.REPORT_NAME}", page.encode(), content_type="text/html; charset=utf-8")
    crash_point("judge.put.after")
    record = _record(document, prefix=prefix, policy_id=policy_id, report=page.encode(), context=context)
    try:
        kept = verdicts.record(record, exam_use=question.exam_use, fence=fence)
    except LostRace as error:
        logger.info("deciding again: %s", error)
        return None
    crash_point("judge.put.recorded")
    logger.info("verdict %s: %s", kept.ref.verdict_id[:12], kept.ref.answer)
    return kept


def _adopt(store: ObjectStore, key: str, document: dict[str, Any]) -> dict[str, Any]:
    """Write verdict.json unless an earlier attempt did: its measured times are then the ones that count."""
    if store.create(key, vd.document_bytes(document), content_type="application/json"):
        return document
    stored: dict[str, Any] = json.loads(store.get(key))
    if vd.verdict_id_of(stored) != vd.verdict_id_of(document):
        raise DataCorrupt(f"{key} must be the verdict of its name (got another). Remove it and judge again.")
    return stored


def _counts(project: str, scored: _Scored, context: GateContext) -> dict[str, Mapping[str, int]]:
    """Return the rows per class that each model was trained on, under the class names of now."""
    parties = {"contender": scored.contender, "champion": scored.champion}
    by_role = {
        role: context.verdicts.class_counts(project, party.snapshot_id)
        for role, party in parties.items()
        if party is not None
    }
    return {role: counts_now(counts, context.former) for role, counts in by_role.items() if counts is not None}


def _record(
    document: Mapping[str, Any], *, prefix: str, policy_id: str, report: bytes, context: GateContext
) -> VerdictRecord:
    question, decision = document["question"], document["decision"]
    champion = question["champion"]
    ref = VerdictRef(
        project=question["project"],
        verdict_id=vd.verdict_id_of(document),
        answer=decision["answer"],
        champion_version=champion["version"] if champion is not None else None,
        contender_version=question["contender"]["version"],
        reasons=tuple(reason["text"] for reason in decision["reasons"]),
        object_key=prefix,
        code=decision["code"],
    )
    return VerdictRecord(
        ref=ref,
        exam_ids=tuple(exam["exam_id"] for exam in question["exams"]),
        policy_id=policy_id,
        digest=sha256_hex(vd.document_bytes(document)),
        run_id=context.attempt.run_id,
        created_at=context.now,
        report_digest=sha256_hex(report),
    )


def _as_shown(read: ReadItems, project: LoadedProject) -> ReadItems:
    """Return a reader of items as a page may show them."""
    return lambda places: [project.config.as_shown(data) for data in read(places)]
