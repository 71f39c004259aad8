"""The invariants of the champions: one linear chain, whole, gated, serving what it names. Rows in, violations out."""

from __future__ import annotations

import datetime as dt
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline_tasks.catalog.ledger import approval_rule_of
from pipeline_tasks.contracts import ALONE_ACTIONS, BESIDE_ACTIONS, content_id, sha256_hex, sha256_of_file
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.deployment.release import EXPORT_SHA256
from pipeline_tasks.errors import DataCorrupt
from pipeline_tasks.evaluation.verdict_consistency import judged_weights
from pipeline_tasks.invariants.violation import Row, Violation
from pipeline_tasks.models.artifact import EXPORTED_NAME, MANIFEST_NAME, WEIGHTS_NAME, file_names
from pipeline_tasks.models.weights_file import ArtifactInvalid, read_file_metadata
from pipeline_tasks.monitoring.prediction_log import moment_of

FULL_SHARE = 100
NUM_KEPT_WHOLE = 3  # the head and its two predecessors


def chain_violations(project: str, routes: Sequence[Row], deployments: Iterable[Row]) -> Iterator[Violation]:
    """I3: generations count up by one, each names its parent, and traffic goes to known deployments of its champion."""
    known = {row["deployment_id"]: row["model_version"] for row in deployments}
    parent = None
    for number, route in enumerate(routes, start=1):
        name, entries = f"generation {route['generation']}", route["body"]["entries"]
        if route["generation"] != number:
            yield Violation("I3", project, f"generation {number} must follow {number - 1} (got {route['generation']})")
        if route["parent_commit_id"] != parent:
            yield Violation("I3", project, f"{name} must have the parent {parent} (got {route['parent_commit_id']})")
        if sum(entry["weight"] for entry in entries) != FULL_SHARE:
            yield Violation("I3", project, f"{name} must give away {FULL_SHARE} % of the traffic")
        if route["champion_version"] not in {entry["model_version"] for entry in entries}:
            yield Violation("I3", project, f"{name} must route to its champion {route['champion_version']}")
        for entry in (*entries, *route["body"].get("shadows", ())):
            if known.get(entry["deployment_id"]) != entry["model_version"]:
                yield Violation("I3", project, f"{name} routes to {entry['deployment_id']}, which is not recorded")
        parent = route["commit_id"]


def whole_violations(
    project: str,
    routes: Sequence[Row],
    models: Mapping[str, Row],
    releases: Iterable[Row],
    store: ObjectStore,
    *,
    deep: bool = False,
) -> Iterator[Violation]:
    """I4: model and release of the head and its two predecessors exist and hash to what the catalog says.

    `deep` hashes the exported bentos too; those of older releases have no recorded hash.
    """
    by_model: dict[str, list[Row]] = {}
    for release in releases:
        by_model.setdefault(release["model_version"], []).append(release)
    champions = [route for route in routes if route["action"] not in (*BESIDE_ACTIONS, *ALONE_ACTIONS)]
    for version in dict.fromkeys(route["champion_version"] for route in reversed(champions[-NUM_KEPT_WHOLE:])):
        model = models.get(version)
        if model is None:
            yield Violation("I4", project, f"champion {version} must be a recorded model version (got none)")
            continue
        folder = model["object_key"].rstrip("/")
        yield from _weights_violations(project, folder, model["digest"], store)
        exported = {release["object_key"]: release["infra_check"] for release in by_model.get(version, ())}
        for key in (f"{folder}/{MANIFEST_NAME}", *exported):
            digest = exported.get(key, {}).get(EXPORT_SHA256)
            if deep and digest is not None:
                yield from _same_digest(project, key, digest, store)
            elif not store.exists(key):
                yield Violation("I4", project, f"champion {version} must have {key} (got no such object)")


def _weights_violations(project: str, folder: str, digest: str, store: ObjectStore) -> Iterator[Violation]:
    """I4: the weights are those recorded; configuration and exported graph are those that they were written with."""
    with _fetched(f"{folder}/{WEIGHTS_NAME}", store) as weights:
        yield from _wrong_digest(project, f"{folder}/{WEIGHTS_NAME}", digest, weights)
        try:
            metadata = read_file_metadata(weights) if isinstance(weights, Path) else None
            manifest = store.get(f"{folder}/{MANIFEST_NAME}")
        except (KeyError, DataCorrupt, ArtifactInvalid):
            return  # said by what looks for them and hashes them
    if metadata is not None:
        yield from _bound_violations(project, folder, metadata, manifest, store)


def _bound_violations(
    project: str, folder: str, metadata: Mapping[str, str], manifest: bytes, store: ObjectStore
) -> Iterator[Violation]:
    if EXPORTED_NAME in file_names(manifest) or "exported" in metadata:
        yield from _same_digest(project, f"{folder}/{EXPORTED_NAME}", metadata.get("exported", "none"), store)
    digest = _config_digest(manifest)
    if digest != metadata.get("config"):
        bound = str(metadata.get("config"))[:12]
        yield Violation(
            "I4", project, f"{folder}/{MANIFEST_NAME} must have the configuration {bound} (got {digest[:12]})"
        )


def _config_digest(manifest: bytes) -> str:
    try:
        return content_id(json.loads(manifest)["config"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return type(error).__name__


def gate_violations(
    project: str,
    routes: Sequence[Row],
    *,
    verdicts: Mapping[str, Row],
    approvals: Iterable[Row],
    releases: Iterable[Row],
    models: Mapping[str, Row],
    store: ObjectStore,
) -> Iterator[Violation]:
    """I6: a promotion stands on a verdict on that model against that champion, an approval and a release before it.

    Whether an approval was needed is what the route says of its own time, not what the project asks for today.
    """
    answers: dict[str, list[Row]] = {}
    for row in sorted(approvals, key=lambda answer: answer["sequence"]):
        answers.setdefault(row["verdict_id"], []).append(row)
    released = {(row["model_version"], row["verdict_id"]): row for row in releases}
    champion, former, asked = None, set[str](), False
    for route in routes:
        version, faults = route["champion_version"], list[str]()
        if route["action"] == "rollback":
            if version not in former:
                faults.append("returns to a model that never was champion")
        elif route["action"] == "promote":
            if asked and approval_rule_of(route) is None:
                faults.append("does not say whether it needed an approval")
            asked = asked or approval_rule_of(route) is not None
            verdict = verdicts.get(route["verdict_id"])
            faults += _verdict_faults(route, verdict, champion=champion, model=models.get(version), store=store)
            given = answers.get(route["verdict_id"], ())
            faults += _approval_faults(route, given, champion=champion, rule=approval_rule_of(route))
            faults += _release_faults(route, released.get((version, route["verdict_id"])))
        elif route["action"] in (*BESIDE_ACTIONS, *ALONE_ACTIONS):
            faults += _beside_faults(route, champion=champion)
        else:
            faults.append(f"has the unknown action {route['action']}")
        champion = version
        former.add(version)
        beside = {entry["model_version"] for entry in (*route["body"]["entries"], *route["body"].get("shadows", ()))}
        for name in sorted(beside - former):
            mine = [judged for judged in verdicts.values() if judged["contender_version"] == name]
            if not any(_has_passed(judged, route, answers=answers, released=released) for judged in mine):
                faults.append(f"routes to {name} too, which has not passed verdict, approval and release")
        yield from (_ungated(project, route, fault) for fault in faults)


def _beside_faults(route: Row, *, champion: str | None) -> Iterator[str]:
    """Tell what a rollout's or an experiment's route did that only a promotion or a rollback may do."""
    if route["champion_version"] != champion:
        yield f"moves the champion from {champion} by {route['action']}"
    named = (*route["body"]["entries"], *route["body"].get("shadows", ()))
    mixed = any(entry["model_version"] != route["champion_version"] for entry in named)
    if mixed != (route["action"] in BESIDE_ACTIONS):
        yield f"has {'a model' if mixed else 'nobody'} beside the champion after {route['action']}"


def _has_passed(
    verdict: Row, route: Row, *, answers: Mapping[str, Sequence[Row]], released: Mapping[tuple[str, str], Row]
) -> bool:
    """Tell whether the contender of a verdict could have been champion at the time of the route."""
    release = released.get((verdict["contender_version"], verdict["verdict_id"]))
    faults = [
        *_approval_faults(
            route,
            answers.get(verdict["verdict_id"], ()),
            champion=verdict["champion_version"],
            rule=route["body"].get("serving", {}).get("beside_approval") or approval_rule_of(route),
        ),
        *_release_faults(route, release),
    ]
    return verdict["answer"] == "promote" and verdict["created_at"] <= route["created_at"] and not faults


def served_violations(
    project: str, routes: Sequence[Row], logged: Iterable[Row], *, slack: dt.timedelta
) -> Iterator[Violation]:
    """I5: each prediction names a model that the route named at its time, give or take the slack."""
    intervals: dict[str, list[tuple[dt.datetime, dt.datetime | None]]] = {}
    ordered = sorted(routes, key=lambda row: row["generation"])
    for number, route in enumerate(ordered):
        end = ordered[number + 1]["created_at"] + slack if number + 1 < len(ordered) else None
        entries = (*route["body"]["entries"], *route["body"].get("shadows", ()))
        named = {entry["model_version"] for entry in entries} or {route["champion_version"]}  # or a graph's
        standby = (route["body"].get("serving") or {}).get("standby")
        for version in named | ({standby["model_version"]} if standby else set()):
            intervals.setdefault(version, []).append((route["created_at"] - slack, end))
    wrong: Counter[str] = Counter()
    for row in logged:
        version, at = row["model_version"], moment_of(row)
        if version is None or at is None:
            continue
        if not any(begin <= at and (end is None or at <= end) for begin, end in intervals.get(version, ())):
            wrong[version] += 1
    for version, count in sorted(wrong.items()):
        yield Violation("I5", project, f"{count} predictions came from {version} while the route did not name it")


def _verdict_faults(
    route: Row, verdict: Row | None, *, champion: str | None, model: Row | None, store: ObjectStore
) -> Iterator[str]:
    if verdict is None:
        yield "has no verdict"
        return
    if verdict["answer"] != "promote":
        yield f"stands on a verdict that says {verdict['answer']}"
    if verdict["contender_version"] != route["champion_version"]:
        yield f"stands on a verdict on {verdict['contender_version']}"
    if verdict["champion_version"] != champion:
        yield f"was compared with {verdict['champion_version']}, the champion was {champion}"
    if verdict["created_at"] > route["created_at"]:
        yield "was judged after it served"
    key = f"{verdict['object_key'].rstrip('/')}/verdict.json"
    try:
        document = store.get(key)
        digest = sha256_hex(document)
    except (KeyError, DataCorrupt) as error:
        digest = type(error).__name__
    if digest != verdict["digest"]:
        yield f"must have the verdict {key} with the SHA-256 {verdict['digest']} (got {digest})"
    elif model is not None and model["digest"] != judged_weights(document):
        yield f"has the weights {model['digest'][:12]}, judged were {str(judged_weights(document))[:12]}"


def _approval_faults(route: Row, answers: Sequence[Row], *, champion: str | None, rule: str | None) -> Iterator[str]:
    # What counted then: a later answer to the same verdict speaks of a later route.
    earlier = [approval for approval in answers if approval["at"] <= route["created_at"]]
    answer = earlier[-1] if earlier else next(iter(answers), None)
    if answer is None:
        if rule == "always" or (rule == "first" and champion is None):
            yield "has no approval"
    elif answer["decision"] != "approve":
        yield f"serves though the approval said {answer['decision']}"
    elif answer["at"] > route["created_at"]:
        yield "was approved after it served"


def _release_faults(route: Row, release: Row | None) -> Iterator[str]:
    if release is None:
        yield "has no release of that model and verdict"
    elif release["infra_check"].get("failures"):
        yield "serves a release that failed its infra check"
    elif release["created_at"] > route["created_at"]:
        yield "was released after it served"


def _ungated(project: str, route: Row, fault: str) -> Violation:
    return Violation("I6", project, f"generation {route['generation']} ({route['champion_version']}) {fault}")


def _same_digest(project: str, key: str, digest: str, store: ObjectStore) -> Iterator[Violation]:
    with _fetched(key, store) as fetched:
        yield from _wrong_digest(project, key, digest, fetched)


def _wrong_digest(project: str, key: str, digest: str, fetched: Path | Exception) -> Iterator[Violation]:
    actual = sha256_of_file(fetched) if isinstance(fetched, Path) else type(fetched).__name__
    if actual != digest:
        yield Violation("I4", project, f"{key} must have the SHA-256 {digest} (got {actual})")


@contextmanager
def _fetched(key: str, store: ObjectStore) -> Iterator[Path | Exception]:
    """Give an object as a file, since weights may be larger than the memory; or why there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        try:
            store.get_file(key, path)
        except (KeyError, DataCorrupt) as error:
            yield error
        else:
            yield path
