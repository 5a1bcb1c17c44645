"""Paths that tell of the process; all others ask for something."""

from __future__ import annotations

METRICS = "/metrics"
_EXACT = frozenset({"/health", "/ready", METRICS, "/docs", "/docs/oauth2-redirect", "/openapi.json"})
_OF_THE_DOCUMENTATION = "/static-offline-docs/"


def tells_of_process(path: str) -> bool:
    """Whether anybody may ask for it, and it is not counted as a request."""
    return path in _EXACT or path.startswith(_OF_THE_DOCUMENTATION)
