"""The bearer token of a call: asked for by servers, shown by callers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from finery_shared.errors import FineryError, Reason
from finery_shared.rpc.status import to_status

AUTHORIZATION = "authorization"
_OPEN = "/grpc.health."


class TokenGuard(grpc.aio.ServerInterceptor):
    """Refuses calls without the token, those that ask for health excepted. Must stand inside the `CallInterceptor`."""

    def __init__(self, token: str) -> None:
        self._digest = _digest(f"Bearer {token}")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, or one that refuses."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN) or self._admits(handler_call_details):
            return handler
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(_refuse_streams)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_refuse_stream)
        return grpc.unary_unary_rpc_method_handler(_refuse)

    def _admits(self, details: grpc.HandlerCallDetails) -> bool:
        shown = [value for key, value in details.invocation_metadata or () if key == AUTHORIZATION]
        text = shown[0] if len(shown) == 1 and isinstance(shown[0], str) else ""
        return hmac.compare_digest(_digest(text), self._digest)


class _TokenCall:
    """A method of a channel that shows the token with each call."""

    def __init__(self, method: Any, token: str) -> None:
        self._method = method
        self._shown = ((AUTHORIZATION, f"Bearer {token}"),)

    def __call__(self, request: Any, *, metadata: Any = None, **options: Any) -> Any:
        return self._method(request, metadata=(*(metadata or ()), *self._shown), **options)


class _TokenMethods:
    """What generated stubs use of a channel.

    An interceptor would do the same, but in grpc.aio it costs every message of a stream; this costs each call alone.
    """

    def __init__(self, channel: Any, token: str) -> None:
        self._channel = channel
        self._token = token

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.Channel."""
        return _TokenCall(self._channel.unary_unary(*arguments, **options), self._token)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.Channel."""
        return _TokenCall(self._channel.unary_stream(*arguments, **options), self._token)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.Channel."""
        return _TokenCall(self._channel.stream_unary(*arguments, **options), self._token)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.Channel."""
        return _TokenCall(self._channel.stream_stream(*arguments, **options), self._token)


class TokenChannel(_TokenMethods, grpc.Channel):
    """A channel for threads whose calls show a token."""

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """See grpc.Channel."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """See grpc.Channel."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """See grpc.Channel."""
        self._channel.close()

    def __enter__(self) -> TokenChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AioTokenChannel(_TokenMethods, grpc.aio.Channel):
    """A channel for asyncio whose calls show a token."""

    async def __aenter__(self) -> AioTokenChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        state: grpc.ChannelConnectivity = self._channel.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self._channel.channel_ready()


def _refusal() -> FineryError:
    message = (
        "This service wants a token. Set FINERY_RPC_TOKEN or FINERY_RPC_TOKEN_FILE of the caller to the same as the "
        "service's."
    )
    return FineryError(Reason.UNAUTHENTICATED, message)


async def _refuse(_request: Any, _context: Any) -> Any:
    raise _refusal()


async def _refuse_stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
    raise _refusal()
    yield  # what makes it a stream


async def _refuse_streams(_requests: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    # Streams of requests pass the CallInterceptor as they are: nobody turns an error into a status.
    await context.abort_with_status(to_status(_refusal()))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
