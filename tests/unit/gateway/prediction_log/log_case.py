"""Parts of the tests of the prediction log: a record, and a store that fails as it is told."""

import functools
import io

import pyarrow.parquet as pq

from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.prediction_log.records import LogRecord, read_records
from bento_services.gateway.prediction_log.shipper import Shipper
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_log.uploader import upload

DAY_MS = 86_400_000
AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MIB = 1024 * 1024


def record(number: int = 0, **changes) -> LogRecord:
    fields = {
        "kind": "prediction",
        "prediction_id": f"p{number}",
        "request_id": f"r{number}",
        "project": "fashion",
        "at_ms": AT_MS + number,
        "status": 200,
        "client": "k1",
        "latency_ms": 1.5,
        "model_version": "A",
        "label": "bag",
        "confidence": 0.7,
        "scores": '{"bag":0.7}',
        "needs_review": False,
        "payload": b"\x89PNG\x00\xff",
        "payload_sha256": "d",
    }
    return LogRecord(**(fields | changes))


def spooled(spool: Spool) -> list[LogRecord]:
    spool.seal()
    return [entry for path in spool.sealed() for entry, _ in read_records(path.read_bytes())]


class Store:
    """A store whose next puts can fail, before or after they took effect."""

    def __init__(self):
        self.objects = {}
        self.num_puts = 0
        self.failures = []

    def put(self, key, data):
        self.num_puts += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure != "before":
            self.objects.setdefault(key, data)
        if failure is not None:
            raise OSError("away")

    def rows(self):
        tables = [pq.read_table(io.BytesIO(data)).to_pylist() for data in self.objects.values()]
        return [row for table in tables for row in table]


def shipper(spool, store, metrics=None):
    return Shipper(
        spool, functools.partial(upload, put=store.put), metrics=metrics or GatewayMetrics(), interval_seconds=0.01
    )
