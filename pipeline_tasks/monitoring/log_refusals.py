"""Refusals of the prediction log, named in quarantine: a part, a record, or the input of a prediction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable

from pipeline_tasks.catalog.items import Chunk, ItemRepository, Quarantined
from pipeline_tasks.contracts import Fence, sha256_hex
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.ingest.item_checks import MAX_KEPT_BYTES, Candidate, RejectedRow, printable_key
from pipeline_tasks.ingest.production_items import SOURCE, ProductionRecord, examine_record
from pipeline_tasks.project.schema import Project

STAGE = "monitor"


def examine_input(record: ProductionRecord, *, payload_sha256: str, project: Project) -> Candidate | RejectedRow:
    """Return the candidate in a prediction's input, or why there is none, whatever its bytes do to a decoder."""
    digest = sha256_hex(record.data)
    key = printable_key(record.prediction_id)
    kept = None if project.deny_list and project.modality != "image" else record.data
    if digest != payload_sha256:
        reason = f"the input must be the one that was answered, {payload_sha256[:12]} (got {digest[:12]})."
        return RejectedRow(key, digest, "PAYLOAD_CHANGED", reason, kept)
    try:
        return examine_record(record, project=project)
    except Exception as error:  # noqa: BLE001  a record that upsets a library must not end the stage for the others
        reason = f"the input must be readable (got {type(error).__name__}: {error})."
        return RejectedRow(key, digest, "INPUT_UNREADABLE", reason, kept)


def refuse_part(object_key: str, data: bytes, *, code: str, reason: str) -> RejectedRow:
    """Return the refusal of a whole part; its bytes lie in the log and are read again with each run."""
    return RejectedRow(printable_key(object_key), sha256_hex(data), code, reason)


def quarantine(
    refused: Iterable[RejectedRow],
    *,
    project: str,
    items: ItemRepository,
    store: ObjectStore,
    fence: Fence,
    run_id: str,
    now: dt.datetime,
    hide: Callable[[str], str] = str,
) -> None:
    """Write down what was refused, with its bytes where they are at hand; repeating it changes nothing."""
    entries = []
    for refusal in refused:
        object_key = None
        if refusal.data and len(refusal.data) <= MAX_KEPT_BYTES:
            object_key = f"quarantine/{project}/{refusal.digest}"
            crash_point("monitor.quarantine.before")
            store.put(object_key, refusal.data)
            crash_point("monitor.quarantine.after")
        where = (STAGE, SOURCE, hide(refusal.key), refusal.digest)
        entries.append(Quarantined(*where, refusal.code, hide(refusal.reason), object_key, now))
    if entries:
        items.record(fence, Chunk(project, SOURCE, run_id, items=(), quarantined=entries))
        crash_point("monitor.quarantine.recorded")
