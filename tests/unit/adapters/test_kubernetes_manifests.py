"""Manifests of a release, and what they have to agree with outside of themselves."""

import re

from pipeline_tasks.adapters.kubernetes_manifests import DEPLOYMENT, KINDS, manifests
from pipeline_tasks.project.serving_schema import KubernetesServing
from pipeline_tasks.stack.layout import source_root


def test_a_pod_runs_as_the_user_that_its_image_was_made_for():
    dockerfile = (source_root() / "deploy" / "docker" / "serving-base.Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    config = KubernetesServing(namespace="dethrone", repository="r.example.com/d")
    bodies = dict(manifests("a", config=config, image="i", environment={}))
    assert bodies[DEPLOYMENT]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)


def test_a_pod_gets_no_rights_and_calls_nobody():
    config = KubernetesServing(namespace="dethrone", repository="r.example.com/d")
    specs = {kind.name: body["spec"] for kind, body in manifests("a", config=config, image="i", environment={})}
    assert set(specs) == {kind.name for kind in KINDS}
    pod = specs["Deployment"]["template"]["spec"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["automountServiceAccountToken"]) == (True, False)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert [container["securityContext"] for container in pod["containers"]] == [
        {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    ]
    policy = specs["NetworkPolicy"]
    assert (policy["policyTypes"], policy["egress"]) == (["Ingress", "Egress"], [])
