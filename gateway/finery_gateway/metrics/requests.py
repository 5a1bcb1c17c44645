"""What is counted of requests.

A request is counted once, at its end; nothing is done per chunk. Model ids are labels only if a backend has told of
them, so that no client can invent a series; what was asked of an unknown model has the label "".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from finery_gateway.request_log import RequestRecord

_FIRST_TOKEN = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_INTER_TOKEN = (0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.08, 0.15, 0.3, 0.6, 1.0, 3.0)
_DURATION = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class RequestMetrics:
    """The requests of one gateway process; ``knows`` says whether a model id is one that some backend has."""

    def __init__(self, registry: CollectorRegistry, knows: Callable[[str], bool]) -> None:
        self._knows = knows
        self._requests = Counter(
            "finery_gateway_requests",
            "Requests that have ended.",
            ["model", "endpoint", "status"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "finery_gateway_requests_in_flight",
            "Requests that have begun and not ended.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._duration = Histogram(
            "finery_gateway_request_duration_seconds",
            "Time from a request to the end of its answer.",
            ["model", "endpoint"],
            buckets=_DURATION,
            registry=registry,
        )
        self._models = _ModelMetrics(registry)
        # Looking a series up by its labels costs more than counting.
        self._bound: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._series: dict[str, _ModelSeries] = {}

    def began(self) -> None:
        """Count a request in."""
        self._in_flight.inc()

    def ended(self, record: RequestRecord, endpoint: str) -> None:
        """Count it out, with all that its record has learnt. ``endpoint`` is its route's path."""
        self._in_flight.dec()
        model = record.model if self._knows(record.model) else ""
        key = (model, endpoint, record.status)
        bound = self._bound.get(key)
        if bound is None:
            requests = self._requests.labels(model, endpoint, str(record.status))
            bound = self._bound[key] = (requests, self._duration.labels(model, endpoint))
        bound[0].inc()
        bound[1].observe(record.elapsed())
        if not model:
            return
        series = self._series.get(model)
        if series is None:
            series = self._series[model] = self._models.series(model)
        series.count(record)


class _ModelMetrics:
    """What is counted by model alone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"finery_gateway_{name}", text, ["model"], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"finery_gateway_{name}", text, ["model"], buckets=buckets, registry=registry)

        self._first = histogram(
            "time_to_first_token_seconds",
            "Time from a request to the first piece of its answer, for streams.",
            _FIRST_TOKEN,
        )
        self._between = histogram(
            "inter_token_latency_seconds",
            "Time between two tokens of an answer, for streams: one observation a request, the mean of its tokens.",
            _INTER_TOKEN,
        )
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._generated = counter("generated_tokens", "Tokens of finished answers.")
        self._cached = counter("cached_tokens", "Tokens of prompts that an engine's prefix cache had.")
        self._moves = counter("moves", "Requests that were sent on to another backend, each time that they were.")
        self._left = counter("client_left", "Requests whose client left before the answer was complete.")

    def series(self, model: str) -> _ModelSeries:
        """One model's, found once."""
        return _ModelSeries(
            self._first.labels(model),
            self._between.labels(model),
            self._prompt.labels(model),
            self._generated.labels(model),
            self._cached.labels(model),
            self._moves.labels(model),
            self._left.labels(model),
        )


@dataclass(frozen=True)
class _ModelSeries:
    first: Histogram
    between: Histogram
    prompt: Counter
    generated: Counter
    cached: Counter
    moves: Counter
    left: Counter

    def count(self, record: RequestRecord) -> None:
        """Take one request in."""
        if record.first_seconds is not None:
            self.first.observe(record.first_seconds)
        between = record.inter_token_seconds()
        if between is not None:
            self.between.observe(between)
        if record.usage is not None:
            self.prompt.inc(record.usage.prompt_tokens)
            self.generated.inc(record.usage.completion_tokens)
            self.cached.inc(record.usage.cached_tokens)
        if record.moves:
            self.moves.inc(record.moves)
        if record.left:
            self.left.inc()
