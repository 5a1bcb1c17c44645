"""Figures for Prometheus: one registry a process, handed through constructors, and one way to show it."""

from finery_shared.metrics.endpoint import MetricsEndpoint
from finery_shared.metrics.exposition import METRICS_DIRECTORY, exposition, forget_process, shares_figures

__all__ = ["METRICS_DIRECTORY", "MetricsEndpoint", "exposition", "forget_process", "shares_figures"]
