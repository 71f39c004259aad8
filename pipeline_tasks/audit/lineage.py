"""`dethrone lineage` and `dethrone blast-radius`: find what an id names, follow it both ways. Only reads.

Costs one pass over each snapshot's manifest where an item or a person is asked for (1,000,000 rows: 0.5 s and the
download), one over the parts of the prediction log that the monitor has not counted yet, and, only where a prediction
is looked for, one over the whole log from its newest day back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast, get_args

from pipeline_tasks.audit import lineage_impact as impacts
from pipeline_tasks.audit.lineage_origins import Origins, annotation_node, manifest_bytes
from pipeline_tasks.audit.lineage_tree import IDS_CAP, LineageNode, count, counted, node, plain, short, when
from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.lineage import Kind, LineageRepository, Row, Subject
from pipeline_tasks.catalog.monitoring import MonitoringRepository
from pipeline_tasks.contracts import GRAPH_VERSION
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.monitoring.log_scan import LoggedPrediction, count_predictions, find_predictions
from pipeline_tasks.validation.manifest_query import TouchedRows, rows_of_annotator, rows_of_item

KINDS: tuple[str, ...] = get_args(Kind)
MIN_CHARACTERS = 4
CANDIDATES = 10
Select = Callable[[bytes, str], TouchedRows]


@dataclasses.dataclass(frozen=True, slots=True)
class LineageMatch:
    """The subject of an id; of a prediction also its line in the log, if it was looked up there."""

    subject: Subject
    logged: LoggedPrediction | None = None


def lineage(database: Database, store: ObjectStore, text: str, *, project: str | None = None) -> LineageNode:
    """Return where something came from and what it touched, as a tree with these two branches.

    Raises:
        ConfigError: the id names nothing, or several things.
        DataCorrupt: a manifest or a part of the log is gone or damaged.
    """
    match = find(LineageRepository(database), store, text, project=project)
    return _Tracer(database, store, match.subject.project).trace(match)


def find(
    repository: LineageRepository, store: ObjectStore, text: str, *, project: str | None, kind: Kind | None = None
) -> LineageMatch:
    """Return the one thing whose id is, or begins with, the text; `item:<id>` names the kind too.

    The catalog is asked first. The log is read for predictions, and for what the catalog does not know.

    Raises:
        ConfigError: the id names nothing, or several things.
    """
    prefix, colon, rest = text.strip().partition(":")
    if colon and prefix in KINDS:
        kind, beginning = cast("Kind", prefix), rest
    else:
        beginning = text.strip()
    if len(beginning) < MIN_CHARACTERS:
        raise ConfigError(f"id must have {MIN_CHARACTERS} characters or more (got {beginning!r}). Give more of it.")
    _require_project(repository, project)
    known = repository.find(beginning, kind=kind, project=project, limit=CANDIDATES + 1)
    matches = {candidate: LineageMatch(candidate) for candidate in known}
    exact = any(candidate.id == beginning for candidate in known)
    if not exact and all(candidate.kind == "prediction" for candidate in known) and kind in (None, "prediction"):
        for name in [project] if project else repository.projects():
            for prediction in find_predictions(store, name, beginning, limit=CANDIDATES + 1):
                subject = Subject("prediction", name, prediction.prediction_id)
                matches[subject] = LineageMatch(subject, prediction)
    return _only(matches, beginning, kind=kind)


def _require_project(repository: LineageRepository, project: str | None) -> None:
    if project is not None and project not in repository.projects():
        known = ", ".join(repository.projects()) or "none"
        raise ConfigError(f"project must be one that the catalog knows (got {project}). Known: {known}.")


def _only(matches: dict[Subject, LineageMatch], beginning: str, *, kind: Kind | None) -> LineageMatch:
    if not matches:
        what = kind or ", ".join(KINDS)
        raise ConfigError(
            f"id must be (the beginning of) a known {what} (got {beginning}). `dethrone history` shows verdicts and "
            "model versions; a prediction is known when the gateway has shipped its log, within seconds."
        )
    composed = [
        match for match in matches.values() if match.logged and match.logged.model_version.startswith(GRAPH_VERSION)
    ]
    if len(composed) == 1 and len({(subject.kind, subject.id) for subject in matches}) == 1:
        return composed[0]  # one request, told by the project that was asked and by those of its nodes
    if len(matches) > 1:
        shown = ", ".join(
            f"{subject.kind}:{subject.id} ({subject.project})" for subject in sorted(matches)[:CANDIDATES]
        )
        more = " and more" if len(matches) > CANDIDATES else ""
        raise ConfigError(
            f"id must name one thing (got {beginning}, which begins {shown}{more}). "
            "Give more of it, its kind (item:<id>), or --project."
        )
    return next(iter(matches.values()))


class _Tracer:
    """Follows one project's references in both directions."""

    def __init__(self, database: Database, store: ObjectStore, project: str) -> None:
        self._lineage = LineageRepository(database)
        self._monitoring = MonitoringRepository(database)
        self._store = store
        self._project = project
        self._origins = Origins(self._lineage, store, project)

    def trace(self, match: LineageMatch) -> LineageNode:
        subject = match.subject
        title, facts, origin, touched = {
            "model": self._model,
            "snapshot": self._snapshot,
            "verdict": self._verdict,
            "item": self._item,
            "label": self._label,
            "prediction": self._prediction,
        }[subject.kind](match)
        branches = [
            node("came_from", "came from", children=origin or [node("nothing", "nothing that is known")]),
            node("touched", "touched", children=touched or [node("nothing", "nothing yet")]),
        ]
        facts = {"id": subject.id, "project": subject.project, **facts}
        return node(subject.kind, title, children=branches, **facts)

    def _model(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        version = match.subject.id
        origin = self._origins.model(version)
        facts = {name: value for name, value in origin.facts.items() if name != "kind"}
        touched = impacts.model_touched(version, self.shipping())
        return f"{origin.text} ({self._project})", facts, list(origin.children), touched

    def _snapshot(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        origin = self._origins.snapshot(match.subject.id)
        facts = {name: value for name, value in origin.facts.items() if name != "kind"}
        shipping = self.shipping()
        touched = [
            node(
                "model",
                impacts.model_text(row),
                children=impacts.model_touched(row["version"], shipping),
                version=row["version"],
                created_at=row["created_at"],
            )
            for row in self._lineage.models_of(self._project, [match.subject.id])
        ]
        return f"{origin.text} ({self._project})", facts, list(origin.children), touched

    def _verdict(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        verdicts = self._lineage.verdicts(self._project)
        row = next(verdict_row for verdict_row in verdicts if verdict_row["verdict_id"] == match.subject.id)
        head = impacts.verdict_node(row)
        facts = {name: value for name, value in head.facts.items() if name != "kind"}
        return f"{head.text} ({self._project})", facts, self._origins.verdict(row), self._shipped_by(row)

    def _shipped_by(self, verdict: Row) -> list[LineageNode]:
        """Return what a verdict let through: its releases; and, where it has any, all that its contender came to."""
        shipping = self.shipping()
        if not any(
            shipped["verdict_id"] == verdict["verdict_id"] for shipped in (*shipping.releases, *shipping.routes)
        ):
            return []
        return [
            touched
            for touched in impacts.model_touched(verdict["contender_version"], shipping)
            if touched.facts.get("verdict_id") in (None, verdict["verdict_id"])
            and touched.facts["kind"] not in {"verdict", "champion_in"}
        ]

    def _item(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        item_id = match.subject.id
        origin = self._origins.item(item_id)
        return f"item {item_id} of {self._project}", {}, origin, [*self._labels(item_id), *self._impact(item_id)]

    def _label(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        item_id = match.subject.id
        decisions = self._lineage.decisions(self._project, item_id)
        if not decisions:
            raise ConfigError(
                f"item {short(item_id)} must have a label (got none). See `dethrone lineage item:{item_id}`."
            )
        newest = decisions[-1]
        said = repr(newest["label"]) if newest["status"] == "decided" else newest["status"]
        facts = {"label": newest["label"], "status": newest["status"], "decision_version": newest["version"]}
        title = f"label of item {item_id} of {self._project}: {said}"
        return title, facts, self._origins.label(item_id), self._impact(item_id)

    def _prediction(self, match: LineageMatch) -> tuple[str, dict[str, Any], list[LineageNode], list[LineageNode]]:
        prediction_id = match.subject.id
        logged = match.logged or self._logged(prediction_id)
        audit = self._lineage.audit(self._project, prediction_id)
        outcomes = [
            node("outcome", f"outcome {row['label']!r} told by {row['source']}, {when(row['at'])}", **row)
            for row in self._lineage.outcomes(self._project, prediction_id)
        ]
        touched = list(outcomes)
        if audit is not None:
            text = f"picked as {audit['kind']}, {when(audit['picked_at'])}: the input is item {short(audit['item_id'])}"
            children = [*self._labels(audit["item_id"]), *self._impact(audit["item_id"])]
            touched.append(node("audit", text, children=children, item_id=audit["item_id"], picked_as=audit["kind"]))
        title = f"prediction {prediction_id} of {self._project}"
        facts = {} if logged is None else dataclasses.asdict(logged)
        if logged is not None:
            title += f": {logged.label!r} with {logged.confidence:.4f}, {when(logged.at)}"
        return title, facts, self._origins.prediction(prediction_id, logged), touched

    def _logged(self, prediction_id: str) -> LoggedPrediction | None:
        return next(iter(find_predictions(self._store, self._project, prediction_id, limit=1)), None)

    def _labels(self, item_id: str) -> list[LineageNode]:
        annotations = self._lineage.annotations(self._project, item_id)
        decisions = self._lineage.decisions(self._project, item_id)
        labels = []
        if annotations:
            who: dict[str, int] = {}
            for row in annotations:
                who[row["annotator"]] = who.get(row["annotator"], 0) + 1
            text = f"{count(len(annotations), 'annotation')} by {counted(who)}"
            labels.append(node("annotations", text, children=map(annotation_node, annotations), total=len(annotations)))
        for row in decisions:
            said = repr(row["label"]) if row["status"] == "decided" else row["status"]
            names = ("version", "status", "label", "method", "annotators", "decided_at")
            text = f"decision {row['version']}: {said}, {row['method']}, {when(row['decided_at'])}"
            labels.append(node("label", text, **{name: row[name] for name in names}))
        return labels

    def _impact(self, item_id: str) -> list[LineageNode]:
        return impacts.impact_nodes(self.impact_of_item(item_id))

    def impact_of_item(self, item_id: str) -> impacts.Impact:
        """Return what an item touched: the exams that hold it by the catalog, the snapshots by their manifests."""

        def select(data: bytes, key: str) -> TouchedRows:
            return rows_of_item(data, item_id, object_key=key)

        return self._impact_where(select, exams=self._lineage.exams_with(self._project, item_id))

    def impact_of_annotator(self, annotator: str) -> impacts.Impact:
        """Return what a person's answers touched, exams and snapshots by their manifests."""

        def select(data: bytes, key: str) -> TouchedRows:
            return rows_of_annotator(data, annotator, cap=IDS_CAP, object_key=key)

        return self._impact_where(select, exams=self._lineage.exams(self._project))

    def _impact_where(self, select: Select, *, exams: list[Row]) -> impacts.Impact:
        snapshots = self._lineage.snapshots(self._project)
        holding = self._holdings(snapshots, select)
        ids = [held.row["snapshot_id"] for held in holding]
        models = self._lineage.models_of(self._project, ids) if ids else []
        return impacts.Impact(len(snapshots), holding, self._holdings(exams, select), models, self.shipping())

    def _holdings(self, rows: list[Row], select: Select) -> list[impacts.Holding]:
        holdings = []
        for row in rows:
            key = str(row["object_key"])
            held = select(manifest_bytes(self._store, key), key)
            if held.num_rows:
                holdings.append(impacts.Holding(row, held.num_rows, held.item_ids, held.labels))
        return holdings

    def shipping(self) -> impacts.Shipping:
        """Return what became of the project's models, and how many answers of each are in the log."""
        counts = count_predictions(self._store, self._project, imported=self._monitoring.imported_counts(self._project))
        return impacts.Shipping(
            verdicts=self._lineage.verdicts(self._project),
            releases=self._lineage.releases(self._project),
            deployments=self._lineage.deployments(self._project),
            routes=self._lineage.routes(self._project),
            predictions=counts.by_version,
            num_log_parts=counts.num_parts,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class BlastRadius:
    """The subjects affected when an item, a label or a person's answers turn out to be wrong."""

    project: str
    kind: str
    id: str
    title: str
    impact: impacts.Impact

    def tree(self) -> LineageNode:
        """Return it for people."""
        children = impacts.impact_nodes(self.impact)
        return node("blast_radius", self.title, children=children)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        what = {"project": self.project, "of": {"kind": self.kind, "id": self.id}}
        return {**what, **plain(impacts.impact_json(self.impact))}


def blast_radius(
    database: Database,
    store: ObjectStore,
    project: str,
    *,
    item: str | None = None,
    label: str | None = None,
    annotator: str | None = None,
) -> BlastRadius:
    """Return the snapshots, models, predictions and live services that an item, a label or a person's answers reach.

    Raises:
        ConfigError: not exactly one of the three is given, or the project, item, label or annotator is unknown.
        DataCorrupt: a manifest or a part of the log is gone or damaged.
    """
    if sum(given is not None for given in (item, label, annotator)) != 1:
        raise ConfigError("one of --item, --label and --annotator must be given (got none or several).")
    repository = LineageRepository(database)
    _require_project(repository, project)
    tracer = _Tracer(database, store, project)
    if annotator is not None:
        num_annotations, num_items = repository.annotator_counts(project, annotator)
        if not num_annotations:
            known = ", ".join(repository.annotators(project)[:CANDIDATES]) or "nobody yet"
            raise ConfigError(f"--annotator must be a name that the catalog has (got {annotator!r}). Known: {known}.")
        title = f"{count(num_annotations, 'annotation')} by {annotator} on {count(num_items, 'item')} of {project}"
        return BlastRadius(project, "annotator", annotator, title, tracer.impact_of_annotator(annotator))
    kind: Kind = "item" if item is not None else "label"
    item_id = find(repository, store, item or label or "", project=project, kind=kind).subject.id
    title = f"{kind} {item_id} of {project}"
    if kind == "label":
        decisions = repository.decisions(project, item_id)
        if not decisions:
            raise ConfigError(f"--label must be an item with a label (got {short(item_id)}, which has none).")
        title = (
            f"label of item {item_id} of {project}: {decisions[-1]['label']!r} (decision {decisions[-1]['version']})"
        )
    return BlastRadius(project, kind, item_id, title, tracer.impact_of_item(item_id))
