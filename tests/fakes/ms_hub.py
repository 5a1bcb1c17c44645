"""ModelScope on a loopback port: the few routes that modelscope-hub's download asks for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from urllib.parse import parse_qs, urlsplit

from tests.fakes.loopback import LoopbackHub, Repositories, serving


def serve_hub(repositories: Repositories) -> AbstractContextManager[str]:
    """Serve the repositories; yields the endpoint."""
    return serving(_Hub, repositories)


class _Hub(LoopbackHub):
    def do_HEAD(self) -> None:
        self.send(200, b"")

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        match = re.fullmatch(r"/api/v1/((?:models|datasets)/[^/]+/[^/]+)/repo(/files|/tree)?", url.path)
        files = self.shelves.get(match[1]) if match else None
        if match is None or files is None:
            self.send(404, b'{"Code": 10010205001, "Message": "not found", "Success": false}')
        elif match[2]:
            self.send(200, json.dumps({"Code": 200, "Data": {"Files": _entries(files)}, "Success": True}).encode())
        else:
            self.send(200, files[parse_qs(url.query)["FilePath"][0]])


def _entries(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    return [
        {"Path": path, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
