"""Bound on a head: uvicorn's faster parser, httptools, keeps one whole however long it is, key or no key.

h11, uvicorn's other parser, bounds heads itself, and takes a sixth more CPU time for a text, twice as much without a
model (docs/benchmarks.md).
"""

from __future__ import annotations

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024  # and what one read of the socket brings


class BoundedHeadProtocol(HttpToolsProtocol):
    """HTTP/1 connection that is closed when a head goes on beyond the bound; bodies are bounded by the endpoint."""

    _num_head_bytes = 0
    _is_in_head = True

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head's end, and close without an answer: nothing was read that could have one."""
        if self._is_in_head:
            if self._num_head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()
                return
            self._num_head_bytes += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head, self._num_head_bytes = True, 0
        super().on_message_complete()


def bound_heads() -> None:
    """Have uvicorn take this protocol where none is named, as BentoML starts it."""
    auto.AutoHTTPProtocol = BoundedHeadProtocol
