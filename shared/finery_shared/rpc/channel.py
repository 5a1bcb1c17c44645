"""Client channels: keepalive that the server allows, room for large messages."""

from __future__ import annotations

import grpc

from finery_shared.rpc.options import CHANNEL_OPTIONS


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel for asyncio; it connects on first use, and again when the connection breaks."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def open_sync_channel(address: str) -> grpc.Channel:
    """A channel for threads."""
    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
