"""A client's connection, which a response can cut off."""

from __future__ import annotations

from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT = "finery.abort"
"""Key of a scope: drops the connection and what waits to be sent. ASGI itself knows no way, and a connection that is
merely closed waits until its client has read everything. The response sees a client that has left."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which tells requests how to cut it off."""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        cast(Scope, self.scope)[ABORT] = self.transport.abort
