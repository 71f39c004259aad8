"""Origins of a subject: prediction, verdict, model, snapshot, labels, people, item, source and batch."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline_tasks.audit.lineage_impact import Row, model_text, release_node, route_at, verdict_node
from pipeline_tasks.audit.lineage_tree import LineageNode, count, counted, node, short, when
from pipeline_tasks.catalog.lineage import LineageRepository
from pipeline_tasks.contracts import GRAPH_VERSION
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.monitoring.log_scan import LoggedPrediction, find_predictions
from pipeline_tasks.validation.manifest_query import ManifestComposition, composition


class Origins:
    """Follows one project's references downwards."""

    def __init__(self, lineage: LineageRepository, store: ObjectStore, project: str) -> None:
        self._lineage = lineage
        self._store = store
        self._project = project

    def model(self, version: str) -> LineageNode:
        """Return a model version with its snapshot."""
        row = self._lineage.model(self._project, version)
        if row is None:
            return node("model", f"model version {version} is not in the catalog", version=version)
        names = ("version", "recipe", "params", "seed", "lock_hash", "code_revision", "digest", "run_id", "created_at")
        return node(
            "model",
            model_text(row),
            children=[self.snapshot(row["snapshot_id"])],
            **{name: row[name] for name in names},
        )

    def snapshot(self, snapshot_id: str) -> LineageNode:
        """Return a snapshot with who labeled it and which batches its items came in."""
        row = self._lineage.snapshot(self._project, snapshot_id)
        if row is None:
            return node("snapshot", f"snapshot {short(snapshot_id)} is not in the catalog", snapshot_id=snapshot_id)
        names = ("snapshot_id", "generation", "parent_id", "num_rows", "class_counts", "object_key", "created_at")
        text = (
            f"snapshot {short(snapshot_id)} (generation {row['generation']}): {row['num_rows']:,} rows, "
            f"{when(row['created_at'])}"
        )
        children = self._manifest(row["object_key"])
        return node("snapshot", text, children=children, **{name: row[name] for name in names})

    def exam(self, row: Row) -> LineageNode:
        """Return an exam epoch with who labeled it and which batches its items came in."""
        text = f"exam epoch {row['epoch']}: {row['num_items']:,} items, {when(row['opened_at'])}"
        names = ("exam_id", "epoch", "num_items", "object_key", "opened_at")
        retired = self._lineage.retirements_in_exam(self._project, row["epoch"])
        children = [*self._manifest(row["object_key"]), *map(_retirement_node, retired)]
        return node("exam", text, children=children, **{name: row[name] for name in names})

    def _manifest(self, object_key: str) -> list[LineageNode]:
        data = stored(self._store, object_key)
        if data is None:
            return [node("gone", f"its manifest {object_key} is not in the object store", object_key=object_key)]
        members = composition(data, object_key=object_key)
        return [_labels_node(members), self._items_node(members)]

    def _items_node(self, members: ManifestComposition) -> LineageNode:
        batches = self._lineage.batches(self._project, {arrival.first_item_id for arrival in members.arrivals})
        children = []
        for arrival in members.arrivals:
            batch_id = batches.get(arrival.first_item_id)
            batch = f"batch {batch_id or 'unknown'}, {when(arrival.arrived_at)}"
            text = f"{count(arrival.num_rows, 'item')} from {arrival.source}, {batch}"
            facts = {
                "source": arrival.source,
                "origin": arrival.origin,
                "batch_id": batch_id,
                "arrived_at": arrival.arrived_at,
            }
            children.append(LineageNode(text, {"kind": "batch", **facts, "num_items": arrival.num_rows}))
        text = f"{count(members.num_rows, 'item')} in {count(len(children), 'arrival')}"
        return node("items", text, children=children, num_items=members.num_rows)

    def verdict(self, row: Row) -> list[LineageNode]:
        """Return what a verdict compared, on which exams, and what people answered to it."""
        nodes = [self.model(row["contender_version"])]
        champion = row["champion_version"]
        if champion is not None:
            nodes.append(node("champion", f"against the champion {champion}", version=champion))
        exams = {exam["exam_id"]: exam for exam in self._lineage.exams(self._project)}
        for exam_id in row["exam_ids"]:
            known = exams.get(exam_id)
            nodes.append(
                self.exam(known) if known else node("exam", f"exam {short(exam_id)} is unknown", exam_id=exam_id)
            )
        nodes += [_approval_node(approval) for approval in self._lineage.approvals(self._project, row["verdict_id"])]
        return nodes

    def label(self, item_id: str) -> list[LineageNode]:
        """Return an item's decisions, newest first, with the annotations behind them, and the item."""
        decisions = self._lineage.decisions(self._project, item_id)
        annotations = {
            annotation["annotation_id"]: annotation for annotation in self._lineage.annotations(self._project, item_id)
        }
        nodes = [_decision_node(decision, annotations) for decision in reversed(decisions)]
        return [*nodes, *self.item(item_id)]

    def item(self, item_id: str) -> list[LineageNode]:
        """Return where an item came from: source, key and batch; in production also the prediction."""
        row = self._lineage.item(self._project, item_id)
        if row is None:
            return [node("item", f"item {short(item_id)} is not in the catalog", item_id=item_id)]
        names = ("item_id", "source", "key", "origin", "split", "media_type", "size_bytes", "batch_id", "arrived_at")
        text = (
            f"item {short(item_id)} ({row['media_type']}, {row['size_bytes']:,} bytes, {row['split']}): "
            f"{row['source']}:{row['key']}, batch {row['batch_id']}, {when(row['arrived_at'])}"
        )
        children = [_audit_node(audit) for audit in self._lineage.audits_of_item(self._project, item_id)]
        retired = self._lineage.retirements(self._project, [item_id])
        children += [_retirement_node(retirement) for retirement in retired]
        return [node("item", text, children=children, **{name: row[name] for name in names})]

    def prediction(self, prediction_id: str, logged: LoggedPrediction | None) -> list[LineageNode]:
        """Return what answered a request (model, release, route) and the item that its input is, if it became one."""
        if logged is not None and logged.model_version.startswith(GRAPH_VERSION):
            return self._nodes(prediction_id, logged)
        audit = self._lineage.audit(self._project, prediction_id)
        nodes = [self.model(logged.model_version), *self._served_by(logged)] if logged else []
        if audit is not None and logged is None:
            nodes.append(self.model(audit["model_version"]))
        if audit is not None:
            return [*nodes, *self.item(audit["item_id"])]
        digest = logged.payload_sha256 if logged else None
        items = self._lineage.items_of_content(self._project, digest) if digest else []
        if items:
            text = f"its input was not audited, and is the content of {count(len(items), 'item')}"
            return [*nodes, node("input", text, payload_sha256=digest, num_items=len(items)), *self.item(items[0])]
        text = (
            f"its input was not audited and is no item (SHA-256 {short(digest)})" if digest else "its input is no item"
        )
        return [*nodes, node("input", text, payload_sha256=digest)]

    def _nodes(self, prediction_id: str, logged: LoggedPrediction) -> list[LineageNode]:
        """Return the graph that answered, and what each node's project has logged under the same id."""
        route = route_at(self._lineage.routes(self._project), logged.at, deployment_id=None)
        if route is None:
            return [self.model(logged.model_version)]
        nodes = [_route_node(route)]
        for graph_node in route["body"]["serving"]["graph"]["nodes"]:
            project = str(graph_node["project"])
            theirs = next(iter(find_predictions(self._store, project, prediction_id, limit=1)), None)
            if theirs is not None:
                text = f"node {graph_node['name']} of {project}: {theirs.label!r} with {theirs.confidence:.4f}"
                children = Origins(self._lineage, self._store, project).prediction(prediction_id, theirs)
                nodes.append(node("node", text, children=children, name=graph_node["name"], project=project))
        return nodes

    def _served_by(self, logged: LoggedPrediction) -> list[LineageNode]:
        route = route_at(self._lineage.routes(self._project), logged.at, deployment_id=logged.deployment_id)
        deployments = self._lineage.deployments(self._project)
        mine = next(
            (deployment for deployment in deployments if deployment["deployment_id"] == logged.deployment_id), None
        )
        releases = self._lineage.releases(self._project)
        release = next(
            (candidate for candidate in releases if mine and candidate["release_id"] == mine["release_id"]), None
        )
        nodes = [] if route is None else [_route_node(route)]
        nodes += [] if release is None else [release_node(release, deployments)]
        verdict = self._lineage.verdict(self._project, release["verdict_id"]) if release else None
        return nodes if verdict is None else [*nodes, verdict_node(verdict)]


def stored(store: ObjectStore, object_key: str) -> bytes | None:
    """Return an object that may be gone."""
    try:
        return store.get(object_key)
    except KeyError:
        return None


def manifest_bytes(store: ObjectStore, object_key: str) -> bytes:
    """Return a manifest's bytes.

    Raises:
        DataCorrupt: it is gone, so that nobody can tell what it holds.
    """
    data = stored(store, object_key)
    if data is None:
        raise DataCorrupt(f"{object_key} must exist in the object store (got nothing). Restore it from a backup.")
    return data


def _labels_node(members: ManifestComposition) -> LineageNode:
    by_hand = sum(members.annotators.values())
    without = {name: number for name, number in members.methods.items() if name not in {"single", "consensus"}}
    who = {**members.annotators, **without}
    text = f"{count(members.num_rows, 'label')} by {counted(who)}" if who else count(members.num_rows, "label")
    children = [
        node(
            "annotations",
            f"{count(by_hand, 'annotation')} by {count(len(members.annotators), 'annotator')}",
            total=by_hand,
        )
    ]
    return node(
        "labels",
        text,
        children=children if by_hand else [],
        num_labels=members.num_rows,
        annotators=dict(members.annotators),
        methods=dict(members.methods),
    )


def _decision_node(row: Row, annotations: Mapping[str, Row]) -> LineageNode:
    said = repr(row["label"]) if row["status"] == "decided" else row["status"]
    who = f" by {', '.join(row['annotators'])}" if row["annotators"] else ""
    text = f"decision {row['version']}: {said}, {row['method']}{who}, {when(row['decided_at'])}"
    behind = [annotations[annotation_id] for annotation_id in row["annotation_ids"] if annotation_id in annotations]
    names = ("version", "status", "label", "method", "annotators", "agreement", "annotation_ids", "decided_at")
    return node("label", text, children=map(annotation_node, behind), **{name: row[name] for name in names})


def annotation_node(row: Row) -> LineageNode:
    """Return one person's answer."""
    said = "deleted" if row["deleted"] else "skipped" if row["cancelled"] else repr(row["label"])
    text = f"annotation {row['annotation_id']} by {row['annotator']}: {said}, {when(row['created_at'])}"
    return node("annotation", text, **row)


def _approval_node(row: Row) -> LineageNode:
    text = f"{row['decision']} by {row['by']}, {when(row['at'])}: {row['reason']}"
    names = ("decision", "by", "requested_by", "reason", "at")
    return node("approval", text, **{name: row[name] for name in names})


def _retirement_node(row: Row) -> LineageNode:
    text = f"item {short(row['item_id'])} retired by {row['by']}, {when(row['at'])}: {row['reason']}"
    return node("retirement", text, **row)


def _audit_node(row: Row) -> LineageNode:
    text = (
        f"input of prediction {row['prediction_id']} ({row['kind']}): model version {row['model_version']} said "
        f"{row['predicted_label']!r} with {row['confidence']:.2f}, {when(row['predicted_at'])}"
    )
    return node(
        "prediction", text, **{name: value for name, value in row.items() if name != "kind"}, picked_as=row["kind"]
    )


def _route_node(row: Row) -> LineageNode:
    names = ("generation", "action", "champion_version", "verdict_id", "actor", "reason", "created_at")
    text = f"route generation {row['generation']} ({row['action']}, {when(row['created_at'])}): {row['reason']}"
    return node("route", text, **{name: row[name] for name in names})
