"""``finery jobs``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.quantizer.v1.quantizer_pb2 import ExportJob
from finery.trainer.v1.trainer_pb2 import TrainingJob
from finery_client.calls import Calls
from finery_client.cli.commands import CancelJob, JobsCommand, ListJobs, ShowJob, WatchJob
from finery_client.cli.job import watch_job
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.endpoints import Endpoint
from finery_client.follow import Follower
from finery_client.jobs import COLLECTIONS, ExportJobs, TrainingJobs, ended, jobs_of, service_of
from finery_client.results import ExportResult, TrainingResult
from finery_client.run import cancel_and_wait
from finery_client.sdk import Quiet
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.jobs.states import state_name

AnyJob = TrainingJob | ExportJob
T = TypeVar("T")


def run(arguments: JobsCommand, screen: Screen) -> int:
    """List, show, watch or cancel."""
    with Connection.from_env(screen.starting) as services:
        match arguments.command:
            case ListJobs(limit):
                _list(limit, services, screen)
            case ShowJob(name):
                job = _with_jobs(service_of(name), services, lambda jobs, _: jobs.get(name))
                screen.result(MessageToJson(job, preserving_proto_field_name=True, ensure_ascii=False))
            case WatchJob(name):
                job = _with_jobs(
                    service_of(name), services, lambda jobs, endpoint: _watch(jobs, name, endpoint, screen)
                )
                _outputs(job, screen)
            case CancelJob(name):
                _cancel(name, services, screen)
    return 0


def _with_jobs(service: str, services: Connection, use: Callable[[TrainingJobs | ExportJobs, Endpoint], T]) -> T:
    """Use the process that owns the jobs of a service; if it was another command's and ends meanwhile, the next one."""
    endpoint = services.owner(service)
    while True:
        try:
            with Calls(endpoint) as calls:
                return use(jobs_of(service, calls), endpoint)
        except FineryError as error:
            if error.reason is not Reason.SERVICE_UNAVAILABLE or (successor := services.owner(service)) == endpoint:
                raise
            endpoint = successor


def _list(limit: int, services: Connection, screen: Screen) -> None:
    if limit < 1:
        raise invalid("limit", f"{limit} is no number of jobs to show; --limit takes 1 or more.")
    found: list[AnyJob] = []
    for service in COLLECTIONS.values():
        found.extend(_with_jobs(service, services, lambda jobs, _: jobs.recent(limit)))
    found.sort(key=lambda job: job.status.create_time.ToNanoseconds(), reverse=True)
    if not found:
        screen.say("There are no jobs yet.")
        return
    screen.table(("job", "state", "progress", "model", "created", "output"), [_row(job) for job in found])


def _row(job: AnyJob) -> Sequence[str]:
    progress = job.status.progress
    done = f"{progress.phase} {progress.fraction:.0%}" if progress.phase else ""
    return (
        job.name,
        state_name(job.status.state),
        done,
        _model(job.spec.model) or (job.spec.ckpt_dir if isinstance(job, ExportJob) else ""),
        _time(job.status.create_time),
        _made(job) or job.status.error.message,
    )


def _watch(jobs: TrainingJobs | ExportJobs, name: str, endpoint: Endpoint, screen: Screen) -> AnyJob:
    if endpoint.private and not ended(job := jobs.get(name)):
        message = (
            f"{name} is {state_name(job.status.state)}, and there is no {endpoint.service} that could go on with it. "
            "Start the services with `finery up`: they do, and it can be watched then."
        )
        raise FineryError(Reason.SERVICE_UNAVAILABLE, message, job=name)
    if isinstance(jobs, TrainingJobs):
        return watch_job(jobs, name, endpoint, screen)
    return watch_job(jobs, name, endpoint, screen)


def _cancel(name: str, services: Connection, screen: Screen) -> None:
    def stop(jobs: TrainingJobs | ExportJobs, endpoint: Endpoint) -> AnyJob:
        follower = Follower(Quiet(None), endpoint.death)
        if isinstance(jobs, TrainingJobs):
            return cancel_and_wait(jobs, name, follower)
        return cancel_and_wait(jobs, name, follower)

    with screen.remarks.status(f"cancelling {name}"):
        job = _with_jobs(service_of(name), services, stop)
    screen.result(f"{name}: {state_name(job.status.state)}")


def _outputs(job: AnyJob, screen: Screen) -> None:
    if isinstance(job, TrainingJob):
        screen.result(f"best_model_checkpoint: {_made(job)}")
        return
    result = ExportResult.of(job)
    for what, path in (("merged", result.merged), ("quantized", result.quantized)):
        if path:
            screen.result(f"{what}: {path}")


def _made(job: AnyJob) -> str:
    if isinstance(job, TrainingJob):
        return TrainingResult.of(job).best_model_checkpoint
    return ExportResult.of(job).ckpt_dir


def _model(source: ModelSource) -> str:
    return source.model_type or source.model_id_or_path


def _time(stamp: Timestamp) -> str:
    return stamp.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
