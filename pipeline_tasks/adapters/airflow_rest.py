"""Airflow's public REST API, as a user's script would use it: trigger, watch, answer."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import tenacity

from pipeline_tasks.errors import PermanentError, ServiceUnavailable

TERMINAL = frozenset({"success", "failed"})
PATIENCE_SECONDS = 120.0  # a killed API server needs half a minute to be back, on a busy machine more
LONGEST_PAUSE_SECONDS = 5.0


class AirflowRest:
    """A client of `/api/v2` with a name and a password; asks again while Airflow answers 5xx or not at all.

    What it repeats has happened once: a run has the id that its first request gave it.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str,
        password: str,
        timeout_seconds: float = 30.0,
        patience_seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._login = {"username": username, "password": password}
        self._client = httpx.Client(timeout=timeout_seconds, trust_env=False)
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._token: str | None = None

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run by hand and return its id."""
        run_id = f"manual__{dt.datetime.now(dt.UTC).isoformat()}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        self._call("POST", f"/dags/{dag_id}/dagRuns", json=body)
        return run_id

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self._call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")

    def runs(self, dag_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest runs of a DAG, newest first."""
        params = {"order_by": "-run_after", "limit": str(limit)}
        return list(self._call("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        return list(self._call("GET", path)["task_instances"])

    def tasks_since(self, dag_prefix: str, since: dt.datetime) -> list[dict[str, Any]]:
        """Return the task instances that started since, of the DAGs whose ids begin so, oldest first."""
        params = {"start_date_gte": since.isoformat(), "order_by": "start_date", "limit": "500"}
        instances = self._call("GET", "/dags/~/dagRuns/~/taskInstances", params=params)["task_instances"]
        return [task for task in instances if task["dag_id"].startswith(dag_prefix)]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned (its XCom), or None."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/return_value"
        try:
            return self._call("GET", path)["value"]
        except KeyError:
            return None

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int) -> str:
        """Return a task attempt's log as text."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/{try_number}"
        lines = self._call("GET", path, params={"full_content": "true"})["content"]
        return "\n".join(str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in lines)

    def dag_ids(self) -> set[str]:
        return {dag["dag_id"] for dag in self._call("GET", "/dags", params={"limit": "500"})["dags"]}

    def delete(self, dag_id: str) -> None:
        """Take a DAG and what Airflow remembers of its runs away; no error if it is gone."""
        with contextlib.suppress(KeyError):
            self._call("DELETE", f"/dags/{dag_id}")

    def import_errors(self) -> list[str]:
        """Return the stack traces of DAG files that cannot be loaded."""
        return [error["stack_trace"] for error in self._call("GET", "/importErrors")["import_errors"]]

    def pending_approvals(self) -> list[dict[str, Any]]:
        """Return the human tasks that wait for an answer."""
        path = "/dags/~/dagRuns/~/hitlDetails"
        return list(self._call("GET", path, params={"response_received": "false"})["hitl_details"])

    def answer(self, dag_id: str, run_id: str, *, approve: bool, reason: str, task_id: str = "approve") -> None:
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/-1/hitlDetails"
        body = {"chosen_options": ["Approve" if approve else "Reject"], "params_input": {"reason": reason}}
        self._call("PATCH", path, json=body)

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task and all behind it: they run again."""
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [task_id], "include_downstream": True}
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", json={**body, "only_failed": False})

    def watch(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout_seconds: float,
        interval_seconds: float = 1.0,
    ) -> str:
        """Wait for a run's end and return its state.

        Raises:
            ServiceUnavailable: it has not ended in time.
        """
        for _ in _ticks(timeout_seconds, interval_seconds):
            state = str(self.run(dag_id, run_id)["state"])
            if state in TERMINAL:
                return state
        raise ServiceUnavailable(f"{dag_id} {run_id} must end within {timeout_seconds:.0f} s (got: still running).")

    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            stop=tenacity.stop_after_delay(self._patience_seconds),
            wait=tenacity.wait_exponential(multiplier=0.5, max=LONGEST_PAUSE_SECONDS),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            for attempt in tries:
                with attempt:
                    answer = self._send(method, path, **kwargs)
                    if answer.status_code >= 500:
                        answer.raise_for_status()
        except httpx.HTTPError as error:
            got = f"HTTP {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else repr(error)
            raise ServiceUnavailable(
                f"Airflow must answer {method} {path} (got {got}). See `dethrone status`."
            ) from error
        if answer.status_code == 409 and tries.statistics["attempt_number"] > 1:
            return {}  # an earlier try went through although its answer was lost
        return self._checked(answer, path)

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        answer = self._request(method, path, **kwargs)
        if answer.status_code == 401:
            self._token = None
            answer = self._request(method, path, **kwargs)
        return answer

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        if self._token is None:
            granted = self._client.post(f"{self._url}/auth/token", json=self._login)
            if granted.status_code in {401, 403}:
                raise PermanentError("Airflow must accept the password in the secrets folder (got 401).", code="AUTH")
            granted.raise_for_status()
            self._token = granted.json()["access_token"]
        headers = {"Authorization": f"Bearer {self._token}"}
        return self._client.request(method, f"{self._url}/api/v2{path}", headers=headers, **kwargs)

    @staticmethod
    def _checked(answer: httpx.Response, path: str) -> dict[str, Any]:
        if answer.status_code == 404:
            raise KeyError(path)
        if answer.status_code >= 400:
            raise PermanentError(f"Airflow must accept {path} (got {answer.status_code}: {answer.text[:300]}).")
        return dict(answer.json()) if answer.content else {}


def _ticks(timeout_seconds: float, interval_seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(interval_seconds)
