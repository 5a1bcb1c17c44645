"""The server interceptor: request ids, one log line a call, its figures, and errors that say what to do."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import structlog

from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger
from finery_shared.rpc.metrics import CallMetrics
from finery_shared.rpc.status import to_status

REQUEST_ID = "x-request-id"
_VALID_ID = re.compile(r"[\x21-\x7e]{1,128}")
_QUIET = ("/grpc.health.", "/grpc.reflection.", "/finery.jobs.v1.WorkerService/")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler.

    A FineryError becomes a status with an ErrorInfo; any other exception is logged and becomes INTERNAL without its
    text. A stream is driven from this task by ``context.write``, so that a cancelled call reaches the handler's
    ``finally`` at once, wherever it waits.
    """

    def __init__(self, log: Logger, metrics: CallMetrics) -> None:
        self._log = log
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Replace the method's handler by a wrapped one (unary-unary and unary-stream; others pass as they are)."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            return await self._call(method, context, lambda: inner(request, context))

        return unary

    def _stream(self, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        async def drive(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async with aclosing(inner(request, context)) as messages:
                async for message in messages:
                    await context.write(message)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            self._metrics.stream_began(method)
            try:
                await self._call(method, context, lambda: drive(request, context))
            finally:
                self._metrics.stream_ended(method)

        return stream

    async def _call(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], run: Callable[[], Awaitable[Any]]
    ) -> Any:
        request_id = _request_id(context)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        start, code = time.perf_counter(), "OK"
        try:
            return await run()
        except FineryError as error:
            code = error.kind.grpc_code.name
            self._metrics.refused(method, str(error.reason))
            self._log.info("refused", method=method, reason=str(error.reason), error=error.message, detail=error.detail)
            await context.abort_with_status(to_status(error))
        except (grpc.aio.AbortError, grpc.aio.BaseError):
            code = "ABORTED"
            raise
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            self._log.exception("unexpected error", method=method)
            await _abort_internal(context, request_id)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.ended(method, code, seconds)
            if not method.startswith(_QUIET):
                self._log.info("call", method=method, code=code, seconds=round(seconds, 4))


async def _abort_internal(context: grpc.aio.ServicerContext[Any, Any], request_id: str) -> NoReturn:
    message = f"Finery failed unexpectedly. The service's log has the reason under request id {request_id}."
    await context.abort_with_status(to_status(FineryError(Reason.INTERNAL, message)))
    raise AssertionError("abort raises")


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID and isinstance(value, str) and _VALID_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
