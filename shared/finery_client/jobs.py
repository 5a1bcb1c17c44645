"""Training jobs and export jobs, seen as the same thing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from finery.jobs.v1.jobs_pb2 import JobEvent, JobStatus
from finery.quantizer.v1 import quantizer_pb2 as export
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceStub
from finery.trainer.v1 import trainer_pb2 as training
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceStub
from finery_client.calls import Calls
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.states import FINAL, QUEUED

Spec = TypeVar("Spec", contravariant=True)
J = TypeVar("J", bound="Job", covariant=True)
AnyJob = TypeVar("AnyJob", bound="Job")

_PAGE = 1000
"""Most jobs that a service lists in one answer."""

_LONGEST_QUEUE = 100
"""Newest jobs among which the ones ahead of another are looked for."""

COLLECTIONS = {"trainingJobs": "trainer", "exportJobs": "quantizer"}
"""The service that owns each kind of job, by the first part of the job's name."""


class Job(Protocol):
    """What jobs of both kinds have."""

    @property
    def name(self) -> str:
        """Resource name, for instance "trainingJobs/3f2a"."""

    @property
    def status(self) -> JobStatus:
        """How it goes."""


class Jobs(Protocol[Spec, J]):
    """The jobs of one service. Every method raises FineryError."""

    def create(self, spec: Spec, request_id: str) -> J:
        """Queue a job; the same ``request_id`` again gives the same job."""

    def get(self, name: str) -> J:
        """The job as it is now."""

    def recent(self, limit: int) -> Sequence[J]:
        """The newest ``limit`` jobs (1 or more), newest first."""

    def cancel(self, name: str) -> J:
        """Ask a job to stop."""

    def watch(self, name: str, resume_token: str, timeout: float) -> Iterator[JobEvent]:
        """Events after a token; ends after the final state, or with DEADLINE_EXCEEDED after ``timeout`` seconds."""


class TrainingJobs:
    """The trainer's jobs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = TrainerServiceStub(calls.channel)

    def create(self, spec: training.TrainingSpec, request_id: str) -> training.TrainingJob:
        """Queue a job."""
        request = training.CreateTrainingJobRequest(spec=spec, request_id=request_id)
        return self._calls.unary(self._stub.CreateTrainingJob, request).training_job

    def get(self, name: str) -> training.TrainingJob:
        """The job as it is now."""
        return self._calls.unary(self._stub.GetTrainingJob, training.GetTrainingJobRequest(name=name)).training_job

    def recent(self, limit: int) -> Sequence[training.TrainingJob]:
        """The newest jobs."""

        def page(size: int, token: str) -> tuple[Sequence[training.TrainingJob], str]:
            request = training.ListTrainingJobsRequest(page_size=size, page_token=token)
            response = self._calls.unary(self._stub.ListTrainingJobs, request)
            return response.training_jobs, response.next_page_token

        return _pages(limit, page)

    def cancel(self, name: str) -> training.TrainingJob:
        """Ask a job to stop."""
        request = training.CancelTrainingJobRequest(name=name)
        return self._calls.unary(self._stub.CancelTrainingJob, request).training_job

    def watch(self, name: str, resume_token: str, timeout: float) -> Iterator[JobEvent]:
        """Events after a token."""
        request = training.WatchTrainingJobRequest(name=name, resume_token=resume_token)
        for message in self._calls.stream(self._stub.WatchTrainingJob, request, timeout):
            yield message.event


class ExportJobs:
    """The quantizer's jobs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._stub = QuantizerServiceStub(calls.channel)

    def create(self, spec: export.ExportSpec, request_id: str) -> export.ExportJob:
        """Queue a job."""
        request = export.CreateExportJobRequest(spec=spec, request_id=request_id)
        return self._calls.unary(self._stub.CreateExportJob, request).export_job

    def get(self, name: str) -> export.ExportJob:
        """The job as it is now."""
        return self._calls.unary(self._stub.GetExportJob, export.GetExportJobRequest(name=name)).export_job

    def recent(self, limit: int) -> Sequence[export.ExportJob]:
        """The newest jobs."""

        def page(size: int, token: str) -> tuple[Sequence[export.ExportJob], str]:
            request = export.ListExportJobsRequest(page_size=size, page_token=token)
            response = self._calls.unary(self._stub.ListExportJobs, request)
            return response.export_jobs, response.next_page_token

        return _pages(limit, page)

    def cancel(self, name: str) -> export.ExportJob:
        """Ask a job to stop."""
        return self._calls.unary(self._stub.CancelExportJob, export.CancelExportJobRequest(name=name)).export_job

    def watch(self, name: str, resume_token: str, timeout: float) -> Iterator[JobEvent]:
        """Events after a token."""
        request = export.WatchExportJobRequest(name=name, resume_token=resume_token)
        for message in self._calls.stream(self._stub.WatchExportJob, request, timeout):
            yield message.event


def service_of(name: str) -> str:
    """The service that owns a job, told by its name. Raises JOB_NOT_FOUND for what is no job's name."""
    collection, slash, identifier = name.partition("/")
    if not slash or not identifier or collection not in COLLECTIONS:
        raise FineryError(
            Reason.JOB_NOT_FOUND,
            f"{name!r} is not a job's name, which looks like trainingJobs/ID or exportJobs/ID. "
            "`finery jobs list` shows all.",
        )
    return COLLECTIONS[collection]


def jobs_of(service: str, calls: Calls) -> TrainingJobs | ExportJobs:
    """The jobs of the trainer or the quantizer."""
    return TrainingJobs(calls) if service == "trainer" else ExportJobs(calls)


def ended(job: Job) -> bool:
    """Whether a job is in a final state."""
    return job.status.state in FINAL


def ahead(jobs: Jobs[Any, AnyJob], name: str) -> list[AnyJob]:
    """The jobs that a queued one waits for, oldest first; none if it is not queued any more."""
    # Jobs are taken in their order, so whatever is ahead of a new job is among the newest.
    newest = jobs.recent(_LONGEST_QUEUE)
    older = list(itertools.dropwhile(lambda job: job.name != name, newest))
    if not older or older[0].status.state != QUEUED:
        return []
    return [job for job in reversed(older[1:]) if not ended(job)]


def _pages(limit: int, page: Callable[[int, str], tuple[Sequence[AnyJob], str]]) -> list[AnyJob]:
    """Ask for pages, by their size and token, until there are ``limit`` jobs or no more."""
    found: list[AnyJob] = []
    token = ""
    while True:
        jobs, token = page(min(limit - len(found), _PAGE), token)
        found.extend(jobs)
        if len(found) >= limit or not token:
            return found
