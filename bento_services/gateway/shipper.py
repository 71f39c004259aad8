"""Ship sealed segments of the prediction log to the object store, from a thread; serving never waits for it."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bento_services.gateway.config import StoreConfig
from bento_services.gateway.metrics import Metrics
from bento_services.gateway.records import LogRecord, read_records, to_parts
from bento_services.gateway.spool import Spool

Put = Callable[[str, bytes], None]

CONNECT_SECONDS = 2
READ_SECONDS = 20
STOP_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Shipper:
    """Every few seconds: seal, write each segment's parts, delete the segment.

    A part's key is its content's digest and an existing object is left alone, so shipping a segment again after a
    crash or a lost answer adds nothing.
    """

    def __init__(self, spool: Spool, put: Put, *, metrics: Metrics, interval_seconds: float) -> None:
        self._spool = spool
        self._put = put
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._stop = threading.Event()
        self._shipping = threading.Lock()
        self._away = False
        self._thread = threading.Thread(target=self._run, name="log-shipper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ship what there is, once, and end; what cannot be shipped waits for the next start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=STOP_SECONDS)

    def ship(self) -> bool:
        """Ship every record written so far; False when the store does not take them now."""
        with self._shipping:
            self._spool.seal()
            return all(self._ship_segment(segment) for segment in self._spool.sealed())

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self.ship()
        self.ship()

    def _ship_segment(self, segment: Path) -> bool:
        try:
            data = segment.read_bytes()
        except FileNotFoundError:  # another gateway on this folder has shipped it
            return True
        records = self._read(segment.name, data)
        try:
            for key, part in to_parts(records).items():
                self._put(key, part)
                self._metrics.add("dethrone_log_parts_total")
        except Exception as error:  # noqa: BLE001  whatever the store's client raises: try again at the next interval
            if not self._away:
                logger.warning("the store does not take the prediction log (%s); it waits here", type(error).__name__)
            self._away = True
            self._metrics.add("dethrone_log_ship_failures_total")
            return False
        if self._away:
            logger.info("the store takes the prediction log again")
        self._away = False
        with contextlib.suppress(FileNotFoundError):
            self._spool.remove(segment)
        self._metrics.add("dethrone_log_shipped_records_total", len(records))
        return True

    def _read(self, name: str, data: bytes) -> list[LogRecord]:
        """Return a segment's whole records; a damaged rest is counted, so that it does not block what follows."""
        records, end = [], 0
        try:
            for record, behind in read_records(data):
                records.append(record)
                end = behind
        except (ValueError, TypeError, KeyError) as error:
            logger.error("segment %s has a record of another format: %s", name, error)  # noqa: TRY400
        if end != len(data):
            logger.error("segment %s cannot be read behind byte %d; the records before are shipped", name, end)
            self._metrics.add("dethrone_log_damaged_segments_total")
        return records


def s3_put(read_config: Callable[[], StoreConfig]) -> Put:
    """Return a function that writes an object unless it exists; address and keys are read at its first use."""
    clients: list[tuple[Any, str]] = []

    def put(key: str, data: bytes) -> None:
        from botocore.exceptions import ClientError

        if not clients:
            config = read_config()
            clients.append((_s3_client(config), config.bucket))
        client, bucket = clients[0]
        try:
            client.put_object(
                Bucket=bucket, Key=key, Body=data, ContentType="application/vnd.apache.parquet", IfNoneMatch="*"
            )
        except ClientError as error:
            if (
                error.response["ResponseMetadata"]["HTTPStatusCode"] != 412
            ):  # it lies there already: same key, same bytes
                clients.clear()
                raise

    return put


def _s3_client(config: StoreConfig) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"max_attempts": 1, "mode": "standard"},
        ),
    )
