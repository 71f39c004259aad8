"""The deployment target of a Kubernetes cluster: each release is a Deployment with all that keeps it up, applied whole.

Server-side apply makes every step repeatable, and the labels are the memory: what a crashed attempt left is found,
completed or removed. Needs the official client (requirements/cluster.lock).
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from pipeline_tasks.adapters.docker_target import RunnableImage
from pipeline_tasks.adapters.kubernetes_manifests import (
    DEPLOYMENT,
    INSTANCE,
    KINDS,
    MANAGED_BY,
    MANAGER,
    PORT,
    SERVICE,
    STOP_SECONDS,
    Kind,
    manifests,
)
from pipeline_tasks.core.crash_points import crash_point
from pipeline_tasks.core.ports import ServerHandle
from pipeline_tasks.errors import ConfigError, PermanentError, ServiceUnavailable
from pipeline_tasks.project.serving_schema import KubernetesServing

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 30
TAIL_LINES = 15
MAX_RESTARTS = 3
STOP_WAIT_SECONDS = STOP_SECONDS + 60
# A pod that waits for one of these will not start by being waited for.
HOPELESS = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"})
_DEPLOYMENT_ID = re.compile(r"[a-z]([a-z0-9-]{0,51}[a-z0-9])?")
_PODS = Kind("v1", "Pod", "pods")


def connect() -> Any:
    """Return the official client's connection: the pod's own service account, else the caller's kubeconfig.

    Raises:
        ConfigError: the client is not installed, or neither names a cluster.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise ConfigError(
            "the official Kubernetes client must be installed (got none). "
            "Install requirements/cluster.lock, or use the image of deploy/docker/airflow."
        ) from None
    try:
        config.load_config()
    except config.ConfigException as error:
        raise ConfigError(
            f"a Kubernetes cluster must be named by a service account or a kubeconfig (got {error}). Set KUBECONFIG."
        ) from error
    return client.ApiClient()


class KubernetesTarget:
    """Implements `ports.DeploymentTarget` in one namespace, which belongs to one installation.

    Every call raises ServiceUnavailable (CLUSTER_AWAY) while the API server does not answer.
    """

    def __init__(
        self,
        *,
        config: KubernetesServing,
        publish: Callable[[str], RunnableImage],
        api: Callable[[], Any] = connect,
        poll_seconds: float = 0.5,
    ) -> None:
        self._config = config
        self._publish = publish
        self._connect = api
        self._poll_seconds = poll_seconds

    @cached_property
    def _api(self) -> Any:
        return self._connect()

    def start(self, *, deployment_id: str, bento_tag: str, environment: Mapping[str, str]) -> ServerHandle:
        """Apply (again) every object of a server; returns before it is ready.

        Raises:
            ConfigError: the id cannot name a Service.
            PermanentError: the cluster refuses an object, or somebody else manages one of its fields.
        """
        name = _checked(deployment_id)
        try:
            image = self._publish(bento_tag)
        except ServiceUnavailable as error:
            if self._get(DEPLOYMENT, name) is None:
                raise
            logger.warning("%s is taken as it runs in the cluster: %s", name, error)
            return ServerHandle(deployment_id=deployment_id, address=self.address(deployment_id))
        told = {"OMP_NUM_THREADS": "1", **image.environment, **environment}
        for kind, body in manifests(name, config=self._config, image=image.reference, environment=told):
            self._call(
                "PATCH",
                kind.path(self._config.namespace, name),
                query=[("fieldManager", MANAGER), ("force", "false")],
                body=body,
            )
            if kind == SERVICE:
                crash_point("ship.service.after")
        crash_point("ship.apply.after")
        return ServerHandle(deployment_id=deployment_id, address=self.address(deployment_id))

    def address(self, deployment_id: str) -> str:
        """Return where a deployment listens, inside of the cluster."""
        return f"http://{deployment_id}.{self._config.namespace}.svc:{PORT}"

    def wait_ready(self, deployment_id: str, *, timeout_seconds: float) -> None:
        """Return when as many pods as asked for say that they can predict.

        Raises:
            ServiceUnavailable: it cannot start, or took too long; the message holds its last log lines.
        """
        name = _checked(deployment_id)
        deadline = time.monotonic() + timeout_seconds
        reason = f"no answer in {timeout_seconds:.0f} s"
        while time.monotonic() < deadline:
            deployment = self._get(DEPLOYMENT, name)
            if deployment is None:
                reason = "no such Deployment"
                break
            if _is_ready(deployment):
                return
            given_up = _gave_up(deployment, self._pods(name))
            if given_up is not None:
                reason = given_up
                break
            time.sleep(self._poll_seconds)
        raise ServiceUnavailable(
            f"deployment {deployment_id} must become ready (got {reason}). {self.describe(deployment_id)}",
            code="DEPLOYMENT_NOT_READY",
        )

    def stop(self, deployment_id: str) -> None:
        """Delete every object and wait until the pods have answered what they had; no error if it is gone."""
        name = _checked(deployment_id)
        for kind in reversed(KINDS):  # the autoscaler first: it must not bring pods back
            body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
            self._call("DELETE", kind.path(self._config.namespace, name), body=body, missing_ok=True)
            crash_point("ship.delete.after")
        deadline = time.monotonic() + STOP_WAIT_SECONDS
        while self._pods(name) and time.monotonic() < deadline:
            time.sleep(self._poll_seconds)

    def list(self) -> Mapping[str, str]:
        """Return deployment id -> state of everything of this namespace, also what a crash left half applied."""
        states: dict[str, str] = {}
        for kind in KINDS:
            listed = self._call(
                "GET", kind.path(self._config.namespace), query=[("labelSelector", f"{MANAGED_BY}={MANAGER}")]
            )
            for manifest in listed["items"]:
                name = manifest["metadata"]["labels"].get(INSTANCE, manifest["metadata"]["name"])
                states.setdefault(name, "incomplete")
                if kind == DEPLOYMENT:
                    states[name] = "ready" if _is_ready(manifest) else "starting"
        return states

    def describe(self, deployment_id: str) -> str:
        """Return what a person needs to know of a server that failed: its pods' states and the last log lines."""
        pods = self._pods(_checked(deployment_id))
        if not pods:
            return "It has no pods."
        name = pods[0]["metadata"]["name"]
        states = "; ".join(f"{pod['metadata']['name']} {_pod_state(pod)}" for pod in pods)
        log = self._call(
            "GET",
            f"{_PODS.path(self._config.namespace, name)}/log",
            query=[("tailLines", str(TAIL_LINES))],
            missing_ok=True,
            text=True,
        )
        return f"Its pods: {states}. The last log lines of {name}:\n{(log or '(no log yet)').strip()}"

    def _get(self, kind: Kind, name: str) -> Mapping[str, Any] | None:
        manifest: Mapping[str, Any] | None = self._call("GET", kind.path(self._config.namespace, name), missing_ok=True)
        return manifest

    def _pods(self, name: str) -> Sequence[Mapping[str, Any]]:
        query = [("labelSelector", f"{INSTANCE}={name},{MANAGED_BY}={MANAGER}")]
        pods: Sequence[Mapping[str, Any]] = self._call("GET", _PODS.path(self._config.namespace), query=query)["items"]
        return pods

    def _call(
        self,
        verb: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        missing_ok: bool = False,
        text: bool = False,
    ) -> Any:
        """Send one request; None where what it names is missing and may be."""
        content = "application/apply-patch+yaml" if verb == "PATCH" else "application/json"
        with _cluster_errors(path):
            from kubernetes.client import ApiException

            try:
                answer = self._api.call_api(
                    path,
                    verb,
                    query_params=[*query],
                    header_params={"Accept": "*/*" if text else "application/json", "Content-Type": content},
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _return_http_data_only=True,
                    _request_timeout=REQUEST_SECONDS,
                )
            except ApiException as error:
                if missing_ok and error.status in {400, 404} and (text or error.status == 404):
                    return None
                raise
            data = answer.data.decode(errors="replace")
        return data if text else json.loads(data)


@contextmanager
def _cluster_errors(path: str) -> Iterator[None]:
    """Translate what the client raises."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        said = _message(error)
        if error.status in {408, 429} or error.status == 0 or error.status >= 500:
            raise ServiceUnavailable(
                f"the Kubernetes API must do what it is asked at {path} (got HTTP {error.status}: {said}). "
                "The champion keeps serving.",
                code="CLUSTER_FAILED",
            ) from error
        raise PermanentError(
            f"the Kubernetes API must take {path} (got HTTP {error.status}: {said}). Look at the service account's "
            "rights (deploy/kubernetes/base/shipper.yaml) and at who else changes it. The champion keeps serving.",
            code="CLUSTER_REFUSED",
        ) from error
    except (HTTPError, OSError) as error:
        raise ServiceUnavailable(
            f"the Kubernetes API must answer (got {type(error).__name__}). The champion keeps serving.",
            code="CLUSTER_AWAY",
        ) from error


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])[:400]
    except (ValueError, LookupError, TypeError):
        return str(error.reason)[:400]


def _checked(deployment_id: str) -> str:
    if not _DEPLOYMENT_ID.fullmatch(deployment_id):
        raise ConfigError(
            "deployment_id must be 1 to 53 lower-case letters, digits and dashes, a letter first and no dash last "
            f"(got {deployment_id!r}). It names a Service: give the project a shorter name in lower case."
        )
    return deployment_id


def _is_ready(deployment: Mapping[str, Any]) -> bool:
    """Return whether the cluster has seen the newest spec and all of its pods, at least one, are ready."""
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
    wanted = max(1, int(deployment["spec"].get("replicas") or 1))
    return bool(seen and status.get("readyReplicas", 0) >= wanted and status.get("updatedReplicas", 0) >= wanted)


def _gave_up(deployment: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why waiting will not help, or None."""
    for condition in (deployment.get("status") or {}).get("conditions", ()):
        if condition.get("reason") in {"ProgressDeadlineExceeded", "FailedCreate"}:
            return f"{condition['reason']}: {condition.get('message', '')}"
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses", ()):
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in HOPELESS:
                return f"{waiting['reason']}: {waiting.get('message', '')}"
            if container.get("restartCount", 0) >= MAX_RESTARTS:
                return f"{container['restartCount']} restarts"
    return None


def _pod_state(pod: Mapping[str, Any]) -> str:
    status = pod.get("status") or {}
    unmet = [condition for condition in status.get("conditions", ()) if condition.get("reason") == "Unschedulable"]
    if unmet:
        return f"cannot be placed ({unmet[0].get('message', '')})"
    killed = [
        (container.get("lastState") or {}).get("terminated") or {} for container in status.get("containerStatuses", ())
    ]
    reasons = [str(ending["reason"]) for ending in killed if ending.get("reason")]
    return ", ".join([str(status.get("phase", "unknown")), *reasons])
