"""Impact of a model version, a snapshot, an item or a person's labels: up to live services and predictions. Pure."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline_tasks.audit.lineage_tree import IDS_CAP, LineageNode, count, counted, node, short, when

Row = Mapping[str, Any]
TRAINED, JUDGED = "trained on it", "judged on it"


@dataclasses.dataclass(frozen=True, slots=True)
class Shipping:
    """Releases of a project's models: rows of the catalog, oldest first, and answers in the log by version."""

    verdicts: Sequence[Row]
    releases: Sequence[Row]
    deployments: Sequence[Row]
    routes: Sequence[Row]
    predictions: Mapping[str, int]
    num_log_parts: int


@dataclasses.dataclass(frozen=True, slots=True)
class Holding:
    """A snapshot or an exam that holds what is asked for; `labels` counts by (label, version of the decision)."""

    row: Row
    num_affected: int
    item_ids: tuple[str, ...]
    labels: Mapping[tuple[str, int], int]


@dataclasses.dataclass(frozen=True, slots=True)
class Impact:
    """Everything that hangs on an item, a label or an annotator; newest first."""

    num_snapshots: int
    snapshots: Sequence[Holding]
    exams: Sequence[Holding]
    models: Sequence[Row]
    shipping: Shipping

    @property
    def judged(self) -> list[Row]:
        """Return the verdicts whose exams hold it."""
        exam_ids = {held.row["exam_id"] for held in self.exams}
        return [row for row in self.shipping.verdicts if exam_ids & set(row["exam_ids"])]

    @property
    def predictions(self) -> dict[str, int]:
        """Return the answers in the log by the model versions that were trained on it."""
        counts = self.shipping.predictions
        return {row["version"]: counts[row["version"]] for row in self.models if counts.get(row["version"])}

    @property
    def live(self) -> list[dict[str, Any]]:
        """Return the services that serve now and learned from it, or stand on a verdict that was judged on it."""
        versions = {row["version"] for row in self.models}
        verdicts = {row["verdict_id"] for row in self.judged}
        nodes = []
        for entry in live_entries(self.shipping.routes):
            because = [TRAINED] if entry["model_version"] in versions else []
            promoted = entry["role"] == "serving" and self.shipping.routes[-1]["verdict_id"] in verdicts
            because += [JUDGED] if promoted else []
            if because:
                nodes.append({**entry, "because": because})
        return nodes


def live_entries(routes: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what the newest generation names: deployments that serve or shadow, with their share in percent."""
    if not routes:
        return []
    head = routes[-1]
    entries = [
        {"generation": head["generation"], "role": role, **entry}
        for role, key in (("serving", "entries"), ("shadow", "shadows"))
        for entry in head["body"].get(key, ())
    ]
    named = {entry["model_version"] for entry in entries}
    if head["champion_version"] not in named:
        champion = {"deployment_id": None, "model_version": head["champion_version"], "address": None, "weight": 100}
        entries.insert(0, {"generation": head["generation"], "role": "serving", **champion})
    return entries


def versions_in(route: Row) -> set[str]:
    """Return the model versions that a generation names."""
    entries = [*route["body"].get("entries", ()), *route["body"].get("shadows", ())]
    return {route["champion_version"], *(entry["model_version"] for entry in entries)}


def route_at(routes: Sequence[Row], at: dt.datetime, *, deployment_id: str | None) -> Row | None:
    """Return the generation that gave a request to a deployment: gateways follow a change within a second or so."""
    before = [route for route in routes if route["created_at"] <= at]
    naming = [
        route
        for route in before
        if any(entry["deployment_id"] == deployment_id for entry in route["body"].get("entries", ()))
    ]
    return naming[-1] if naming else before[-1] if before else None


# One model version, upwards


def model_touched(version: str, shipping: Shipping) -> list[LineageNode]:
    """Return what a model version came to: verdicts, releases with their deployments, routes, predictions."""
    nodes = [verdict_node(row) for row in shipping.verdicts if row["contender_version"] == version]
    against = [row["verdict_id"] for row in shipping.verdicts if row["champion_version"] == version]
    if against:
        text = f"the champion that {count(len(against), 'contender')} had to beat"
        nodes.append(node("champion_in", text, **capped(against)))
    nodes += [release_node(row, shipping.deployments) for row in shipping.releases if row["model_version"] == version]
    nodes.append(_routes_node(version, shipping.routes))
    nodes.append(_predictions_node({version: shipping.predictions.get(version, 0)}, shipping.num_log_parts))
    return nodes


def verdict_node(row: Row, *, children: Sequence[LineageNode] = ()) -> LineageNode:
    """Return a verdict as one line."""
    against = f" against {short(row['champion_version'])}" if row["champion_version"] else ""
    text = f"verdict {short(row['verdict_id'])}: {row['answer']}{against}, {when(row['created_at'])}"
    names = ("verdict_id", "answer", "contender_version", "champion_version", "exam_ids", "reasons", "created_at")
    return node("verdict", text, children=children, **{name: row[name] for name in names})


def release_node(row: Row, deployments: Sequence[Row]) -> LineageNode:
    """Return a release with its images and its deployments."""
    names = ("release_id", "model_version", "verdict_id", "bento_tag", "created_at")
    children = [
        node(
            "image",
            f"image {image['image']}, its parts in {image['sbom_key']}",
            **{name: image[name] for name in ("image", "base_digest", "layer_bytes", "sbom_key", "created_at")},
        )
        for image in row["images"]
    ]
    children += [
        node(
            "deployment",
            f"deployment {deployment['deployment_id']} ({deployment['target']}, {deployment['address']})",
            **{name: deployment[name] for name in ("deployment_id", "target", "address", "created_at")},
        )
        for deployment in deployments
        if deployment["release_id"] == row["release_id"]
    ]
    text = f"release {row['release_id']}: {row['bento_tag']}, {when(row['created_at'])}"
    return node("release", text, children=children, **{name: row[name] for name in names})


def _routes_node(version: str, routes: Sequence[Row]) -> LineageNode:
    mine = [route for route in routes if version in versions_in(route)]
    live = [entry for entry in live_entries(routes) if entry["model_version"] == version]
    generations = [{name: route[name] for name in ("generation", "action", "created_at", "reason")} for route in mine]
    if not mine:
        return node("routes", "never in a route", generations=[], live=[])
    named = ", ".join(f"{route['generation']} ({route['action']})" for route in mine[-5:])
    earlier = f"{len(mine) - 5:,} earlier, " if len(mine) > 5 else ""
    now = "; ".join(map(live_text, live)) or "does not serve now"
    return node(
        "routes", f"{count(len(mine), 'route')}: generation {earlier}{named}; {now}", generations=generations, live=live
    )


def live_text(entry: Mapping[str, Any]) -> str:
    """Return one live service in words."""
    share = "shadows" if entry["role"] == "shadow" else f"SERVES {entry['weight']} %"
    place = f" as {entry['deployment_id']} at {entry['address']}" if entry["deployment_id"] else ""
    return f"{share} now{place} (generation {entry['generation']})"


def _predictions_node(by_version: Mapping[str, int], num_log_parts: int) -> LineageNode:
    total = sum(by_version.values())
    text = f"{count(total, 'prediction')} in the log"
    if len(by_version) > 1:
        text += f": {counted({short(name): number for name, number in by_version.items()})}"
    return node("predictions", text, total=total, by_version=dict(by_version), log_parts=num_log_parts)


# Items, labels and annotators, upwards


def impact_nodes(impact: Impact) -> list[LineageNode]:
    """Return what was touched: snapshots with their models, exams with their verdicts, predictions, live services."""
    by_snapshot: dict[str, list[Row]] = {}
    for row in impact.models:
        by_snapshot.setdefault(row["snapshot_id"], []).append(row)
    snapshots = [_snapshot_node(held, by_snapshot, impact.shipping) for held in impact.snapshots]
    text = f"{count(len(snapshots), 'snapshot')} of {impact.num_snapshots:,} holding it"
    nodes = [node("snapshots", text, children=snapshots, total=len(snapshots), looked_at=impact.num_snapshots)]
    nodes += [_exam_node(held, impact.shipping.verdicts) for held in impact.exams]
    nodes.append(_predictions_node(impact.predictions, impact.shipping.num_log_parts))
    nodes.append(_live_node(impact))
    return nodes


def _snapshot_node(held: Holding, models: Mapping[str, Sequence[Row]], shipping: Shipping) -> LineageNode:
    row = held.row
    children = [
        node(
            "model",
            model_text(model),
            children=model_touched(model["version"], shipping),
            **{name: model[name] for name in ("version", "recipe", "created_at")},
        )
        for model in models.get(row["snapshot_id"], ())
    ]
    text = (
        f"snapshot {short(row['snapshot_id'])} (generation {row['generation']}, {count(row['num_rows'], 'row')}), "
        f"{_labels_text(held)}"
    )
    return node("snapshot", text, children=children, **_held_facts(held, ("snapshot_id", "generation", "num_rows")))


def model_text(row: Row) -> str:
    """Return a model version as one line."""
    validation = row["metrics"].get("validation", {})
    accuracy = f", validation accuracy {validation['accuracy']:.4f}" if "accuracy" in validation else ""
    return f"model version {row['version']}: {row['recipe']}, seed {row['seed']}{accuracy}, {when(row['created_at'])}"


def _exam_node(held: Holding, verdicts: Sequence[Row]) -> LineageNode:
    row = held.row
    judged = [verdict_node(verdict) for verdict in verdicts if row["exam_id"] in verdict["exam_ids"]]
    text = (
        f"exam epoch {row['epoch']} ({count(row['num_items'], 'item')}), {_labels_text(held)}: "
        f"{count(len(judged), 'verdict')} judged on it"
    )
    return node("exam", text, children=judged, **_held_facts(held, ("exam_id", "epoch", "num_items")))


def _labels_text(held: Holding) -> str:
    labels = {f"{label} (decision {version})": number for (label, version), number in held.labels.items()}
    return f"{count(held.num_affected, 'row')}: {counted(labels)}"


def _held_facts(held: Holding, names: Sequence[str]) -> dict[str, Any]:
    labels = [
        {"label": label, "decision_version": version, "count": number}
        for (label, version), number in sorted(held.labels.items())
    ]
    affected = {"num_affected": held.num_affected, "item_ids": list(held.item_ids), "item_ids_cap": IDS_CAP}
    return {**{name: held.row[name] for name in names}, **affected, "labels": labels}


def _live_node(impact: Impact) -> LineageNode:
    live = impact.live
    children = [
        node(
            "live", f"model version {entry['model_version']} {live_text(entry)}: {', '.join(entry['because'])}", **entry
        )
        for entry in live
    ]
    text = f"{count(len(live), 'live service')} affected" if live else "no live service affected"
    return node("live_services", text, children=children, total=len(live))


def impact_json(impact: Impact) -> dict[str, Any]:
    """Return an impact as flat lists: what `dethrone blast-radius --json` prints."""
    shipping = impact.shipping
    models = [
        {
            **{name: row[name] for name in ("version", "snapshot_id", "recipe", "created_at")},
            "verdict_ids": [
                verdict["verdict_id"] for verdict in shipping.verdicts if verdict["contender_version"] == row["version"]
            ],
            "release_ids": [
                release["release_id"] for release in shipping.releases if release["model_version"] == row["version"]
            ],
            "deployment_ids": [
                deployment["deployment_id"]
                for deployment in shipping.deployments
                if deployment["model_version"] == row["version"]
            ],
            "generations": [route["generation"] for route in shipping.routes if row["version"] in versions_in(route)],
            "num_predictions": shipping.predictions.get(row["version"], 0),
        }
        for row in impact.models
    ]
    snapshot_names = ("snapshot_id", "generation", "num_rows", "created_at")
    return {
        "snapshots_looked_at": impact.num_snapshots,
        "snapshots": [_held_facts(held, snapshot_names) for held in impact.snapshots],
        "exams": [_held_facts(held, ("exam_id", "epoch", "num_items")) for held in impact.exams],
        "verdicts_on_exams": [row["verdict_id"] for row in impact.judged],
        "models": models,
        "predictions": {
            "total": sum(impact.predictions.values()),
            "by_version": impact.predictions,
            "log_parts": shipping.num_log_parts,
        },
        "live": impact.live,
    }


def capped(ids: Collection[str]) -> dict[str, Any]:
    """Return ids as facts: how many, and the first thousand."""
    return {"total": len(ids), "ids": list(ids)[:IDS_CAP], "ids_cap": IDS_CAP}
