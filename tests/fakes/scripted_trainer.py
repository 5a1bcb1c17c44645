"""A trainer whose jobs follow a script: real gRPC, no training.

Also a process: `python -m tests.fakes.scripted_trainer` takes FINERY_TRAINER_LISTEN and FINERY_TRAINER_ANNOUNCE as the
real one does; SCRIPTED_SECONDS is how long each of a job's five steps takes. With FINERY_TRAINER_MAX_RUNNING_JOBS=0
there is a job in the queue from before, which stays there.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery.jobs.v1.jobs_pb2 import JobEvent, JobHeartbeat, JobLogLine, JobMetrics, JobProgress, JobStatus
from finery.trainer.v1 import trainer_pb2 as proto
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server
from finery_shared.errors import FineryError, Reason
from finery_shared.home import announce, withdraw
from finery_shared.jobs.states import CANCELLED, FINAL, QUEUED, RUNNING, SUCCEEDED
from finery_shared.rpc import to_status
from finery_shared.rpc.options import SERVER_OPTIONS

STEPS = 5


class ScriptedTrainer(TrainerServiceServicer):
    """Keeps jobs and events in memory, which outlives the server that is put before it.

    ``drops`` are the numbers of events after which a watch breaks off, one for each watch; ``lost_replies`` is the
    number of creations whose reply gets lost; ``expired`` are tokens that are too old.
    """

    def __init__(self, step_seconds: float = 0.0, drops: list[int] | None = None, lost_replies: int = 0) -> None:
        self.step_seconds = step_seconds
        self.drops = drops or []
        self.lost_replies = lost_replies
        self.expired: set[str] = set()
        self.jobs: dict[str, proto.TrainingJob] = {}
        self.events: dict[str, list[JobEvent]] = {}
        self.tokens_seen: list[str] = []
        self.by_request: dict[str, str] = {}
        self.cancelled: set[str] = set()
        self._changed = threading.Condition()

    def CreateTrainingJob(
        self, request: proto.CreateTrainingJobRequest, context: Any
    ) -> proto.CreateTrainingJobResponse:
        if request.request_id not in self.by_request:
            name = f"trainingJobs/{len(self.jobs) + 1}"
            self.by_request[request.request_id] = name
            self.jobs[name] = proto.TrainingJob(name=name, spec=request.spec)
            self.events[name] = []
            threading.Thread(target=self._run, args=(name,), daemon=True).start()
        if self.lost_replies:
            self.lost_replies -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return proto.CreateTrainingJobResponse(training_job=self.jobs[self.by_request[request.request_id]])

    def GetTrainingJob(self, request: proto.GetTrainingJobRequest, context: Any) -> proto.GetTrainingJobResponse:
        return proto.GetTrainingJobResponse(training_job=self._job(request.name, context))

    def ListTrainingJobs(self, request: proto.ListTrainingJobsRequest, context: Any) -> proto.ListTrainingJobsResponse:
        return proto.ListTrainingJobsResponse(training_jobs=list(self.jobs.values())[::-1][: request.page_size])

    def CancelTrainingJob(
        self, request: proto.CancelTrainingJobRequest, context: Any
    ) -> proto.CancelTrainingJobResponse:
        job = self._job(request.name, context)
        self.cancelled.add(request.name)
        return proto.CancelTrainingJobResponse(training_job=job)

    def WatchTrainingJob(
        self, request: proto.WatchTrainingJobRequest, context: Any
    ) -> Iterator[proto.WatchTrainingJobResponse]:
        self._job(request.name, context)
        self.tokens_seen.append(request.resume_token)
        if request.resume_token in self.expired:
            context.abort_with_status(to_status(FineryError(Reason.RESUME_TOKEN_EXPIRED, "Watch again.")))
        events = self.events[request.name]
        position = int(request.resume_token or 0)
        drop_at = position + self.drops.pop(0) if self.drops else None
        yield proto.WatchTrainingJobResponse(
            event=JobEvent(resume_token=request.resume_token, heartbeat=JobHeartbeat())
        )
        while True:
            with self._changed:
                if len(events) == position:
                    self._changed.wait(timeout=1.0)
            while position < len(events):
                if position == drop_at:
                    context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
                event = events[position]
                position += 1
                yield proto.WatchTrainingJobResponse(event=event)
                if event.WhichOneof("payload") == "status" and event.status.state in FINAL:
                    return
            if not context.is_active():
                return

    def queue(self, name: str) -> None:
        """Have a job that never begins."""
        self.jobs[name] = proto.TrainingJob(name=name, status=JobStatus(state=QUEUED))
        self.events[name] = []

    def _job(self, name: str, context: Any) -> proto.TrainingJob:
        if name not in self.jobs:
            context.abort_with_status(to_status(FineryError(Reason.JOB_NOT_FOUND, f"There is no job {name}.")))
        return self.jobs[name]

    def _run(self, name: str) -> None:
        self._emit(name, status=JobStatus(state=RUNNING, attempt=1))
        for step in range(1, STEPS + 1):
            time.sleep(self.step_seconds)
            if name in self.cancelled:
                self._end(name, CANCELLED, last=f"file:///out/checkpoint-{step}")
                return
            self._emit(name, progress=JobProgress(phase="training", step=step, total=STEPS, fraction=step / STEPS))
            self._emit(name, metrics=JobMetrics(step=step, phase="train", values={"loss": 2.0 / step}))
        self._emit(name, log=JobLogLine(text="checked"))
        self._end(name, SUCCEEDED, last="file:///out/checkpoint-5", best="file:///out/best%20one/checkpoint-4")

    def _end(self, name: str, state: Any, *, last: str = "", best: str = "") -> None:
        output = proto.TrainingOutput(
            last_checkpoint=Artifact(uri=last), best_checkpoint=Artifact(uri=best or last), figures={"train_loss": 0.4}
        )
        job = self.jobs[name]
        job.status.state = state
        job.output.CopyFrom(output)
        self._emit(name, status=JobStatus(state=state, attempt=1))

    def _emit(self, name: str, **payload: Any) -> None:
        with self._changed:
            self.events[name].append(JobEvent(resume_token=str(len(self.events[name]) + 1), **payload))
            self._changed.notify_all()


def serve(trainer: ScriptedTrainer, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    """A started server and its address."""
    server = grpc.server(ThreadPoolExecutor(16), options=SERVER_OPTIONS)
    add_TrainerServiceServicer_to_server(trainer, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"


def main() -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    seconds = float(os.environ.get("SCRIPTED_SECONDS", "0.05"))
    trainer = ScriptedTrainer(seconds)
    if os.environ.get("FINERY_TRAINER_MAX_RUNNING_JOBS") == "0":
        trainer.queue("trainingJobs/1")
    server, address = serve(trainer, os.environ["FINERY_TRAINER_LISTEN"])
    path = Path(os.environ["FINERY_TRAINER_ANNOUNCE"])
    announce(path, "trainer", address)
    ended.wait()
    withdraw(path)
    server.stop(0.2).wait()


if __name__ == "__main__":
    main()
