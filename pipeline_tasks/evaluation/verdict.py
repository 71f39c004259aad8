"""The verdict as a document: built from the question and the stored answers, hashed, replayed. Pure.

`verdict.json` has four parts: `question` (who, on which exams, by which rule), `measured` (latencies, which no replay
can repeat), `evidence` (every figure) and `decision`. The id is the hash of all but `measured`, so the same comparison
has the same id in every attempt; the catalog keeps the hash of the whole file.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_tasks.catalog.exam_window import ExamLabels
from pipeline_tasks.contracts import Leak, ModelRef, canonical_json, content_id, sha256_hex
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation import evidence as ev
from pipeline_tasks.evaluation import gate_rule, gate_rule_4
from pipeline_tasks.evaluation.metrics import Array
from pipeline_tasks.evaluation.open_items import label_evidence
from pipeline_tasks.evaluation.scoring import Exam, Measured
from pipeline_tasks.project.gate_schema import LEAVE_OUT, Gate

RULE_VERSION = 6
REPLAYED = (3, 4, 5, 6)  # the rules of verdicts that this release computes
CONSTANT_SINCE = 4  # from this rule on a verdict has the constant answer's figures
LOSS_SINCE = 6  # from this rule on a loss on one epoch is shown at 5 % or less, whatever gate.confidence is
WINDOW_SINCE = 5  # from this rule on the newest epochs are judged together, groups count, and the budget is yearly
# Figures that came with a later rule: they are not in an older verdict, and must not appear in its replay.
LATER_FIGURES = frozenset(
    {"num_groups", "design_effect", "largest_group", "calibration_expected", "shrunk", "share_low", "share_high"}
    | {"shrunk_gain", "load", "repeats", "gain_at_most"}
)
EAGER = "eager"
DIGITS = 9
SLICE_COLUMN = "slice:"
GROUP_COLUMN = "group"


@dataclasses.dataclass(frozen=True, slots=True)
class Party:
    """A model version as the question names it."""

    version: str
    digest: str
    snapshot_id: str
    classes: tuple[str, ...]
    size_bytes: int
    runtime: str = EAGER

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; without the runtime where it is torch, as in verdicts from before there was another."""
        plain = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {name: value for name, value in plain.items() if (name, value) != ("runtime", EAGER)}


@dataclasses.dataclass(frozen=True, slots=True)
class ExamName:
    """A frozen exam as the question names it; `object_digest` is the SHA-256 of its file."""

    exam_id: str
    epoch: int
    num_items: int
    object_key: str
    object_digest: str


@dataclasses.dataclass(frozen=True, slots=True)
class VerdictInputs:
    """The inputs of a verdict; current exam first. `exam_use` counts comparisons on it, this one included.

    `leaks` are the exam items that the contender's training snapshot holds, `champion_leaks` those in the champion's;
    `left_out` are the items of the exams that neither model is judged on. `epoch_level` is the error that all
    comparisons on the current exam's epoch may spend; None in verdicts of rules that had no yearly budget. `labels`
    are facts of the exam's labels, `alarm` is the one that stood and how far the exam was after it, in words: both are
    told and decide nothing; None in verdicts from before they were told. `former` are the class names from before a
    migration that the exams or the champion have, with what they stand for now (None: removed): the labels and answers
    of the evidence are under the names of now.
    """

    project: str
    policy: Gate
    project_classes: tuple[str, ...]
    contender: Party
    champion: Party | None
    exams: tuple[ExamName, ...]
    exam_use: int
    leaks: tuple[Leak, ...]
    champion_leaks: tuple[Leak, ...]
    left_out: tuple[ev.LeftOut, ...] = ()
    rule_version: int = RULE_VERSION
    epoch_level: float | None = None
    labels: ExamLabels | None = None
    alarm: str | None = None
    former: Mapping[str, str | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the question as JSON values; without `left_out` where nothing is, as before there was such a thing."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "policy"}
        plain = {name: value.as_json() if isinstance(value, Party) else _plain(value) for name, value in fields.items()}
        if not self.left_out:
            del plain["left_out"]
        for name in ("epoch_level", "labels", "alarm", "former"):
            if plain[name] is None:
                del plain[name]
        # A setting that came with a later release is not in an older verdict, and must not appear in its replay.
        return {**plain, "policy": self.policy.model_dump(mode="json", exclude_unset=True)}


def party(ref: ModelRef, *, classes: Sequence[str], size_bytes: int, runtime: str = EAGER) -> Party:
    """Return a model version as the question names it; `runtime` is what computed its answers here, and serves."""
    return Party(ref.version, ref.digest, ref.snapshot_id, tuple(classes), size_bytes, runtime)


def exam_name(exam: Exam) -> ExamName:
    """Return an exam as the question names it."""
    ref = exam.ref
    return ExamName(ref.exam_id, ref.epoch, ref.num_items, ref.object_key, exam.digest)


def spelled_out(policy: Gate) -> Gate:
    """Return the same policy with every setting given, defaults too: as a question names it."""
    return Gate.model_validate(policy.model_dump(mode="json"))


def policy_id(policy: Gate, classes: Sequence[str], *, former: Mapping[str, str | None] = MappingProxyType({})) -> str:
    """Return the hash of everything that rules a comparison: the gate's settings, the classes, the rule's version.

    And what former class names stand for, where there are any.

    Settings at their defaults are left out: a release that brings a new one asks no question anew. So are those that
    change no answer: what is told, and when it is judged.
    """
    unasked: Any = {"after_alarm": True, "exam": {"tell": True}}
    gate = policy.model_dump(mode="json", exclude_defaults=True, exclude=unasked)
    if gate.get("exam") == {}:
        del gate["exam"]
    names = {"former": dict(former)} if former else {}
    return content_id({"gate": gate, "classes": list(classes), "rule": RULE_VERSION, **names})


def build_document(
    question: VerdictInputs,
    answers: Sequence[ev.ExamAnswers],
    *,
    measured: Mapping[str, Measured],
    evidence_digest: str,
) -> dict[str, Any]:
    """Compute every figure and the answer; `measured` has `contender` and, if there is one, `champion`."""
    evidence = build_evidence(question, answers, measured=measured)
    decision = (gate_rule if question.rule_version >= WINDOW_SINCE else gate_rule_4).decide(question.policy, evidence)
    exams: dict[str, Any] = {"current": _exam_json(evidence.current)}
    if question.rule_version >= WINDOW_SINCE:
        exams["epochs"] = [_without_later(_plain(epoch)) for epoch in evidence.epochs]
    else:
        exams["previous"] = _exam_json(evidence.previous) if evidence.previous is not None else None
    if evidence.labels is not None:
        exams["labels"] = _plain(label_evidence(evidence.labels, evidence.current))
    return {
        "question": question.as_json(),
        "measured": {role: _without_later(_plain(value)) for role, value in measured.items()},
        "evidence": {"digest": evidence_digest, **exams},
        "decision": _plain(decision),
    }


def _exam_json(exam: ev.ExamEvidence) -> dict[str, Any]:
    plain: dict[str, Any] = _without_later(_plain(exam))
    return {name: value for name, value in plain.items() if (name, value) not in (("constant", None), ("recalls", []))}


def _without_later(plain: Any) -> Any:
    if isinstance(plain, dict):
        kept = {name: value for name, value in plain.items() if value is not None or name not in LATER_FIGURES}
        return {name: _without_later(value) for name, value in kept.items()}
    return [_without_later(value) for value in plain] if isinstance(plain, list) else plain


def build_evidence(
    question: VerdictInputs, answers: Sequence[ev.ExamAnswers], *, measured: Mapping[str, Measured]
) -> ev.Evidence:
    """Turn raw answers into what the rule looks at; the exam's level follows from its use."""
    policy, with_window = question.policy, question.rule_version >= WINDOW_SINCE
    champion_classes = question.champion.classes if question.champion is not None else None
    learned = ev.ClassLists(question.project_classes, question.contender.classes, champion_classes)
    exams = []
    for place, exam in enumerate([ev.pool(answers)] if with_window else answers):
        level = 1 - policy.confidence
        if place == 0:
            level = ev.alpha_for_use(policy, question.exam_use, epoch_level=question.epoch_level)
        with_constant = question.rule_version >= CONSTANT_SINCE
        exams.append(ev.build_exam_evidence(exam, learned, policy=policy, alpha=level, with_constant=with_constant))
    with_loss = question.rule_version >= LOSS_SINCE
    judged = answers if with_window else ()
    epochs = [ev.build_epoch_evidence(exam, learned, policy=policy, with_loss=with_loss) for exam in judged]
    if policy.new_classes == LEAVE_OUT and question.champion is not None:  # an epoch of new classes alone says nothing
        epochs = [epoch for epoch in epochs if epoch.gain is not None]
    return ev.Evidence(
        project_classes=question.project_classes,
        contender=_facts(question.contender, measured["contender"]),
        champion=_facts(question.champion, measured["champion"]) if question.champion is not None else None,
        current=exams[0],
        previous=exams[1] if len(exams) > 1 else None,
        exam_use=question.exam_use,
        leaks=question.leaks,
        champion_leaks=question.champion_leaks,
        left_out=question.left_out,
        epochs=tuple(epochs),
        epoch_level=question.epoch_level,
        labels=question.labels,
        alarm=question.alarm,
        former=question.former,
    )


def _facts(judged: Party, measured: Measured) -> ev.ModelFacts:
    return ev.ModelFacts(
        classes=judged.classes,
        size_bytes=judged.size_bytes,
        latency_p50_ms=measured.latency_p50_ms,
        latency_p99_ms=measured.latency_p99_ms,
        repeats=measured.repeats,
        load=measured.load,
    )


def verdict_id_of(document: Mapping[str, Any]) -> str:
    """Return the hash of a verdict without its measured times: the same in every attempt at the same comparison."""
    return content_id({key: value for key, value in document.items() if key != "measured"})


def evidence_table(exams: Sequence[Exam], answers: Sequence[ev.ExamAnswers], *, question: VerdictInputs) -> bytes:
    """Return both models' answers to every item as Parquet, one row per exam and item."""
    tables = []
    for exam, answered in zip(exams, answers, strict=True):
        columns: dict[str, Any] = {
            "exam_id": [answered.exam_id] * len(exam.items),
            "item_id": list(answered.item_ids),
            "label": list(answered.labels),
            "media_type": [item.media_type for item in exam.items],
            "object_key": [item.location.object_key for item in exam.items],
            "offset": [item.location.offset for item in exam.items],
            "size_bytes": [item.location.size_bytes for item in exam.items],
        }
        if answered.groups is not None:
            columns[GROUP_COLUMN] = pa.array(answered.groups, pa.int32())
        columns |= {f"{SLICE_COLUMN}{name}": pa.array(values, pa.string()) for name, values in answered.slices.items()}
        columns |= _answer_columns("contender", answered.contender_nc, classes=question.contender.classes)
        if answered.champion_nc is not None and question.champion is not None:
            columns |= _answer_columns("champion", answered.champion_nc, classes=question.champion.classes)
        tables.append(pa.table(columns))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
    return buffer.getvalue()


def _answer_columns(role: str, probabilities_nc: Array, *, classes: Sequence[str]) -> dict[str, Any]:
    position = {label: index for index, label in enumerate(classes)}
    answers = ev.answered_classes(probabilities_nc, classes=classes, position=position)
    flat = pa.array(probabilities_nc.reshape(-1))
    return {
        f"{role}_answer": [classes[index] if index != ev.NO_ANSWER else None for index in answers],
        f"{role}_probabilities": pa.FixedSizeListArray.from_arrays(flat, len(classes)),
    }


def read_answers(data: bytes, *, exams: Sequence[Mapping[str, Any]]) -> list[ev.ExamAnswers]:
    """Read the answers of each exam of a question back from evidence.parquet."""
    table = pq.read_table(io.BytesIO(data))
    answers = []
    for exam in exams:
        rows = table.filter(pc.equal(table["exam_id"], exam["exam_id"]))
        has_champion = "champion_probabilities" in rows.column_names
        answers.append(
            ev.ExamAnswers(
                exam_id=exam["exam_id"],
                epoch=exam["epoch"],
                item_ids=tuple(rows["item_id"].to_pylist()),
                labels=tuple(rows["label"].to_pylist()),
                contender_nc=probability_matrix(rows, "contender_probabilities"),
                champion_nc=probability_matrix(rows, "champion_probabilities") if has_champion else None,
                slices=_slice_values(rows),
                groups=tuple(rows[GROUP_COLUMN].to_pylist()) if GROUP_COLUMN in rows.column_names else None,
            )
        )
    return answers


def _slice_values(rows: pa.Table) -> dict[str, tuple[str | None, ...]]:
    chosen = [name for name in rows.column_names if name.startswith(SLICE_COLUMN)]
    return {name.removeprefix(SLICE_COLUMN): tuple(rows[name].to_pylist()) for name in chosen}


def probability_matrix(rows: pa.Table, name: str) -> Array:
    """Return a column of probabilities as (n, c)."""
    column = rows[name].combine_chunks()
    width = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, width)


def question_from(document: Mapping[str, Any]) -> VerdictInputs:
    """Read the question back from a verdict's document."""
    fields = dict(document["question"])
    if fields["rule_version"] not in REPLAYED:
        raise DataCorrupt(
            f"rule_version must be one of {', '.join(map(str, REPLAYED))} to be replayed by this release "
            f"(got {fields['rule_version']}). Replay it with the release that gave it."
        )
    champion = fields.pop("champion")
    return VerdictInputs(
        policy=Gate.model_validate(fields.pop("policy")),
        contender=_party_from(fields.pop("contender")),
        champion=_party_from(champion) if champion is not None else None,
        exams=tuple(ExamName(**exam) for exam in fields.pop("exams")),
        project_classes=tuple(fields.pop("project_classes")),
        leaks=tuple(Leak(**leak) for leak in fields.pop("leaks")),
        champion_leaks=tuple(Leak(**leak) for leak in fields.pop("champion_leaks")),
        left_out=tuple(ev.LeftOut(**item) for item in fields.pop("left_out", ())),
        labels=ExamLabels(**fields.pop("labels")) if "labels" in fields else None,
        **fields,
    )


def _party_from(fields: Mapping[str, Any]) -> Party:
    return Party(**{**fields, "classes": tuple(fields["classes"])})


def replay(document: Mapping[str, Any], evidence: bytes) -> dict[str, Any]:
    """Compute a verdict again from its stored answers; equal to the stored document, or somebody changed something.

    Raises:
        DataCorrupt: the answers are not the ones that the verdict names, or another rule gave it.
    """
    if sha256_hex(evidence) != document["evidence"]["digest"]:
        raise DataCorrupt(
            f"evidence.parquet must hash to {document['evidence']['digest']} (got {sha256_hex(evidence)}). "
            "It was changed after the verdict was given."
        )
    question = question_from(document)
    answers = read_answers(evidence, exams=document["question"]["exams"])
    measured = {role: Measured(**_numbers(values)) for role, values in document["measured"].items()}
    return build_document(question, answers, measured=measured, evidence_digest=document["evidence"]["digest"])


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return JSON values: dataclasses as objects, floats to nine digits, NaN and infinity as null.

    What `figures` holds by name stands among the other fields.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {**plain.pop("figures", {}), **plain}
    if isinstance(value, Mapping):
        return {name: _plain(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(element) for element in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of verdict.json."""
    return canonical_json(document)
