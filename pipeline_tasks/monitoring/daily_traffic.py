"""The traffic of a project's newest day, from the prediction log."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter

import pyarrow.compute as pc

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.deployment.canary_schedule import Traffic
from pipeline_tasks.errors import DataCorrupt, PipelineError
from pipeline_tasks.monitoring.log_parts import read_columns

MINUTES = 24 * 60
MOST_PARTS = 300  # more are sampled evenly: a part holds the payloads, too

_log = logging.getLogger(__name__)


def newest_day(store: ObjectStore, project: str, *, now: dt.datetime) -> Traffic | None:
    """Return the answered requests of the last 24 hours by minute; None where none is known.

    A service that is younger than a day has the minutes since its first request.
    """
    try:
        return _read(store, project, now=now)
    except PipelineError as error:
        _log.warning("the traffic of %s is not known: %s", project, error)
        return None


def _read(store: ObjectStore, project: str, *, now: dt.datetime) -> Traffic | None:
    since, prefix = now - dt.timedelta(minutes=MINUTES), f"predictions/{project}/"
    keys = [info.key for info in store.list(prefix)]
    newest = [key for key in keys if key.removeprefix(prefix)[:10] >= since.date().isoformat()]
    step = max(1, -(-len(newest) // MOST_PARTS))
    read = newest[::step]
    minutes: Counter[int] = Counter()
    for key in read:
        minutes += _minutes(store, key, since=since)
    counted = {minute: num for minute, num in minutes.items() if 0 <= minute < MINUTES}
    if not counted:
        return None
    is_older = len(newest) < len(keys) or min(minutes) < 0
    first = 0 if is_older else min(counted)
    scale = len(newest) / len(read)
    return Traffic(tuple(scale * counted.get(minute, 0) for minute in range(first, MINUTES)))


def _minutes(store: ObjectStore, key: str, *, since: dt.datetime) -> Counter[int]:
    """Return the requests of a part by minute after `since`; of a damaged one, none."""
    answered = (pc.field("kind") == "prediction") & (pc.field("status") == 200) & pc.field("at_ms").is_valid()
    try:
        times = read_columns(store.get(key), ["at_ms"], object_key=key, filters=answered)["at_ms"].to_pylist()
    except DataCorrupt as error:
        _log.warning("a part of the log is passed over: %s", error)
        return Counter()
    begin = int(since.timestamp() * 1000)
    return Counter((at_ms - begin) // 60_000 for at_ms in times)
