"""A stub inference service to be killed: `python -m tests.service.stub_process PORT VERSION`."""

import http.server
import json
import sys

BATCH_TYPE = "application/vnd.dethrone.batch"
LABELS = ["bag", "boot", "coat"]
PROBABILITIES = [0.7, 0.2, 0.1]


def answer_to(data: bytes, *, media_type: str | None, version: str) -> bytes:
    """Return the answer to an item, or to each item of a batch."""
    whole = {"model_version": version, "labels": LABELS}
    if media_type != BATCH_TYPE:
        return json.dumps(whole | {"probabilities": PROBABILITIES}).encode()
    items, start = [], 0
    while start < len(data):
        start += 4 + int.from_bytes(data[start : start + 4])
        items.append({"probabilities": PROBABILITIES})
    return json.dumps(whole | {"items": items}).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    version = "A"

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        body = answer_to(data, media_type=self.headers["Content-Type"], version=self.version)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def do_GET(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def log_message(self, *_: object) -> None: ...


if __name__ == "__main__":
    Handler.version = sys.argv[2]
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    http.server.ThreadingHTTPServer.request_queue_size = 128
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
