"""``finery export``."""

from __future__ import annotations

from finery_client.arguments import ExportArguments
from finery_client.calls import Calls
from finery_client.cli.job import run_job
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.jobs import ExportJobs
from finery_client.results import ExportResult
from finery_client.specs import export_spec


def run(arguments: ExportArguments, screen: Screen) -> int:
    """Merge, quantize, follow the job, and end with the directories."""
    with Connection.from_env(screen.starting) as services:
        export(arguments, services, screen)
    return 0


def export(arguments: ExportArguments, services: Connection, screen: Screen) -> ExportResult:
    """Run the job through these services and show what came out."""
    spec = export_spec(arguments, services.here)
    endpoint = services.endpoint("quantizer")
    with Calls(endpoint) as calls:
        result = ExportResult.of(run_job(ExportJobs(calls), spec, endpoint, screen))
    screen.figures(result.figures)
    if result.merged:
        screen.result(f"merged: {result.merged}")
    if result.quantized:
        screen.result(f"quantized: {result.quantized}")
    return result
