"""A circuit breaker per deployment: who fails in a row is passed over while another one is left, then tried again.

A route without another deployment is asked all the same: an error from the model is no worse than one from the breaker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from bento_services.gateway.metrics import Measured
from bento_services.gateway.routing.inference_client import Failed, Failure, Reply

State = Literal["closed", "open", "half_open"]

# A refused connection says enough; slowness and nonsense may be one request's.
FAILURES_TO_OPEN: dict[Failure, int] = {"unreachable": 1, "timeout": 3, "failed": 3, "nonsense": 3}
FIRST_OPEN_SECONDS = 1.0
LONGEST_OPEN_SECONDS = 16.0
PROBE_SECONDS = 10.0  # a probe that has said nothing by then is taken for lost


@dataclasses.dataclass(slots=True)
class _Breaker:
    since: float  # its first failure in a row
    failures: int = 0  # in a row
    open_until: float | None = None
    open_seconds: float = FIRST_OPEN_SECONDS
    probe_until: float | None = None


class Breakers:
    """The state of every deployment that failed lately; the others have none. Lives in one event loop."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._breakers: dict[str, _Breaker] = {}
        self.num_opened = 0

    def state(self, deployment_id: str) -> State:
        """Return `open` while a deployment is passed over, `half_open` while one request may try it."""
        breaker = self._breakers.get(deployment_id)
        if breaker is None or breaker.open_until is None:
            return "closed"
        return "open" if self._monotonic() < breaker.open_until else "half_open"

    def avoided(self) -> set[str]:
        """Return who is to be passed over: the open ones, and half-open ones that are being tried already."""
        return {name for name, breaker in self._breakers.items() if self._is_avoided(breaker)}

    def failing_since(self, deployment_id: str) -> float:
        """Return when the failures of a deployment began that has not answered since; now, if it has none."""
        breaker = self._breakers.get(deployment_id)
        return self._monotonic() if breaker is None else breaker.since

    def asked(self, deployment_id: str) -> None:
        """Note that a request goes there: for a half-open one, it is the probe."""
        breaker = self._breakers.get(deployment_id)
        if breaker is not None and breaker.open_until is not None:
            breaker.probe_until = self._monotonic() + PROBE_SECONDS

    def heard(self, deployment_id: str, reply: Reply) -> None:
        """Take in how a request ended. A good answer, or a verdict on the item itself, closes the breaker."""
        if not isinstance(reply, Failed):
            self._breakers.pop(deployment_id, None)
            return
        if reply.echo:
            return
        breaker = self._breakers.setdefault(deployment_id, _Breaker(self._monotonic()))
        breaker.probe_until = None
        if reply.kind == "overloaded":  # alive: it says itself when it has had enough
            return
        breaker.failures += 1
        if breaker.open_until is not None or breaker.failures >= FAILURES_TO_OPEN[reply.kind]:
            self._open(breaker)

    def forget(self, deployment_ids: set[str]) -> None:
        """Forget deployments that no route names any more."""
        for name in self._breakers.keys() - deployment_ids:
            del self._breakers[name]

    def gauges(self) -> list[Measured]:
        """Return 1 for an open deployment, 0.5 for a half-open one; closed ones that never failed have no line."""
        values = {"closed": 0.0, "half_open": 0.5, "open": 1.0}
        return [
            ("dethrone_breaker_open", values[self.state(name)], {"deployment": name}) for name in sorted(self._breakers)
        ]

    def _open(self, breaker: _Breaker) -> None:
        now = self._monotonic()
        if breaker.open_until is not None and now < breaker.open_until:
            return  # a straggler that was sent before it opened says nothing new
        if breaker.open_until is not None:
            breaker.open_seconds = min(2 * breaker.open_seconds, LONGEST_OPEN_SECONDS)
        breaker.open_until = now + breaker.open_seconds
        self.num_opened += 1

    def _is_avoided(self, breaker: _Breaker) -> bool:
        now = self._monotonic()
        is_open = breaker.open_until is not None and now < breaker.open_until
        return is_open or (breaker.probe_until is not None and now < breaker.probe_until)
