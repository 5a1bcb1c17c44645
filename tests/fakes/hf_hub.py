"""A Hugging Face hub on a loopback port: the few routes that huggingface_hub's snapshot download asks for."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import AbstractContextManager

from tests.fakes.loopback import LoopbackHub, Repositories, serving

COMMIT = "0" * 39 + "1"


def serve_hub(repositories: Repositories) -> AbstractContextManager[str]:
    """Serve the repositories; yields the endpoint (for ``HF_ENDPOINT``)."""
    return serving(_Hub, repositories)


class _Hub(LoopbackHub):
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
            self.send(404, b"{}")

    def _describe(self, repository: str, what: str) -> None:
        files = self.shelves.get(repository)
        if files is None:
            self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif what == "revision":
            siblings = [{"rfilename": name} for name in files]
            info = {"id": repository.partition("/")[2], "sha": COMMIT, "siblings": siblings, "private": False}
            self.send(200, json.dumps(info).encode())
        else:
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in files.items()
            ]
            self.send(200, json.dumps(entries).encode())

    def _send_file(self, repository: str, name: str) -> None:
        content = self.shelves.get(repository, {}).get(name)
        if content is None:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            self.send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT})
