"""Client channels: keepalive that the server allows, room for large messages, and what shows who calls."""

from __future__ import annotations

import grpc

from finery_shared.rpc.options import CHANNEL_OPTIONS
from finery_shared.rpc.security import RpcSecurity
from finery_shared.rpc.token import AioTokenChannel, TokenChannel

OPEN = RpcSecurity()
"""Neither token nor TLS."""


def open_channel(address: str, security: RpcSecurity = OPEN) -> grpc.aio.Channel:
    """A channel for asyncio; it connects on first use, and again when the connection breaks."""
    credentials, options = security.channel_credentials(), _options(security)
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        channel = grpc.aio.secure_channel(address, credentials, options=options)
    return AioTokenChannel(channel, security.token) if security.token else channel


def open_sync_channel(address: str, security: RpcSecurity = OPEN) -> grpc.Channel:
    """A channel for threads."""
    credentials, options = security.channel_credentials(), _options(security)
    if credentials is None:
        channel = grpc.insecure_channel(address, options=options)
    else:
        channel = grpc.secure_channel(address, credentials, options=options)
    return TokenChannel(channel, security.token) if security.token else channel


def _options(security: RpcSecurity) -> tuple[tuple[str, int | str], ...]:
    if security.tls is None or not security.tls.server_name:
        return CHANNEL_OPTIONS
    return (*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", security.tls.server_name))
