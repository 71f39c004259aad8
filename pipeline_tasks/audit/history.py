"""The ledger for people: the history, and what served at a time and why. Only reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.catalog.database import Database
from pipeline_tasks.catalog.ledger import KEYS, SHORT, LedgerEntry, entry_json
from pipeline_tasks.catalog.ledger_repository import LedgerRepository
from pipeline_tasks.catalog.routes import RouteRecord, ServingRepository
from pipeline_tasks.catalog.verdicts import ApprovalRepository, VerdictRecord, VerdictRepository
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.errors import ConfigError
from pipeline_tasks.evaluation.open_epoch import held_verdicts, told_reasons

SAID = {"approve": "yes", "reject": "no", "expired": "expired"}


def route_rows(database: Database, project: str) -> list[dict[str, Any]]:
    """Return who served when and why, each generation with its entry in the ledger."""
    entries = {entry.subject: entry for entry in LedgerRepository(database).entries(project) if entry.kind == "route"}
    records = ServingRepository(database).records(project)
    return [_route_row(record, entries.get(record.route.commit_id)) for record in records]


def _route_row(record: RouteRecord, entry: LedgerEntry | None) -> dict[str, Any]:
    return {
        "generation": record.route.generation,
        "at": record.created_at,
        "action": record.action,
        "champion": record.route.champion_version,
        "shares": {target.model_version: target.weight for target in (*record.route.entries, *record.route.shadows)},
        "verdict_id": record.verdict_id,
        "reason": record.reason,
        "actor": record.actor,
        "ledger_sequence": entry.sequence if entry else None,
        "entry_hash": entry.entry_hash if entry else None,
    }


def ledger_rows(database: Database, project: str) -> list[dict[str, Any]]:
    """Return every entry of a project's ledger, oldest first, as it is hashed."""
    return [entry_json(entry) for entry in LedgerRepository(database).entries(project)]


def ledger_text(database: Database, store: ObjectStore, project: str) -> str:
    """Return a project's ledger for people, one entry a line, and the anchor of its head."""
    entries = LedgerRepository(database).entries(project)
    if not entries:
        return f"{project} has no champion yet: nothing was judged."
    head = entries[-1]
    anchor = f"{project}:{head.sequence}:{head.entry_hash}"
    held = held_verdicts(database, store, project)
    lines = []
    for entry in entries:
        if entry.kind != "seal":
            told = held[entry.subject].said["decision"]["reasons"][0]["text"] if entry.subject in held else None
            said = entry_text(entry, told=told)
            lines.append(f"{entry.sequence:>4}  {entry.at:%Y-%m-%d %H:%M:%S}  {entry.entry_hash[:SHORT]}  {said}")
    return "\n".join([*lines, "", f"To prove later that none of this was rewritten, keep this elsewhere: {anchor}"])


def entry_text(entry: LedgerEntry, *, told: str | None = None) -> str:
    """Return an entry in words, on one line; `told` is a verdict's first reason as it is told."""
    body = entry.body
    if entry.kind == "verdict":
        compared = f"{body['contender_version']} against {body['champion_version'] or 'nobody'}"
        reason = told or next(iter(body["reasons"].get("texts", ())), "no reason")
        text = f"verdict    {body['answer']}  {compared}: {reason}  [{entry.subject[:SHORT]}]"
    elif entry.kind == "approval":
        said = SAID.get(body["decision"], body["decision"])
        text = f"approval   {said}  by {body['by']} on verdict {body['verdict_id'][:SHORT]}: {body['reason']}"
    elif entry.kind == "release":
        text = f"release    {body['bento_tag']}  of {body['model_version']} on verdict {body['verdict_id'][:SHORT]}"
    elif entry.kind == "key":
        text = f"key        {entry.subject}  {body.get('name', '')} {' '.join(body.get('scopes', ()))}"
    elif entry.kind == "look":
        text = f"look       by {body['by']}  at the open exam's figures of verdict {body['verdict_id'][:SHORT]}"
    elif entry.kind == "seal":
        text = f"seal       {sum(table['num_rows'] for table in body['tables'].values())} rows and objects"
    else:
        name = "promotion" if body["action"] == "promote" else body["action"].replace("_", " ")
        moved = f"generation {body['generation']}: {body['champion_version']}"
        text = f"{name:<9}  {moved}  by {body['actor']}: {body['reason']}"
    return " ".join(text.splitlines())


def parse_time(text: str, *, now: dt.datetime) -> dt.datetime:
    """Return an ISO time; one without a time zone is UTC.

    Raises:
        ConfigError: it is none, or lies in the future.
    """
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--at must be an ISO time such as 2026-11-21T14:00:00Z (got {text!r}).") from None
    at = at.replace(tzinfo=dt.UTC) if at.tzinfo is None else at.astimezone(dt.UTC)
    if at > now:
        raise ConfigError(f"--at must be a time that has come (got {at.isoformat()}, now is {now.isoformat()}).")
    return at


def served_at(records: Sequence[RouteRecord], *, at: dt.datetime) -> tuple[RouteRecord | None, RouteRecord | None]:
    """Return the generation that served at a time and the one that followed it; `records` are oldest first."""
    number = max((number for number, record in enumerate(records, start=1) if record.created_at <= at), default=0)
    return (records[number - 1] if number else None), (records[number] if number < len(records) else None)


def history_at(database: Database, store: ObjectStore, project: str, *, at: dt.datetime) -> dict[str, Any]:
    """Return what served at a time, since and until when, by which verdict, who approved it and why."""
    record, following = served_at(ServingRepository(database).records(project), at=at)
    state: dict[str, Any] = {"project": project, "at": at, "until": following.created_at if following else None}
    if record is None:
        return state | {"champion": None}
    verdict = VerdictRepository(database).find(project, record.verdict_id)
    answer = ApprovalRepository(database).latest(project, record.verdict_id)
    entry = LedgerRepository(database).find(project, "route", record.route.commit_id)
    return state | {
        "champion": record.route.champion_version,
        "generation": record.route.generation,
        "shares": {target.model_version: target.weight for target in record.route.entries},
        "since": record.created_at,
        "action": record.action,
        "actor": record.actor,
        "reason": record.reason,
        "verdict": _verdict_facts(database, store, record.verdict_id, verdict),
        "approval": {"decision": answer.decision, "by": answer.by, "at": answer.at, "reason": answer.reason}
        if answer
        else None,
        "entry_hash": entry.entry_hash if entry else None,
    }


def _verdict_facts(
    database: Database, store: ObjectStore, verdict_id: str, record: VerdictRecord | None
) -> dict[str, Any]:
    if record is None:
        return {"verdict_id": verdict_id, "answer": None, "reasons": (), "at": None}
    answer = {
        "answer": record.ref.answer,
        "reasons": told_reasons(database, store, record),
        "at": record.created_at,
    }
    return {"verdict_id": verdict_id, **answer}


def at_text(state: Mapping[str, Any]) -> str:
    """Return the answer of `history_at` for people."""
    project, at = state["project"], f"{state['at']:%Y-%m-%d %H:%M:%S} UTC"
    until = f"until {state['until']:%Y-%m-%d %H:%M:%S}" if state["until"] else "to this day"
    if state["champion"] is None:
        return f"At {at} nothing of {project} served, {until}."
    shares = ", ".join(f"{version} {weight} %" for version, weight in state["shares"].items())
    verdict, answer = state["verdict"], state["approval"]
    judged = f"said {verdict['answer']}: {'; '.join(verdict['reasons'])}" if verdict["answer"] else "is not recorded"
    approved = "nobody was asked"
    if answer:
        said = SAID.get(answer["decision"], answer["decision"])
        approved = f"{said}, by {answer['by']} at {answer['at']:%Y-%m-%d %H:%M:%S}: {answer['reason']}"
    return "\n".join(
        (
            f"At {at} {project} served {state['champion']} (generation {state['generation']}: {shares}).",
            f"since     {state['since']:%Y-%m-%d %H:%M:%S}, {until}",
            f"how       {state['action']} by {state['actor']}: {state['reason']}",
            f"verdict   {verdict['verdict_id'][:SHORT]} {judged}",
            f"approval  {approved}",
        )
    )


def parse_anchors(texts: Sequence[str], *, projects: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """Return the anchors by project; `SEQ:HASH` will do where there is one project with a ledger.

    Raises:
        ConfigError: an anchor is not of that form, or the project is not clear.
    """
    anchors: dict[str, list[tuple[int, str]]] = {}
    projects = [name for name in projects if name != KEYS]  # a chain that nobody means without naming it
    for text in texts:
        *names, sequence, entry_hash = ["", "", *text.split(":")][-3:]
        project = next(iter(name for name in names if name), None)
        is_hash = len(entry_hash) == 64 and set(entry_hash) <= set("0123456789abcdef")
        if not (sequence.isdecimal() and is_hash) or text.count(":") > 2:
            raise ConfigError(
                f"--anchor must be PROJECT:SEQ:HASH with the whole hash (got {text!r}). "
                "`dethrone history <project>` prints that of the newest entry."
            )
        if project is None and len(projects) != 1:
            raise ConfigError(f"--anchor must name its project (got {text!r}). Known: {', '.join(projects) or 'none'}.")
        anchors.setdefault(project or projects[0], []).append((int(sequence), entry_hash))
    return anchors
