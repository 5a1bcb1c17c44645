"""FineryError to gRPC status and back, by google.rpc.Status with an ErrorInfo (AIP-193)."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from finery_shared.errors import DOMAIN, FineryError, Reason

_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: Reason.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED: Reason.UNSUPPORTED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
}

# A status travels as headers, of which gRPC takes 8 KiB by default and above that throws away the whole error. The
# message is sent twice, once with each byte outside ASCII as three.
_LONGEST_MESSAGE = 1500
_LONGEST_METADATA = 256


def to_status(error: FineryError) -> Any:
    """The grpc.Status to abort a call with; a message longer than 1,500 bytes loses its middle."""
    metadata = {key: _shortened(value, _LONGEST_METADATA) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    code: int = error.kind.grpc_code.value[0]
    message = _shortened(error.message, _LONGEST_MESSAGE)
    return rpc_status.to_status(status_pb2.Status(code=code, message=message, details=[detail]))


def _shortened(text: str, most: int) -> str:
    """A text of at most so many bytes: what is wrong stands at its beginning, what to do at its end."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most:
        return encoded.decode()
    tail = most // 3
    head = most - tail - len(" … ".encode())
    return f"{encoded[:head].decode(errors='ignore')} … {encoded[-tail:].decode(errors='ignore')}"


def from_rpc_error(error: grpc.RpcError, target: str) -> FineryError:
    """What a failed call means. ``target`` names the other side for the message, as in "the trainer at host:port"."""
    status = _rich_status(error)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return FineryError(Reason(info.reason), status.message, **info.metadata)
    code, details = error.code(), error.details() or ""
    reason = _BY_CODE.get(code, Reason.INTERNAL)
    if reason is Reason.SERVICE_UNAVAILABLE:
        message = f"{target} {_unreachable(details)}"
    elif reason is Reason.DEADLINE_EXCEEDED:
        message = f"{target} did not answer in time. Try again, or check its log."
    else:
        message = f"{target} failed: {details or code.name}"
    return FineryError(reason, message, detail=f"{code.name}: {details}")


def _rich_status(error: grpc.RpcError) -> status_pb2.Status:
    """What travels beside code and text; empty if nothing does, or something between the two sides cut it off."""
    try:
        return rpc_status.from_call(error) or status_pb2.Status()
    except ValueError:
        return status_pb2.Status()


def _unreachable(details: str) -> str:
    if "handshake failed" in details.lower():
        return "and this process don't agree on certificates. Check FINERY_RPC_TLS_* of both."
    if "failed to connect" in details and "Socket closed" in details:
        return "closes connections at once. It may ask for a certificate: check FINERY_RPC_TLS_* of both."
    return "can't be reached. Start it, or check its address."
