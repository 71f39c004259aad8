"""The gateway's administration side, as shipping sees it."""

from __future__ import annotations

from typing import Any

import httpx

from pipeline_tasks.contracts import DeploymentAccount, RouteAccounts
from pipeline_tasks.errors import PermanentError, ServiceUnavailable


class GatewayClient:
    """Asks a running gateway what it follows and what is in flight; needs a key with the scope `admin`."""

    def __init__(self, url: str, *, api_key: str, timeout_seconds: float = 5.0) -> None:
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_seconds,
            trust_env=False,
        )

    def followed_generation(self, project: str) -> int:
        """Return the route generation that the gateway serves by; 0 if it has none or does not answer."""
        try:
            body = self._get(f"/v1/projects/{project}")
        except ServiceUnavailable:
            return 0
        return int(body.get("generation", 0)) if body else 0

    def in_flight(self, deployment_id: str) -> int:
        """Return how many requests to this deployment are unanswered."""
        body = self._get("/internal/inflight", params={"deployment": deployment_id})
        return int(body["in_flight"]) if body else 0

    def accounts(self, project: str) -> RouteAccounts | None:
        """Return what each deployment did under the newest generation that is followed; None without an answer."""
        try:
            body = self._get(f"/internal/accounts/{project}")
        except (ServiceUnavailable, httpx.HTTPStatusError):  # the next look may have an answer
            return None
        if body is None:
            return None
        accounts = {
            str(account["deployment_id"]): DeploymentAccount(
                asked=int(account["asked"]),
                errors=sum(account["errors"].values()),
                latency_counts=tuple(account["latency_counts"]),
                compared=int(account["compared"]),
                disagreed=int(account["disagreed"]),
                # One that runs since before there were pairs tells of none.
                paired=int(account.get("paired", 0)),
                only_it_failed=int(account.get("only_it_failed", 0)),
                only_champion_failed=int(account.get("only_champion_failed", 0)),
                slower=tuple(account.get("slower", ())),
                faster=tuple(account.get("faster", ())),
            )
            for account in body["deployments"]
        }
        return RouteAccounts(int(body["generation"]), tuple(body["edges_ms"]), accounts)

    def counters(self) -> dict[str, float]:
        """Return the gateway's counters and gauges since its start, by name; those with labels are left out."""
        lines = self._ask("/metrics").raise_for_status().text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#") and "{" not in line)
        return {name: float(value) for name, value in pairs}

    def _ask(self, path: str, params: dict[str, str] | None = None) -> httpx.Response:
        try:
            return self._client.get(path, params=params)
        except httpx.HTTPError as error:
            raise ServiceUnavailable(f"the gateway must answer {path} (got {type(error).__name__}).") from error

    def _get(self, path: str, params: dict[str, str] | None = None) -> dict[str, Any] | None:
        answer = self._ask(path, params)
        if answer.status_code in {404, 503}:
            return None
        if answer.status_code in {401, 403}:
            raise PermanentError(
                "the gateway's key must have the scope admin (got "
                f"{answer.status_code}). `dethrone up` issues it; see `dethrone keys list`.",
                code="GATEWAY_AUTH",
            )
        answer.raise_for_status()
        return dict(answer.json())
