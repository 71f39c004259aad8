"""Answers a request that offers another protocol on HTTP/1.1: `Upgrade` may be ignored (RFC 9110, 7.8).

Java's HttpClient offers h2c with the first request of each connection. The parser takes what follows such a head for
the other protocol, and uvicorn's cannot say no: it answers without the body, and waits for one that never comes.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class StaysHttp(HttpToolsProtocol):
    """uvicorn's protocol; reads a head that offers an upgrade again without the offer, and what follows as its body."""

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                if self._tunnels():
                    self._refuse()
                    return
                data = self._head_without_offer() + data[offer.args[0] :]
                self.parser = _parser(self)
            except httptools.HttpParserError:
                self._refuse()
                return
            else:
                return

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _tunnels(self) -> bool:
        return self.parser.get_method() == b"CONNECT"

    def _refuse(self) -> None:
        message = "Invalid HTTP request received."
        self.logger.warning(message)
        self.send_400_response(message)

    def _head_without_offer(self) -> bytes:
        """Return the head that was just read, without `Upgrade`: what it said beside that stands."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


def _parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """Return a parser as uvicorn sets it up."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
