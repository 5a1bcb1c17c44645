"""Calls to one service: deadlines, retries, and errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

import grpc
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from finery_client.endpoints import Endpoint
from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import from_rpc_error, open_sync_channel

CALL_SECONDS = 60.0
"""Deadline of a unary call: creating a job may read its data files and the small files of a model."""

RETRY_SECONDS = 5.0
"""How long a service that can't be reached is tried again."""

Request = TypeVar("Request")
Response = TypeVar("Response")


class Calls:
    """A channel to one endpoint."""

    def __init__(self, endpoint: Endpoint, retry_seconds: float = RETRY_SECONDS) -> None:
        self.endpoint = endpoint
        self.channel: grpc.Channel = open_sync_channel(endpoint.address, endpoint.security)
        self._retry_seconds = retry_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.channel.close()

    def unary(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Call a method that may be repeated: a service that can't be reached is tried again for a while.

        Raises what the service answered, as a FineryError.
        """
        retrying = Retrying(
            retry=retry_if_exception(self._worth_another_try),
            stop=stop_after_delay(self._retry_seconds),
            wait=wait_exponential(0.1, max=1.0),
            reraise=True,
        )
        response: Response = retrying(self._once, method, request)
        return response

    def stream(
        self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request, timeout: float | None = None
    ) -> Iterator[Response]:
        """The messages of a stream. Leaving the iterator cancels the call. Raises FineryError."""
        call = method(request, timeout=timeout)
        try:
            yield from call
        except grpc.RpcError as error:
            raise self._explain(error) from error
        finally:
            with contextlib.suppress(grpc.RpcError):
                call.cancel()

    def _once(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        try:
            return method(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            raise self._explain(error) from error

    def _worth_another_try(self, error: BaseException) -> bool:
        lost = isinstance(error, FineryError) and error.reason is Reason.SERVICE_UNAVAILABLE
        return lost and self.endpoint.death() is None

    def _explain(self, error: grpc.RpcError) -> FineryError:
        """What the service said; of a private one that has ended, why it ended."""
        told = from_rpc_error(error, self.endpoint.target)
        return (self.endpoint.death() if told.reason is Reason.SERVICE_UNAVAILABLE else None) or told
