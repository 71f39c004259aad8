"""Ship sealed segments of the prediction log to the object store, from a thread; serving never waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from bento_services.gateway.metrics import GatewayMetrics
from bento_services.gateway.prediction_log.spool import Spool
from bento_services.gateway.prediction_log.uploader import Uploaded

STOP_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Shipper:
    """Every few seconds: seal, have each segment uploaded, delete it.

    A part's key is its content's digest and an existing object is left alone, so shipping a segment again after a
    crash or a lost answer adds nothing.
    """

    def __init__(
        self, spool: Spool, upload: Callable[[Path], Uploaded], *, metrics: GatewayMetrics, interval_seconds: float
    ) -> None:
        self._spool = spool
        self._upload = upload
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
        """Ship every record written so far; False when that is not possible now. One bad segment holds up no other."""
        with self._shipping:
            self._spool.seal()
            is_all = True
            for segment in self._spool.sealed():
                is_all = self._ship_segment(segment) and is_all
                if self._away:
                    break
                self._spool.seal()  # a long queue of segments keeps no record from the disk
            return is_all

    def _run(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            self._ship_or_say_why()
        self._ship_or_say_why()

    def _ship_or_say_why(self) -> None:
        try:
            self.ship()
        except Exception:
            logger.exception("the prediction log was not shipped; it is tried again")
            self._metrics.add("dethrone_log_ship_failures_total")

    def _ship_segment(self, segment: Path) -> bool:
        uploaded = self._upload(segment)
        if uploaded.failure is not None:
            if not (uploaded.is_store_away and self._away):  # said once, until it is back
                logger.warning("the prediction log waits here: %s", uploaded.failure)
            self._away = uploaded.is_store_away
            self._metrics.add("dethrone_log_ship_failures_total")
            return False
        if self._away:
            logger.info("the store takes the prediction log again")
        self._away = False
        if uploaded.damage is not None:
            logger.error("segment %s: %s; the records before are shipped", segment.name, uploaded.damage)
            self._metrics.add("dethrone_log_damaged_segments_total")
        self._spool.remove(segment)
        self._metrics.add("dethrone_log_parts_total", uploaded.num_parts)
        self._metrics.add("dethrone_log_shipped_records_total", uploaded.num_records)
        return True
