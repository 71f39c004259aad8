"""Cost of Label Studio's SDK: its import, and its reading of a page of 500 tasks with two annotations each.

python benchmarks/labeling_sdk.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc

import httpx

IMPORT = """
import httpx, resource, sys, time
before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
module = __import__("label_studio_sdk." + sys.argv[1], fromlist=["x"])
sdk = getattr(module, sys.argv[2])(base_url="http://x/", api_key="t", httpx_client=httpx.Client())
sdk.projects, sdk.tasks, sdk.webhooks, sdk.import_storage.s3, sdk.users, sdk.annotations, sdk.actions
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(f"{time.process_time() - cpu:.2f} s, {grown / 1024:.0f} MB")
"""


def page(num_tasks: int) -> bytes:
    """Return tasks as Label Studio 1.23.2 says them."""
    region = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
    moment = "2026-11-30T10:52:22.027727Z"
    times = {"created_at": moment, "updated_at": moment}
    tasks = []
    for number in range(num_tasks):
        answers = [
            {"id": number, "result": [region], "completed_by": 1, "was_cancelled": False, "lead_time": 1.0, **times}
            for _ in range(2)
        ]
        data = {"image": "s3://bucket/items/x", "item_id": f"{number:064x}"}
        task = {"id": number, "data": data, "annotations": answers, "annotators": [1], "overlap": 2, **times}
        tasks.append({**task, "predictions": [{"result": [region], "score": 0.4, "model_version": "m", **times}]})
    return json.dumps({"tasks": tasks, "total": num_tasks, "total_annotations": 0, "total_predictions": 0}).encode()


def main() -> None:
    for module, name in (("base_client", "LabelStudioBase"), ("client", "LabelStudio")):
        print(f"import of {name}: ", end="", flush=True)
        subprocess.run([sys.executable, "-c", IMPORT, module, name], check=True)
    from label_studio_sdk.base_client import LabelStudioBase

    body = page(500)
    json_type = {"content-type": "application/json"}
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=body, headers=json_type))
    client = httpx.Client(transport=transport)
    sdk = LabelStudioBase(base_url="http://x/", api_key="t", httpx_client=client)
    for name, read in (
        ("json", lambda: client.get("http://x/").json()["tasks"]),
        ("SDK", lambda: sdk.tasks.list(project=1, fields="all").items),
    ):
        read()
        cpu = time.process_time()
        for _ in range(20):
            read()
        milliseconds = 1000 * (time.process_time() - cpu) / 20
        tracemalloc.start()
        read()
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        print(f"500 tasks by {name}: {milliseconds:.0f} ms, {peak:.1f} MB at the peak")


if __name__ == "__main__":
    main()
