"""The labelers' part of the labels check: who is shown to be worse than the others, and whose items are left out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_checks.result import RuleResult
from data_checks.rules import Policy
from pipeline_tasks.catalog.datasets import Columns
from pipeline_tasks.catalog.newest_annotations import answers_of, num_labelers
from pipeline_tasks.catalog.set_aside import BadRow
from pipeline_tasks.contracts import content_id
from pipeline_tasks.errors import printable
from pipeline_tasks.project.schema import LoadedProject, Project
from pipeline_tasks.validation.check_reports import CheckContext
from pipeline_tasks.validation.item_features import item_features, item_numbers
from pipeline_tasks.validation.labelers import MIN_ANSWERS, Answer, Findings, Known, disagreeing
from pipeline_tasks.validation.leakage import looked_at, places_of

_log = logging.getLogger(__name__)
LABELER_DISAGREES, LABELER_EXCLUDED, LABELERS_DIVIDED = "LABELER_DISAGREES", "LABELER_EXCLUDED", "LABELERS_DIVIDED"
HELD_CODES = (LABELER_DISAGREES, LABELER_EXCLUDED)
MAX_ITEMS = 10_000  # that are looked at; of each labeler the same number at most
NUM_PERIODS = 8
WHERE = "docs/labeling.md, section People who are wrong"


@dataclasses.dataclass(frozen=True, slots=True)
class HeldLabelers:
    """Labelers whose answers are left out, with the code and the reason; and what the check says of all."""

    reasons: Mapping[str, tuple[str, str]]
    rules: tuple[RuleResult, ...] = ()
    statistics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def context(self) -> dict[str, str]:
        """The inputs of the check besides the labels."""
        return {"labelers": content_id(dict(sorted(self.reasons.items())))} if self.reasons or self.rules else {}

    def rows(self, columns: Columns) -> list[BadRow]:
        """Return the items that one of the held labelers had a part in, each with the reason."""
        rows = []
        for row, names in enumerate(columns["annotators"]):
            for name in [reason_name for reason_name in names or () if reason_name in self.reasons][:1]:
                code, reason = self.reasons[name]
                where = {key: columns[key][row] for key in ("source", "key", "item_id", "object_key")}
                rows.append(BadRow(code=code, reason=f"answered by {printable(name)}, {reason}", **where))
        return rows

    def mask(self, decided: pa.Table) -> pa.Array:
        """Return which rows one of the held labelers had a part in."""
        flat, parents = pc.list_flatten(decided["annotators"]), pc.list_parent_indices(decided["annotators"])
        rows = parents.filter(pc.is_in(flat, pa.array(list(self.reasons), pa.string()))).to_numpy()
        is_held_n = np.zeros(decided.num_rows, dtype=bool)
        is_held_n[rows] = True
        return pa.array(is_held_n)


def held_labelers(project: LoadedProject, *, context: CheckContext) -> HeldLabelers:
    """Compare the labelers and return whose answers are left out, by the project's settings."""
    labels, policy = project.config.labels, project.config.checks.labelers
    why = "whom labels.excluded of project.yaml names"
    reasons = dict.fromkeys(labels.excluded, (LABELER_EXCLUDED, why))
    if num_labelers(context.datasets.database, project.name) == 0:
        return HeldLabelers(reasons)
    answers = answers_of(context.datasets.database, project.name)
    _say_unknown(project, {labeler for _, labeler, _ in answers})
    if policy == "off":
        return HeldLabelers(reasons)
    left = [answer for answer in answers if answer[1] not in reasons]
    findings = compared(project, left, context=context)
    for name, comparison in findings.shown.items() if policy == "hold" else ():
        todo = f"Left out until labels.trusted or labels.excluded of project.yaml names them ({WHERE})."
        reasons[name] = (LABELER_DISAGREES, f"who {comparison}. {todo}")
    return HeldLabelers(reasons, _rules(findings, policy=policy), _statistics(findings))


def compared(project: LoadedProject, answers: Sequence[Answer], *, context: CheckContext) -> Findings:
    """Return who is shown to be worse than the others; nobody where fewer than two people answered enough."""
    by_labeler: dict[str, int] = {}
    for _, labeler, _ in answers:
        by_labeler[labeler] = by_labeler.get(labeler, 0) + 1
    if sum(count >= MIN_ANSWERS for count in by_labeler.values()) < 2:
        return Findings(num_answers=by_labeler)
    config = project.config
    tables = [context.datasets.decided(project.name, split) for split in ("train", "exam")]
    wanted = pa.array(
        sorted(chosen_items(answers, [item_id for table in tables for item_id in table["item_id"].to_pylist()]))
    )
    columns = pa.concat_tables([table.filter(pc.is_in(table["item_id"], wanted)) for table in tables]).to_pydict()
    del tables
    known = _known(columns, project=config, context=context)
    findings = disagreeing(answers, known, classes=config.labels.classes, trusted=config.labels.trusted)
    for name, comparison in findings.shown.items():
        _log.warning("labels of %s: %s %s (%s)", project.name, printable(name), comparison, LABELER_DISAGREES)
    return findings


def chosen_items(answers: Iterable[Answer], labeled: Sequence[str]) -> set[str]:
    """Return which labeled items are looked at: of each labeler as many, then others; ids are hashes, so by chance."""
    known = set(labeled)
    by_labeler: dict[str, list[str]] = {}
    for item_id, labeler, _ in sorted(answers):
        if item_id in known:
            by_labeler.setdefault(labeler, []).append(item_id)
    limit = max(MIN_ANSWERS, MAX_ITEMS // max(1, len(by_labeler)))
    chosen = {item_id for ids in by_labeler.values() for item_id in ids[:limit]}
    return chosen | set(sorted(known - chosen)[: max(0, MAX_ITEMS - len(chosen))])


def _known(columns: Columns, *, project: Project, context: CheckContext) -> dict[str, Known]:
    limit = project.checks.max_pixels

    def look(item_id: str, data: bytes) -> tuple[str, Any]:
        return item_id, item_numbers(data, modality=project.modality, max_pixels=limit)

    looked = looked_at(context.store, places_of(columns), look)
    numbers = {item_id: features for item_id, features in looked if features is not None}
    if not numbers:
        return {}
    ids = sorted(numbers)
    features_nd = item_features([numbers[item_id] for item_id in ids], modality=project.modality)
    strata = dict(zip(columns["item_id"], _strata(columns), strict=True))
    labels = dict(zip(columns["item_id"], columns["label"], strict=True))
    return {
        item_id: Known(features_d, labels[item_id], strata[item_id])
        for item_id, features_d in zip(ids, features_nd, strict=True)
    }


def _strata(columns: Columns) -> list[str]:
    """Return what an item came in with: its source, its origin, and one of a few periods.

    People are compared on items of one kind: what came later may be harder, and other people may have answered it.
    """
    times = sorted(columns["arrived_at"])
    first = {time: place for place, time in reversed(list(enumerate(times)))}
    periods = [NUM_PERIODS * first[time] // len(times) for time in columns["arrived_at"]]
    names = zip(columns["source"], columns["origin"], periods, strict=True)
    return ["/".join(map(str, some)) for some in names]


def _rules(findings: Findings, *, policy: Literal["hold", "warn", "stop"]) -> tuple[RuleResult, ...]:
    todo = f"compared are {len(findings.compared)} labelers; what to do: {WHERE}"
    said = "; ".join(f"{printable(name)} {comparison}" for name, comparison in findings.shown.items())
    expected = f"no labeler may be shown to be worse than the others (checks.labelers, {todo})"
    num = len(findings.shown)
    does: Policy = "stop" if policy == "stop" else "warn"
    rules = [RuleResult(LABELER_DISAGREES, does, success=not num, expected=expected, observed=said, num_failed=num)]
    if findings.is_divided and policy == "hold":
        expected = f"labelers who disagree with the others must have given less than half of the answers ({WHERE})"
        rules.append(RuleResult(LABELERS_DIVIDED, "stop", success=False, expected=expected, observed=said))
    return tuple(rules)


def _statistics(findings: Findings) -> dict[str, Any]:
    listed = sorted(findings.num_answers.items(), key=lambda pair: (-pair[1], pair[0]))[:50]
    return {
        "labelers": {printable(name): count for name, count in listed},
        "labelers_compared": [printable(name) for name in findings.compared],
        "labelers_disagreeing": [printable(name) for name in findings.shown],
    }


def _say_unknown(project: LoadedProject, labelers: set[str]) -> None:
    for key in ("trusted", "excluded"):
        unknown = sorted(set(getattr(project.config.labels, key)) - labelers)
        if unknown:
            names = ", ".join(map(printable, unknown[:10]))
            _log.warning("labels.%s of %s names nobody who has answered: %s", key, project.name, names)
