"""A Kubernetes API server in memory, over HTTP, as far as the target uses it: server-side apply with field ownership.

Semantics kept (https://kubernetes.io/docs/reference/using-api/server-side-apply): a manager owns the fields that it
applies; a field of another manager with another value is a conflict (409) unless forced; a field that a manager
applied before and leaves out now is removed when nobody else owns it; lists of named things are merged by their key,
other lists are replaced whole; the generation rises with the spec and nothing else; every object is checked against the
API's schema (422). There are no controllers: a test says what the cluster did.
"""

from __future__ import annotations

import copy
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

VERSION = "1.33"
LIST_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath", "ports": "port"}
ABSENT = object()


class Cluster:
    """Objects by path, who owns which of their fields, and what was asked."""

    def __init__(self):
        self.objects: dict[str, dict] = {}
        self.owners: dict[str, dict[str, set]] = {}
        self.calls: list[tuple[str, str]] = []
        self.logs: dict[str, str] = {}
        self.fail: list[int] = []  # statuses of the next answers
        self._lock = threading.RLock()
        self._version = 0

    def apply(self, path, body, *, manager, force):
        with self._lock:
            current = self.objects.get(path, {})
            owners = self.owners.setdefault(path, {})
            wanted = flat({key: value for key, value in body.items() if key != "status"})
            conflicts = sorted(
                f"{other}: {'.'.join(map(str, field))}"
                for other, fields in owners.items()
                for field in fields & wanted.keys()
                if other != manager and flat(current).get(field) != wanted[field]
            )
            if conflicts and not force:
                return 409, status(409, f"Apply failed with {len(conflicts)} conflicts: {', '.join(conflicts)}")
            merged = flat(current)
            for field in owners.get(manager, set()) - wanted.keys():
                if not any(field in fields for other, fields in owners.items() if other != manager):
                    merged.pop(field, None)
            merged |= wanted
            applied = unflat(merged)
            try:
                kubernetes_validate.validate(applied, VERSION, strict=True)
            except kubernetes_validate.ValidationError as error:
                return 422, status(422, f"{error.message} at {list(error.path)}")
            for other, fields in owners.items():
                if other != manager:
                    fields -= {field for field in wanted if flat(current).get(field) != wanted[field]}
            owners[manager] = set(wanted)
            return self._store(path, applied, current)

    def _store(self, path, applied, current):
        meta = applied["metadata"]
        old = current.get("metadata", {})
        self._version += 1
        changed = applied.get("spec") != current.get("spec")
        meta["generation"] = old.get("generation", 0) + changed
        meta["uid"] = old.get("uid", f"uid-{self._version}")
        meta["resourceVersion"] = str(self._version) if applied != current else old.get("resourceVersion")
        if "status" in current:
            applied["status"] = current["status"]
        self.objects[path] = applied
        return (200 if current else 201), applied

    def select(self, path, selector):
        wanted = dict(part.split("=", 1) for part in selector.split(",") if part)
        objects = [body for key, body in sorted(self.objects.items()) if key.rpartition("/")[0] == path]
        return [body for body in objects if wanted.items() <= body["metadata"].get("labels", {}).items()]

    def fail_or(self, action, *arguments):
        """Do it, unless the test wants the next answer to be an error."""
        return (self.fail[0], status(self.fail.pop(0), "the test wants it so")) if self.fail else action(*arguments)

    # What the controllers would do.

    def deployment(self, name):
        (deployment,) = [body for key, body in self.objects.items() if key.endswith(f"/deployments/{name}")]
        return deployment

    def become_ready(self, name, *, replicas=1):
        deployment = self.deployment(name)
        deployment["spec"].setdefault("replicas", replicas)
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "readyReplicas": replicas,
            "updatedReplicas": replicas,
        }

    def add_pod(self, name, *, namespace="serving", log="", **container):
        path = f"/api/v1/namespaces/{namespace}/pods/{name}-x1"
        labels = self.deployment(name)["spec"]["template"]["metadata"]["labels"]
        state = {"phase": "Pending", "containerStatuses": [{"name": "inference", "restartCount": 0, **container}]}
        self.objects[path] = {"metadata": {"name": f"{name}-x1", "labels": labels}, "status": state}
        self.logs[path] = log
        return path


def flat(value, prefix=()):
    """Return every leaf by its path; a list of named things counts by its names, any other is one leaf."""
    if isinstance(value, dict) and (value or not prefix):
        return {k: v for key, child in value.items() for k, v in flat(child, (*prefix, key)).items()}
    key = LIST_KEYS.get(prefix[-1]) if prefix else None
    if isinstance(value, list) and value and key and all(isinstance(part, dict) and key in part for part in value):
        return {k: v for part in value for k, v in flat(part, (*prefix, (key, part[key]))).items()}
    return {prefix: copy.deepcopy(value)}


def unflat(leaves):
    root: dict = {}
    for path, value in leaves.items():
        at = root
        for part in path[:-1]:
            at = at.setdefault(part, {})
        at[path[-1]] = value
    return rebuilt(root)


def rebuilt(value):
    if not isinstance(value, dict):
        return value
    if value and all(isinstance(key, tuple) for key in value):
        return [{**rebuilt(child), key[0]: key[1]} for key, child in value.items()]
    return {key: rebuilt(child) for key, child in value.items()}


def status(code, message):
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_arguments):
        pass

    def do_GET(self):
        self.reply(*self.cluster.fail_or(self.look, self.where()))

    def do_PATCH(self):
        where = self.where()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.reply(*self.cluster.fail_or(self.apply, where, body))

    def do_DELETE(self):
        where = self.where()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(*self.cluster.fail_or(self.delete, where))

    def where(self):
        url = urlsplit(self.path)
        self.cluster.calls.append((self.command, url.path))
        return url.path, {key: values[0] for key, values in parse_qs(url.query).items()}

    def apply(self, where, body):
        path, query = where
        if self.headers["Content-Type"] != "application/apply-patch+yaml" or "fieldManager" not in query:
            return 415, status(415, "apply needs its content type and a fieldManager")
        return self.cluster.apply(path, body, manager=query["fieldManager"], force=query.get("force") == "true")

    def look(self, where):
        path, query = where
        if path.endswith("/log"):
            return 200, self.cluster.logs.get(path.removesuffix("/log"), "")
        if path.count("/") % 2 == (1 if path.startswith("/api/") else 0):  # a kind's path, not an object's
            return 200, {"items": self.cluster.select(path, query.get("labelSelector", ""))}
        return self.found(path)

    def delete(self, where):
        code, body = self.found(where[0])
        self.cluster.objects.pop(where[0], None)
        self.cluster.owners.pop(where[0], None)
        return code, body

    def found(self, path):
        body = self.cluster.objects.get(path)
        return (200, body) if body else (404, status(404, f"{path} not found"))

    def reply(self, code, body):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running_cluster():
    """Yield a cluster and its address."""
    cluster = Cluster()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cluster, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
