"""What a gRPC server counts of its calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


class CallMetrics:
    """Calls of the methods that a server has; others are not counted, so that no caller can invent a series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "finery_rpc_calls", "Calls that have ended, by gRPC status.", ["method", "code"], registry=registry
        )
        self._refusals = Counter(
            "finery_rpc_refusals",
            "Calls that ended with an error of Finery's catalog.",
            ["method", "reason"],
            registry=registry,
        )
        self._seconds = Histogram(
            "finery_rpc_call_duration_seconds",
            "Time from a call's start to its end; a stream's is its whole life.",
            ["method"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._streams = Gauge(
            "finery_rpc_streams_in_flight", "Streams that have begun and not ended.", ["method"], registry=registry
        )

    def stream_began(self, method: str) -> None:
        """Count a stream in."""
        self._streams.labels(method).inc()

    def stream_ended(self, method: str) -> None:
        """Count it out again."""
        self._streams.labels(method).dec()

    def ended(self, method: str, code: str, seconds: float) -> None:
        """Count a call that has ended."""
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(seconds)

    def refused(self, method: str, reason: str) -> None:
        """Count why a call was refused."""
        self._refusals.labels(method, reason).inc()
