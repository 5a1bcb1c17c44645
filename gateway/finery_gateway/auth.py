"""API keys: pure ASGI, in front of every path but those that tell of the process."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from finery_gateway.openai.errors import ApiError
from finery_gateway.paths import METRICS, tells_of_process


class Keys(Protocol):
    """The keys that are good."""

    def accepts(self, key: str) -> bool:
        """Whether a key is good. Takes as long for a bad one as for a good one."""


class KeyRing:
    """Keys that stay as they are, as digests."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_stored_digest(key) for key in keys]

    def accepts(self, key: str) -> bool:
        """Whether a key is good. Takes as long for a bad one as for a good one."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, good) for good in self._digests) > 0


class ApiKeyGuard:
    """ASGI middleware: 401 without a good bearer token on all paths but those that tell of the process."""

    def __init__(self, app: ASGIApp, keys: Keys, metrics_guarded: bool = False) -> None:
        self._app = app
        self._keys = keys
        self._metrics_guarded = metrics_guarded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "http" and self._guards(scope["path"]) and (error := self._refusal(scope)):
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _guards(self, path: str) -> bool:
        return not tells_of_process(path) or (self._metrics_guarded and path == METRICS)

    def _refusal(self, scope: Scope) -> ApiError | None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = "You didn't provide an API key. Send it as an Authorization header: Bearer YOUR_KEY."
        elif not self._keys.accepts(key.strip()):
            message = "Incorrect API key provided. Ask whoever runs this server for a good one."
        else:
            return None
        return ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def is_whole(key: str) -> bool:
    """Whether a configured key is one: a text as it is, or "sha256:" and 64 lower-case hex digits."""
    return not key.startswith("sha256:") or re.fullmatch(r"sha256:[0-9a-f]{64}", key) is not None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stored_digest(key: str) -> bytes:
    return bytes.fromhex(key.removeprefix("sha256:")) if key.startswith("sha256:") else _digest(key)
