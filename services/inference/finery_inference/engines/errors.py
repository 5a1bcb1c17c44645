"""The errors that all engines share."""

from __future__ import annotations

from finery_inference.engines.protocol import Structured
from finery_shared.errors import FineryError, Reason

_SHAPES = {
    "json_schema": "JSON schema",
    "json_object": "JSON object",
    "regex": "regular expression",
    "choices": "list of choices",
    "structural_tag": "list of tools",
}


def engine_dead(detail: str = "") -> FineryError:
    """The engine died, or was shut down, while a request ran."""
    message = "The model's engine has ended. Unless it was deleted it is loaded again: try again in a moment."
    return FineryError(Reason.ENGINE_DEAD, message, detail=detail)


def engine_given_up(failures: int, detail: str = "") -> FineryError:
    """The engine died so many times in a row that it is not started again."""
    message = (
        f"The model's engine has ended {failures} times in a row and is not started again. The inference service's log "
        "says why it ended; then delete the deployment (`finery deployments delete`) and deploy the model again."
    )
    return FineryError(Reason.ENGINE_DEAD, message, detail=detail)


def shape_refused(structured: Structured, why: str) -> FineryError:
    """The shape that an answer should have can't be had."""
    message = f"The {_SHAPES[structured.kind]} that the answer should follow is refused: {why.rstrip('.')}."
    field = "tools" if structured.kind == "structural_tag" else f"structured_output.{structured.kind}"
    return FineryError(Reason.INVALID_ARGUMENT, message, field=field)


def adapter_unloaded() -> FineryError:
    """The adapter of a request was deleted while it ran."""
    return FineryError(Reason.DEPLOYMENT_NOT_READY, "The adapter was deleted while the request ran.")


def fresh(error: FineryError) -> FineryError:
    """The same error without its traceback, which keeps alive whatever its frames had made, and grows when raised."""
    return FineryError(error.reason, error.message, detail=error.detail, **error.metadata)
