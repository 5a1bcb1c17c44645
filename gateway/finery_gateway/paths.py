"""Paths that tell of the process; all others ask for something."""

from __future__ import annotations

METRICS = "/metrics"
OPEN_PATHS = frozenset({"/health", "/ready", METRICS, "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""What anybody may ask for, and what is not counted as a request."""
