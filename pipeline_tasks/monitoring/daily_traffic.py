"""The traffic of a project's newest day, from the prediction log."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from functools import partial

import pyarrow.compute as pc

from pipeline_tasks.core.ports import ObjectStore
from pipeline_tasks.deployment.canary_schedule import Traffic
from pipeline_tasks.errors import PipelineError
from pipeline_tasks.monitoring.prediction_log import ANSWERED, PredictionLog, StoredPart

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
    since, log = now - dt.timedelta(minutes=MINUTES), PredictionLog(store, project)
    keys, newest = log.object_keys(), log.object_keys(since=since.date())
    step = max(1, -(-len(newest) // MOST_PARTS))
    read = newest[::step]
    counts: Counter[int] = Counter()
    for minutes in log.each(read, partial(_minutes, since=since)):
        counts += minutes
    counted = {minute: num for minute, num in counts.items() if 0 <= minute < MINUTES}
    if not counted:
        return None
    is_older = len(newest) < len(keys) or min(counts) < 0
    first = 0 if is_older else min(counted)
    scale = len(newest) / len(read)
    return Traffic(tuple(scale * counted.get(minute, 0) for minute in range(first, MINUTES)))


def _minutes(part: StoredPart, *, since: dt.datetime) -> Counter[int]:
    """Return the answered requests of a part by minute after `since`."""
    times = part.table(["at_ms"], where=ANSWERED & pc.field("at_ms").is_valid())["at_ms"].to_pylist()
    begin = int(since.timestamp() * 1000)
    return Counter((at_ms - begin) // 60_000 for at_ms in times)
