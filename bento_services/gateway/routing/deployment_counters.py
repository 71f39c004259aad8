"""Exact counts of each deployment's requests under a route, by which a rollout is judged.

Counted is the first deployment that the share gave a request to, once per request: a replay elsewhere says nothing of
that one's traffic, and a version that the caller named was not drawn by chance. A shadow's mirrors count as requests,
and in pairs with what the champion did with the same request: so users of unequal kinds make no difference.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import Counter
from itertools import accumulate
from typing import Any

from bento_services.gateway.routing.inference_client import Failed, Rejected, Reply
from bento_services.gateway.routing.routes import ProjectRoute
from pipeline_tasks.contracts import RouteEntry

EDGES_MS = tuple(round(0.5 * 1.05**number, 4) for number in range(243))  # 0.5 ms to 67 s, each 5 % above the last


@dataclasses.dataclass(slots=True)
class Account:
    """One deployment's requests under one generation: `asked` is the sum of `latency_counts`, errors are among them.

    `slower_steps` and `faster_steps` are by edge the change in how many mirrors took longer than it where the champion
    did not, and the other way round.
    """

    model_version: str
    asked: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    latency_counts: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))
    compared: int = 0
    disagreed: int = 0
    paired: int = 0
    only_it_failed: int = 0
    only_champion_failed: int = 0
    slower_steps: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))
    faster_steps: list[int] = dataclasses.field(default_factory=lambda: [0] * (len(EDGES_MS) + 1))

    def as_json(self) -> dict[str, Any]:
        """Return what the accounts of a route tell of this deployment."""
        fields = dataclasses.asdict(self)
        slower, faster = (list(accumulate(fields.pop(name)))[:-1] for name in ("slower_steps", "faster_steps"))
        return {**fields, "errors": dict(self.errors), "slower": slower, "faster": faster}


@dataclasses.dataclass(frozen=True, slots=True)
class FirstReply:
    """Outcome of a request at the deployment that the share gave, before anybody else was asked."""

    entry: RouteEntry
    seconds: float
    error: str | None


class Accounts:
    """The accounts of each project's newest generation; an older one's late answers are dropped. In one event loop."""

    def __init__(self) -> None:
        self._generations: dict[str, int] = {}
        self._accounts: dict[str, dict[str, Account]] = {}

    def answered(self, route: ProjectRoute, entry: RouteEntry, *, seconds: float, error: str | None) -> None:
        """Count one request, how long the deployment took, and what went wrong, if anything."""
        account = self._account(route, entry)
        if account is None:
            return
        account.asked += 1
        account.latency_counts[_edge_of(seconds)] += 1
        if error is not None:
            account.errors[error] += 1

    def paired(
        self, route: ProjectRoute, entry: RouteEntry, *, seconds: float, error: str | None, champion: FirstReply
    ) -> None:
        """Count one mirrored request beside what the champion did with it."""
        account = self._account(route, entry)
        if account is None:
            return
        account.paired += 1
        account.only_it_failed += error is not None and champion.error is None
        account.only_champion_failed += error is None and champion.error is not None
        mine, champions = _edge_of(seconds), _edge_of(champion.seconds)
        steps = account.slower_steps if mine > champions else account.faster_steps
        steps[min(mine, champions)] += 1
        steps[max(mine, champions)] -= 1

    def compared(self, route: ProjectRoute, entry: RouteEntry, *, agreed: bool) -> None:
        """Count one mirrored request that both the champion and the shadow answered."""
        account = self._account(route, entry)
        if account is not None:
            account.compared += 1
            account.disagreed += not agreed

    def read(self, route: ProjectRoute) -> dict[str, Any]:
        """Return the accounts of a route's generation as JSON; no deployments before its first answer."""
        current = self._generations.get(route.project) == route.generation
        accounts = self._accounts.get(route.project, {}) if current else {}
        return {
            "project": route.project,
            "generation": route.generation,
            "edges_ms": list(EDGES_MS),
            "deployments": [{"deployment_id": name, **account.as_json()} for name, account in sorted(accounts.items())],
        }

    def _account(self, route: ProjectRoute, entry: RouteEntry) -> Account | None:
        newest = self._generations.get(route.project, 0)
        if route.generation < newest:
            return None
        if route.generation > newest:
            self._generations[route.project] = route.generation
            self._accounts[route.project] = {}
        return self._accounts[route.project].setdefault(entry.deployment_id, Account(entry.model_version))


def error_of(reply: Reply) -> str | None:
    """Return how a deployment failed a request, None if it did not; who rejects an item may be right."""
    return reply.kind if isinstance(reply, Failed) else "rejected" if isinstance(reply, Rejected) else None


def _edge_of(seconds: float) -> int:
    return bisect.bisect_left(EDGES_MS, seconds * 1000)
