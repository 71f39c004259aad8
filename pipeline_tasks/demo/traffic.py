"""Production traffic for the demo: a client that keeps asking the gateway, and counts every answer."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
import time
from collections.abc import Mapping, Sequence

import httpx


@dataclasses.dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One request's end: the status (0 = no answer), the model that answered, and whether it was right."""

    status: int
    model_version: str
    right: bool
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class TrafficReport:
    """Counts and times of the answers that a client got."""

    num_requests: int
    num_failed: int
    failures: Mapping[str, int]
    accuracy_by_model: Mapping[str, float]
    p50_ms: float
    p99_ms: float


class TrafficClient:
    """Sends images to the gateway and knows the truth about them, which the gateway does not."""

    def __init__(self, url: str, *, project: str, api_key: str, truth: Mapping[bytes, str]) -> None:
        self._url = f"{url.rstrip('/')}/v1/projects/{project}/predict"
        self._truth = truth
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "image/png"}
        self._client = httpx.Client(timeout=30.0, trust_env=False)
        self.calls: list[RequestOutcome] = []

    def ask(self, image: bytes, *, user_key: str = "") -> dict[str, object]:
        """Send one image; a failure is counted, never raised."""
        began = time.monotonic()
        try:
            headers = {**self._headers, "X-User-Key": user_key} if user_key else self._headers
            answer = self._client.post(self._url, content=image, headers=headers)
            body = answer.json() if answer.status_code == 200 else {}
            status = answer.status_code
        except (httpx.HTTPError, ValueError) as error:
            body, status = {"error": type(error).__name__}, 0
        self.calls.append(
            RequestOutcome(
                status=status,
                model_version=str(body.get("model_version", "")),
                right=body.get("label") == self._truth.get(image),
                seconds=time.monotonic() - began,
            )
        )
        return body


def send_all(client: TrafficClient, images: Sequence[bytes], *, num_threads: int = 4) -> None:
    """Send each image once, a few at a time."""
    numbers = iter(range(len(images)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            client.ask(images[number], user_key=f"visitor-{number}")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Trickle:
    """Keeps asking at a steady rate until it is stopped: what must not notice a swap."""

    def __init__(self, client: TrafficClient, images: Sequence[bytes], *, per_second: float) -> None:
        self._client = client
        self._images = images
        self._pause = 1.0 / per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the request in flight."""
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        for number, image in enumerate(itertools.cycle(self._images)):
            if self._stop.wait(self._pause):
                return
            self._client.ask(image, user_key=f"visitor-{number % len(self._images)}")


def report_of(calls: Sequence[RequestOutcome]) -> TrafficReport:
    """Sum calls up: failures by kind, accuracy by the model that answered, latency percentiles in ms."""
    failures = collections.Counter(str(call.status or "no answer") for call in calls if call.status != 200)
    by_model: dict[str, list[bool]] = collections.defaultdict(list)
    for call in calls:
        if call.status == 200:
            by_model[call.model_version].append(call.right)
    times = sorted(call.seconds * 1000 for call in calls)
    return TrafficReport(
        num_requests=len(calls),
        num_failed=sum(failures.values()),
        failures=dict(failures),
        accuracy_by_model={version: sum(rights) / len(rights) for version, rights in by_model.items()},
        p50_ms=percentile(times, 0.50),
        p99_ms=percentile(times, 0.99),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending values; 0 for none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
