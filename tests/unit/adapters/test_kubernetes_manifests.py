"""What the objects of a release have to agree with outside of themselves."""

import re

from pipeline_tasks.adapters.kubernetes_manifests import DEPLOYMENT, manifests
from pipeline_tasks.project_serving import KubernetesServing
from pipeline_tasks.stack.layout import source_root


def test_a_pod_runs_as_the_user_that_its_image_was_made_for():
    dockerfile = (source_root() / "deploy" / "docker" / "serving-base.Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    config = KubernetesServing(namespace="dethrone", repository="r.example.com/d")
    found = dict(manifests("a", config=config, image="i", environment={}))
    assert found[DEPLOYMENT]["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == int(user)
