"""The `serving` section of project.yaml."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline_tasks.contracts import ServingSettings
from pipeline_tasks.project.section import Section

ROUTE = ServingSettings()  # the defaults of what the gateway is told


class RolloutLimits(Section):
    """By how much a candidate may be worse than the champion beside it; each must be shown, not just seen."""

    max_error_rate_increase: float = Field(
        0.02, gt=0, le=1, description="More of its requests that fail, as a share: 0.02 = two points."
    )
    max_latency_ratio: float = Field(
        2.0, ge=1, description="Of the champion's 90 % latency at that time: no more than a tenth more may be slower."
    )
    max_disagreement: float = Field(
        0.5, gt=0, le=1, description="Share of mirrored requests with another class than the champion's; shadow only."
    )


class RolloutConfig(Section):
    """The way of a release to a champion's traffic. Undecided at the deadline: all traffic returns to the champion."""

    strategy: Literal["all_at_once", "canary"] = Field(
        "all_at_once",
        description="canary: in steps, each judged against the champion's traffic at the same time; the first champion "
        "has nobody beside it and goes live at once.",
    )
    shadow_seconds: float = Field(0.0, ge=0, description="Mirror requests for at least so long before any share.")
    shadow_requests: int = Field(
        500,
        ge=0,
        description="At least so many mirrors, by which the candidate is judged: both models answer the same requests, "
        "and each limit must be shown. 0 with shadow_seconds 0: no mirrors, and each step is judged in their place.",
    )
    steps: list[Annotated[int, Field(ge=1, le=99)]] = Field(
        default_factory=lambda: [5, 25, 50], min_length=1, description="Percent of the traffic, one after the other."
    )
    bake_seconds: float = Field(60.0, ge=0, description="Each step lasts at least so long.")
    min_requests: int = Field(
        200,
        ge=1,
        description="Of the candidate in each step, before the next; after mirrors a step waits for them no longer "
        "than ten times bake_seconds (a minute at least).",
    )
    deadline_seconds: float = Field(3600.0, gt=0, le=86_400, description="For shadow and steps together.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of the whole rollout, however often one looks.")
    limits: RolloutLimits = RolloutLimits()


class Images(Section):
    """The registry of the images of this project's releases, and the image that they stand on."""

    repository: str = Field(
        description="Where images go, <registry>/<path>, for example localhost:5000/dethrone; base and releases alike."
    )
    connection: str | None = Field(
        None, description="Airflow connection with login and password of the registry; none where it asks for none."
    )
    base: Literal["cpu", "cuda"] = Field("cpu", description="Variant of the base image (make serving-base).")
    base_digest: str | None = Field(
        None,
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="Digest of the base image, as make serving-base PUSH=... prints it. Without one releases stand on "
        "what the registry has under the tag of this lock, whoever put it there.",
    )


class DockerServing(Images):
    """The network and the limits of the containers of this project's releases."""

    network: str | None = Field(
        None, description="Docker network to join; without one the service is published on a loopback port."
    )
    memory: str = Field("2g", pattern=r"^[1-9][0-9]*[mg]$", description="Most memory of a container, swap included.")
    cpus: float | None = Field(None, gt=0, description="Most CPUs of a container.")
    pids: int = Field(256, ge=16, description="Most processes and threads of a container.")
    gpus: int | Literal["all"] = Field(0, description="How many GPUs a container asks for.")
    require_gpus: bool = Field(default=True, description="Refuse to ship where the engine has no GPU; false: use CPU.")


class KubernetesServing(Images):
    """The cluster and the limits of the pods of this project's releases."""

    namespace: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="Belongs to this installation.")
    pull_secret: str | None = Field(None, description="Name of the Secret that nodes pull with.")
    cpu: str = Field("1", pattern=r"^[0-9]+(\.[0-9]+)?m?$", description="CPU of one pod, requested and at most.")
    memory: str = Field("2Gi", pattern=r"^[1-9][0-9]*(Mi|Gi)$", description="Memory of one pod, requested and at most.")
    gpus: int = Field(0, ge=0, description="GPUs of one pod (nvidia.com/gpu).")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes to run on.")
    min_replicas: int = Field(2, ge=1)
    max_replicas: int = Field(10, ge=1)
    cpu_utilization_percent: int = Field(70, ge=1, le=100, description="Above it a pod is added.")


class Serving(Section):
    """Settings of answers to predictions and of their log."""

    target: Literal["process", "docker", "kubernetes"] = "process"
    runtime: Literal["eager", "amp", "onnx", "onnx-int8"] = Field(
        "eager",
        description="What computes the answers, in the gate and in serving alike: eager = torch; amp = torch with "
        "bfloat16 autocast, for GPUs; onnx = ONNX Runtime; onnx-int8 = that with weights and activations in 8 bits, "
        "calibrated on training items. The last two run on the CPU. Another runtime is another model version: it is "
        "trained and judged.",
    )
    docker: DockerServing | None = None
    kubernetes: KubernetesServing | None = None
    review_below: float = Field(
        ROUTE.review_below, ge=0, le=1, description="Answers with less confidence say needs_review."
    )
    top_k: int = Field(ROUTE.top_k, ge=1)
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="Least probability by class: the answer is the most probable class that reaches its own; when none "
        "does, the gateway abstains (label null, needs_review true). A class that is not named needs none.",
    )
    abstain_below: float = Field(
        ROUTE.abstain_below,
        ge=0,
        le=1,
        description="A class with less probability than this is never the answer; 0 = never abstain.",
    )
    business_labels: dict[str, str] = Field(
        default_factory=dict,
        description="What the business calls a class; told as business_label beside label. Feedback keeps the class.",
    )
    max_request_bytes: int = Field(ROUTE.max_request_bytes, ge=1)
    requests_per_second: float = Field(ROUTE.requests_per_second, gt=0, description="Per API key.")
    drain_seconds: float = Field(30.0, ge=0)
    keep_previous: bool = Field(
        default=True,
        description="Keep the previous champion running: to return to, and to answer while no other server does.",
    )
    rollout: RolloutConfig = RolloutConfig()

    def routed(self) -> dict[str, Any]:
        """Return the settings that go to the gateway with a route."""
        names = [field.name for field in dataclasses.fields(ServingSettings)]
        return {name: getattr(self, name) for name in names if name in type(self).model_fields}
