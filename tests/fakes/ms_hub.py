"""ModelScope on a loopback port: the few routes that modelscope-hub's download asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Repositories = Mapping[str, Mapping[str, bytes]]
"""Repository ("models/owner/name" or "datasets/owner/name") to its files by path."""


@contextmanager
def serve_hub(repositories: Repositories) -> Iterator[str]:
    """Serve the repositories; yields the endpoint."""

    class Handler(_Hub):
        shelves = repositories

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Hub(BaseHTTPRequestHandler):
    shelves: Repositories
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._send(200, b"")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        match = re.fullmatch(r"/api/v1/((?:models|datasets)/[^/]+/[^/]+)/repo(/files|/tree)?", url.path)
        files = self.shelves.get(match[1]) if match else None
        if match is None or files is None:
            self._send(404, b'{"Code": 10010205001, "Message": "not found", "Success": false}')
        elif match[2]:
            self._send(200, json.dumps({"Code": 200, "Data": {"Files": _entries(files)}, "Success": True}).encode())
        else:
            self._send(200, files[parse_qs(url.query)["FilePath"][0]])

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def _entries(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [
        {"Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
