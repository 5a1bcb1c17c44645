"""One error root and one catalog: what went wrong, told once, understood by gRPC, HTTP and people."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import grpc

DOMAIN = "finery"
"""The ``domain`` of every ``google.rpc.ErrorInfo`` that Finery sends."""


class Reason(StrEnum):
    """Machine-readable cause of an error; the ``reason`` of ``google.rpc.ErrorInfo``."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNSUPPORTED = "UNSUPPORTED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    MODEL_TAKEN = "MODEL_TAKEN"
    MODEL_INVALID = "MODEL_INVALID"
    MODEL_UNREACHABLE = "MODEL_UNREACHABLE"
    DATASET_NOT_FOUND = "DATASET_NOT_FOUND"
    DATASET_UNREACHABLE = "DATASET_UNREACHABLE"
    DATASET_EMPTY = "DATASET_EMPTY"
    DATASET_ROW_INVALID = "DATASET_ROW_INVALID"
    PLACEHOLDER_SURVIVED = "PLACEHOLDER_SURVIVED"
    FILE_MISSING = "FILE_MISSING"
    PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
    MANIFEST_MISSING = "MANIFEST_MISSING"
    DATA_LOSS = "DATA_LOSS"
    OUTPUT_EXISTS = "OUTPUT_EXISTS"
    DISK_FULL = "DISK_FULL"
    PORT_IN_USE = "PORT_IN_USE"
    ALREADY_RUNNING = "ALREADY_RUNNING"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOB_NOT_FINISHED = "JOB_NOT_FINISHED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    RESUME_TOKEN_INVALID = "RESUME_TOKEN_INVALID"
    RESUME_TOKEN_EXPIRED = "RESUME_TOKEN_EXPIRED"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    ATTEMPT_FENCED = "ATTEMPT_FENCED"
    CANCELLED = "CANCELLED"
    GATE_FAILED = "GATE_FAILED"
    WORKER_DIED = "WORKER_DIED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    DEPLOYMENT_NOT_FOUND = "DEPLOYMENT_NOT_FOUND"
    DEPLOYMENT_NOT_READY = "DEPLOYMENT_NOT_READY"
    ENGINE_DEAD = "ENGINE_DEAD"
    ENGINE_FAILED = "ENGINE_FAILED"
    QUEUE_FULL = "QUEUE_FULL"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True)
class ErrorKind:
    """How one reason is told: to gRPC callers, to HTTP callers, and in OpenAI's error body."""

    grpc_code: grpc.StatusCode
    http_status: int
    openai_type: str = "invalid_request_error"
    openai_code: str | None = None
    """OpenAI's own word where it has one; else it is the reason in small letters."""


_C = grpc.StatusCode

CATALOG: dict[Reason, ErrorKind] = {
    Reason.INVALID_ARGUMENT: ErrorKind(_C.INVALID_ARGUMENT, 400, openai_code="invalid_value"),
    Reason.UNSUPPORTED: ErrorKind(_C.UNIMPLEMENTED, 400, openai_code="unsupported_parameter"),
    Reason.UNAUTHENTICATED: ErrorKind(_C.UNAUTHENTICATED, 401, openai_code="invalid_api_key"),
    Reason.MODEL_NOT_FOUND: ErrorKind(_C.NOT_FOUND, 404, openai_code="model_not_found"),
    Reason.MODEL_TAKEN: ErrorKind(_C.ALREADY_EXISTS, 409, openai_code="model_taken"),
    Reason.MODEL_INVALID: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.MODEL_UNREACHABLE: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.DATASET_NOT_FOUND: ErrorKind(_C.NOT_FOUND, 404),
    Reason.DATASET_UNREACHABLE: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.DATASET_EMPTY: ErrorKind(_C.INVALID_ARGUMENT, 400),
    Reason.DATASET_ROW_INVALID: ErrorKind(_C.INVALID_ARGUMENT, 400),
    Reason.PLACEHOLDER_SURVIVED: ErrorKind(_C.INVALID_ARGUMENT, 400),
    Reason.FILE_MISSING: ErrorKind(_C.NOT_FOUND, 404),
    Reason.PATH_NOT_ALLOWED: ErrorKind(_C.PERMISSION_DENIED, 403),
    Reason.MANIFEST_MISSING: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.DATA_LOSS: ErrorKind(_C.DATA_LOSS, 500, "server_error"),
    Reason.OUTPUT_EXISTS: ErrorKind(_C.ALREADY_EXISTS, 409),
    Reason.DISK_FULL: ErrorKind(_C.RESOURCE_EXHAUSTED, 507, "server_error"),
    Reason.PORT_IN_USE: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.ALREADY_RUNNING: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.JOB_NOT_FOUND: ErrorKind(_C.NOT_FOUND, 404),
    Reason.JOB_NOT_FINISHED: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.REQUEST_ID_REUSED: ErrorKind(_C.ALREADY_EXISTS, 409),
    Reason.RESUME_TOKEN_INVALID: ErrorKind(_C.INVALID_ARGUMENT, 400),
    Reason.RESUME_TOKEN_EXPIRED: ErrorKind(_C.OUT_OF_RANGE, 400),
    Reason.PAGE_TOKEN_INVALID: ErrorKind(_C.INVALID_ARGUMENT, 400),
    Reason.ATTEMPT_FENCED: ErrorKind(_C.ABORTED, 409),
    Reason.CANCELLED: ErrorKind(_C.CANCELLED, 499),
    Reason.GATE_FAILED: ErrorKind(_C.FAILED_PRECONDITION, 400),
    Reason.WORKER_DIED: ErrorKind(_C.ABORTED, 500, "server_error"),
    Reason.OUT_OF_MEMORY: ErrorKind(_C.RESOURCE_EXHAUSTED, 507, "server_error"),
    Reason.CONTEXT_LENGTH_EXCEEDED: ErrorKind(_C.INVALID_ARGUMENT, 400, openai_code="context_length_exceeded"),
    Reason.DEPLOYMENT_NOT_FOUND: ErrorKind(_C.NOT_FOUND, 404, openai_code="model_not_found"),
    Reason.DEPLOYMENT_NOT_READY: ErrorKind(_C.UNAVAILABLE, 503, "server_error", "model_not_ready"),
    Reason.ENGINE_DEAD: ErrorKind(_C.UNAVAILABLE, 503, "server_error", "engine_unavailable"),
    Reason.ENGINE_FAILED: ErrorKind(_C.INTERNAL, 500, "server_error"),
    Reason.QUEUE_FULL: ErrorKind(_C.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "rate_limit_exceeded"),
    Reason.SERVICE_UNAVAILABLE: ErrorKind(_C.UNAVAILABLE, 503, "server_error", "service_unavailable"),
    Reason.DEADLINE_EXCEEDED: ErrorKind(_C.DEADLINE_EXCEEDED, 504, "server_error", "timeout"),
    Reason.INTERNAL: ErrorKind(_C.INTERNAL, 500, "server_error", "internal_error"),
}


class FineryError(Exception):
    """Anything that Finery refuses or fails at, with a message for the user that says what to do.

    ``message`` is shown to users; ``detail`` only goes to the log; ``metadata`` travels in ``google.rpc.ErrorInfo``
    (for instance ``field="batch_size"``, ``model="…"``).
    """

    def __init__(self, reason: Reason, message: str, *, detail: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail
        self.metadata = metadata

    @property
    def kind(self) -> ErrorKind:
        """The catalog's entry for this error's reason."""
        return CATALOG[self.reason]


def invalid(field: str, message: str) -> FineryError:
    """An INVALID_ARGUMENT error that names the field."""
    return FineryError(Reason.INVALID_ARGUMENT, f"{field}: {message}", field=field)
