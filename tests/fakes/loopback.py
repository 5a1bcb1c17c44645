"""An HTTP hub on a loopback port, in a thread: what the fakes of Hugging Face and ModelScope share."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Repositories = Mapping[str, Mapping[str, bytes]]
"""Repository ("models/owner/name" or "datasets/owner/name") to its files by path."""


class LoopbackHub(BaseHTTPRequestHandler):
    """Answers from its ``shelves``."""

    shelves: Repositories
    protocol_version = "HTTP/1.1"

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@contextmanager
def serving(hub: type[LoopbackHub], repositories: Repositories) -> Iterator[str]:
    """Serve the repositories; yields the endpoint."""
    handler = type(hub.__name__, (hub,), {"shelves": repositories})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
