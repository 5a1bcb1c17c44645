"""A Hugging Face hub on a loopback port: the few routes that huggingface_hub's snapshot download asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"

Repositories = Mapping[str, Mapping[str, bytes]]
"""Repository ("models/owner/name" or "datasets/owner/name") to its files by path."""


@contextmanager
def serve_hub(repositories: Repositories) -> Iterator[str]:
    """Serve the repositories; yields the endpoint (for ``HF_ENDPOINT``)."""

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

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(revision|tree)/[^/]+", path):
            self._describe(match[1], match[2])
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._send_file((match[1] or "models/") + match[2], match[3])
        else:
            self._send(404, b"{}")

    def _describe(self, repository: str, what: str) -> None:
        files = self.shelves.get(repository)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif what == "revision":
            siblings = [{"rfilename": name} for name in files]
            info = {"id": repository.partition("/")[2], "sha": COMMIT, "siblings": siblings, "private": False}
            self._send(200, json.dumps(info).encode())
        else:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self._send(200, json.dumps(entries).encode())

    def _send_file(self, repository: str, name: str) -> None:
        content = self.shelves.get(repository, {}).get(name)
        if content is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""
