"""A small stand-in for a W&B server: enough GraphQL and file stream to take a run. Refuses what it does not know."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """A server in a thread, with the history lines by run id and the names of the operations that arrived."""

    def __init__(self, *, unauthorized: bool = False) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.operations: list[str] = []
        self.exit_codes: dict[str, int] = {}
        self.unauthorized = unauthorized
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = (re.findall(r"(?:query|mutation)\s+(\w+)", query) or ["?"])[0]
        self.operations.append(operation)
        if operation == "Viewer":
            entity = {"id": "u", "entity": "team", "username": "team", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": entity}}
        if operation == "UpsertBucket":
            return {"data": {"upsertBucket": {"bucket": self._bucket(variables), "inserted": True}}}
        if operation == "RunResumeStatus":
            return {
                "data": {"model": {"id": "p", "name": "pets", "entity": {"id": "e", "name": "team"}, "bucket": None}}
            }
        if operation == "CreateRunFiles":
            files = [
                {"name": name, "uploadUrl": f"{self.url}/upload/{number}"}
                for number, name in enumerate(variables.get("files", []))
            ]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        return {"errors": [{"message": f"unknown operation {operation}"}]}

    def take_stream(self, path: str, body: dict[str, Any]) -> None:
        run_id = path.split("/")[-2]
        lines = body.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history.setdefault(run_id, []).extend(json.loads(line) for line in lines)
        if body.get("complete"):
            self.exit_codes[run_id] = body.get("exitcode", 0)

    @staticmethod
    def _bucket(variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or "run"
        project = {"id": "p", "name": variables.get("project") or "pets", "entity": {"id": "e", "name": "team"}}
        return {"id": "b", "name": name, "displayName": name, "project": project, "historyLineCount": 0}


@contextmanager
def running(server: WandbServer) -> Iterator[WandbServer]:
    """Serve on a free loopback port while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if server.unauthorized:
                self._reply(401, {"errors": [{"message": "invalid API key"}]})
                return
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            message = json.loads(body or b"{}")
            if self.path.endswith("/file_stream"):
                server.take_stream(self.path, message)
                self._reply(200, {"exitcode": None, "limits": {}})
            else:
                self._reply(200, server.answer(message.get("query", ""), message.get("variables") or {}))

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._reply(200, {})

        def _reply(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    httpd = ThreadingHTTPServer(("127.0.0.1", server.port), Handler)
    server.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
