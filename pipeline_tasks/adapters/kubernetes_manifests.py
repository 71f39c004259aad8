"""Manifests of a release on Kubernetes: pure functions from a deployment to the objects that are applied."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_tasks.project.serving_schema import KubernetesServing

PORT = 3000
UID = 1034  # of the base image: its passwd names it, and programs ask who they are
MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
MANAGER = "dethrone"
DRAIN_SECONDS = 5  # a removed pod still gets requests until every node knows that it is gone
STOP_SECONDS = 60  # in-flight requests end within this time, then SIGKILL
START_SECONDS = 240


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object that we apply: its API and the plural in its path."""

    api: str
    name: str
    plural: str

    def path(self, namespace: str, name: str = "") -> str:
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        return f"{root}/namespaces/{namespace}/{self.plural}{'/' + name if name else ''}"


DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
SERVICE = Kind("v1", "Service", "services")
# In the order in which they are applied: what limits a server and what finds it is there before the server is.
KINDS = (
    Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies"),
    Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    SERVICE,
    DEPLOYMENT,
    Kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
)


def labels_of(name: str) -> dict[str, str]:
    """Return the labels of everything that belongs to a deployment."""
    return {
        "app.kubernetes.io/name": "dethrone-inference",
        INSTANCE: name,
        "app.kubernetes.io/part-of": "dethrone",
        MANAGED_BY: MANAGER,
    }


def manifests(
    name: str, *, config: KubernetesServing, image: str, environment: Mapping[str, str]
) -> list[tuple[Kind, dict[str, Any]]]:
    """Return every object of a deployment, each whole: what server-side apply is given."""
    specs = (
        _network_policy(name),
        {"maxUnavailable": 1, "selector": _selector(name)},
        {"selector": _match(name), "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http"}]},
        _deployment(name, config=config, image=image, environment=environment),
        _autoscaler(name, config),
    )
    return [
        (
            kind,
            {
                "apiVersion": kind.api,
                "kind": kind.name,
                "metadata": {"name": name, "namespace": config.namespace, "labels": labels_of(name)},
                "spec": spec,
            },
        )
        for kind, spec in zip(KINDS, specs, strict=True)
    ]


def _match(name: str) -> dict[str, str]:
    return {INSTANCE: name, MANAGED_BY: MANAGER}


def _selector(name: str) -> dict[str, Any]:
    return {"matchLabels": _match(name)}


def _network_policy(name: str) -> dict[str, Any]:
    """Only the gateway, the tasks that check a release and Prometheus get in; nothing gets out."""
    callers = ("dethrone-gateway", "dethrone-task", "prometheus")
    return {
        "podSelector": _selector(name),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": caller}}} for caller in callers],
                "ports": [{"port": PORT, "protocol": "TCP"}],
            }
        ],
        "egress": [],
    }


def _autoscaler(name: str, config: KubernetesServing) -> dict[str, Any]:
    target = {"type": "Utilization", "averageUtilization": config.cpu_utilization_percent}
    return {
        "scaleTargetRef": {"apiVersion": DEPLOYMENT.api, "kind": DEPLOYMENT.name, "name": name},
        "minReplicas": config.min_replicas,
        "maxReplicas": config.max_replicas,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
    }


def _deployment(name: str, *, config: KubernetesServing, image: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the spec without `replicas`: that field is the autoscaler's, and applying it would fight with it."""
    return {
        "selector": _selector(name),
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": START_SECONDS + 60,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": labels_of(name)},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": DRAIN_SECONDS + STOP_SECONDS,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": UID,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "topologySpreadConstraints": [_spread(name, key) for key in ("zone", "hostname")],
                "containers": [_container(config, image=image, environment=environment)],
                "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
                **({"imagePullSecrets": [{"name": config.pull_secret}]} if config.pull_secret else {}),
                **({"nodeSelector": dict(config.node_selector)} if config.node_selector else {}),
                **({"tolerations": _gpu_tolerations()} if config.gpus else {}),
            },
        },
    }


def _spread(name: str, key: str) -> dict[str, Any]:
    domain = "topology.kubernetes.io/zone" if key == "zone" else "kubernetes.io/hostname"
    return {
        "maxSkew": 1,
        "topologyKey": domain,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": _selector(name),
    }


def _gpu_tolerations() -> Sequence[Mapping[str, str]]:
    return [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def _container(config: KubernetesServing, *, image: str, environment: Mapping[str, str]) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(config.gpus)} if config.gpus else {}
    return {
        "name": "inference",
        "image": image,
        "imagePullPolicy": "IfNotPresent",  # the image is named by its digest
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": config.cpu, "memory": config.memory, **gpus},
            "limits": {"cpu": config.cpu, "memory": config.memory, **gpus},
        },
        "startupProbe": {**_probe("/readyz"), "periodSeconds": 2, "failureThreshold": START_SECONDS // 2},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe("/livez"), "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - inside of the container
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 4}
