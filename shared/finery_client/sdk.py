"""The commands as Python functions."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, Unpack

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery_client.arguments import ExportArguments, SftArguments
from finery_client.calls import Calls
from finery_client.connect import Connection
from finery_client.jobs import ExportJobs, TrainingJobs
from finery_client.options import ExportOptions, SftOptions
from finery_client.results import ExportResult, TrainingResult
from finery_client.run import run
from finery_client.specs import export_spec, training_spec
from finery_shared.errors import FineryError, invalid

A = TypeVar("A")

OnEvent = Callable[[JobEvent], None]
"""Called with each event of a job: its state, progress, metrics and log lines."""


def sft(
    *, on_event: OnEvent | None = None, connection: Connection | None = None, **options: Unpack[SftOptions]
) -> TrainingResult:
    """Fine-tune a chat model with LoRA and wait for the end. The arguments are `SftArguments`' fields.

    ``connection`` says which services to use; by default those that the environment names or `finery up` announced,
    else private ones for the duration of the call. Raises FineryError.
    """
    arguments = build(SftArguments, options)
    with connected(connection) as services:
        spec = training_spec(arguments, services.here)
        endpoint = services.endpoint("trainer")
        with Calls(endpoint) as calls:
            return TrainingResult.of(run(TrainingJobs(calls), spec, Quiet(on_event), endpoint))


def export(
    *, on_event: OnEvent | None = None, connection: Connection | None = None, **options: Unpack[ExportOptions]
) -> ExportResult:
    """Merge, quantize, or both, and wait for the end. The arguments are `ExportArguments`' fields; as `sft`."""
    arguments = build(ExportArguments, options)
    with connected(connection) as services:
        return run_export(arguments, services, on_event)


def run_export(arguments: ExportArguments, services: Connection, on_event: OnEvent | None = None) -> ExportResult:
    """`export` through these services."""
    spec = export_spec(arguments, services.here)
    endpoint = services.endpoint("quantizer")
    with Calls(endpoint) as calls:
        return ExportResult.of(run(ExportJobs(calls), spec, Quiet(on_event), endpoint))


def build(kind: type[A], options: Mapping[str, Any]) -> A:
    """The arguments of that kind. A single text stands for a list of one. Raises INVALID_ARGUMENT for other names."""
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            near = get_close_matches(name, fields, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise invalid(name, f"there is no such argument.{hint}")
        if isinstance(fields[name].default, tuple):
            value = (value,) if isinstance(value, str) else tuple(value)
        values[name] = value
    return kind(**values)


@contextlib.contextmanager
def connected(given: Connection | None) -> Iterator[Connection]:
    """The given connection, left open; or one of the environment, closed at the end."""
    if given is not None:
        yield given
        return
    with Connection.from_env() as own:
        yield own


class Quiet:
    """A listener that passes events on."""

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    def event(self, event: JobEvent) -> None:
        """Pass it on."""
        if self._on_event is not None:
            self._on_event(event)

    def lost(self, error: FineryError) -> None:
        """The follower goes on trying; it raises when it gives up."""

    def regained(self) -> None:
        """As before."""
