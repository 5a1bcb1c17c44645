"""The errors that all engines share."""

from __future__ import annotations

from finery_shared.errors import FineryError, Reason


def engine_dead(detail: str = "") -> FineryError:
    """The engine died, or was shut down, while a request ran."""
    message = "The model's engine has ended. Unless it was deleted it is loaded again: try again in a moment."
    return FineryError(Reason.ENGINE_DEAD, message, detail=detail)
