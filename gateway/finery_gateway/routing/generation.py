"""One request on its way through the backends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Protocol

import grpc

from finery.inference.v1 import inference_pb2
from finery_gateway.routing import cancellation
from finery_gateway.routing.backend import Backend, GenerateCall
from finery_gateway.routing.table import RoutingTable
from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import from_rpc_error

MOVABLE = frozenset(
    {
        Reason.SERVICE_UNAVAILABLE,
        Reason.ENGINE_DEAD,
        Reason.DEPLOYMENT_NOT_READY,
        Reason.DEPLOYMENT_NOT_FOUND,
        Reason.MODEL_NOT_FOUND,
        Reason.QUEUE_FULL,
    }
)
"""Failures that say something of the backend and nothing of the request: another backend may do better."""


class ClientGoneError(Exception):
    """The client has left: nobody waits for the answer."""


class Answering(Protocol):
    """What answers a client's request: one generation, or several."""

    @property
    def backend(self) -> str:
        """Address of the backend that answers, or answered last."""

    @property
    def fingerprint(self) -> str | None:
        """What the answering backend serves, once it was chosen."""

    @property
    def moves(self) -> int:
        """How often it was begun anew on another backend."""

    def may_move(self, failure: FineryError) -> bool:
        """Whether another backend could do better; ``events`` then starts anew there."""

    def cancel(self) -> None:
        """The client has left: end the call at once; ``events`` raises ClientGoneError."""

    def close(self) -> None:
        """Give back what is held; harmless when it is over."""

    def events(self) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """The chunks, and at last the complete message. Raises FineryError and ClientGoneError."""


class Generation:
    """Events of one answer; moves to another backend for as long as ``events`` yielded nothing."""

    def __init__(
        self, table: RoutingTable, request: inference_pb2.GenerateRequest, request_id: str, seconds: float
    ) -> None:
        self._table = table
        self._request = request
        self._metadata = (("x-request-id", request_id),)
        self._deadline = time.monotonic() + seconds
        self._tried: list[Backend] = []
        self._call: GenerateCall | None = None
        self._cancelled = False
        self.fingerprint: str | None = None

    @property
    def backend(self) -> str:
        """Address of the backend that answers, or answered last."""
        return self._tried[-1].address if self._tried else ""

    @property
    def moves(self) -> int:
        """How often it was begun anew on another backend."""
        return max(len(self._tried) - 1, 0)

    def may_move(self, failure: FineryError) -> bool:
        """Whether another backend could do better; ``events`` then starts anew there."""
        return failure.reason in MOVABLE and self._table.choose(self._request.model, self._tried) is not None

    def cancel(self) -> None:
        """The client has left: end the call at once; ``events`` raises ClientGoneError."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        """Give back what the generation holds; harmless when it is over."""
        if self._call is not None:
            self._tried[-1].release(self._call)
            self._call = None

    async def events(self) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """The chunks, and at last the complete message.

        Raises FineryError, or ClientGoneError after ``cancel``. A stream that ends without the complete message is an
        ENGINE_FAILED error.
        """
        failure: FineryError | None = None
        while backend := self._table.route(self._request, self._tried):
            started = complete = False
            try:
                async for event in self._open(backend):
                    started = True
                    complete = event.HasField("complete")
                    yield event
                if complete:
                    return
                failure = FineryError(Reason.ENGINE_FAILED, "The answer broke off before it was finished. Try again.")
            except grpc.aio.AioRpcError as error:
                failure = self._failed(backend, error)
            except asyncio.CancelledError:
                if cancellation.is_own():
                    raise
                failure = self._cut_off(backend)
            finally:
                self.close()
            if started or failure.reason not in MOVABLE:
                raise failure
        raise failure or self._table.refusal(self._request.model)

    def _open(self, backend: Backend) -> GenerateCall:
        if self._cancelled:
            raise ClientGoneError
        self._tried.append(backend)
        self.fingerprint = backend.served[self._request.model].fingerprint
        left = max(self._deadline - time.monotonic(), 0.001)
        self._call = backend.generate(self._request, self._metadata, left)
        return self._call

    def _failed(self, backend: Backend, error: grpc.aio.AioRpcError) -> FineryError:
        if error.code() is grpc.StatusCode.CANCELLED:
            return self._cut_off(backend)
        return from_rpc_error(error, f"The inference service at {backend.address}")

    def _cut_off(self, backend: Backend) -> FineryError:
        """What a cancelled call means: the client's leave, or a backend given up for dead."""
        if self._cancelled:
            raise ClientGoneError
        return FineryError(
            Reason.SERVICE_UNAVAILABLE, f"The inference service at {backend.address} has stopped answering. Try again."
        )
